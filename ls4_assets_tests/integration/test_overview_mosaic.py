"""The overview mosaic between database, bucket and map: kept up to date, never in the map's way, and much less to read."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.assets import overview_mosaic as asset
from ls4_assets.assets.overview_mosaic import refresh_overview_mosaic, withdraw_overview_mosaic
from ls4_assets.db.schema import collection, export_state
from ls4_assets.db.tile_index import served_root
from ls4_assets.publishing.exports import format_version as exports_format
from ls4_assets.publishing.rebuilds import due_collections
from ls4_assets.raster.overview_grid import Box
from ls4_assets_tests.integration.overview_fixtures import OF, Shelf, shelf
from ls4_assets_tests.integration.serving_fixtures import IndexDatabase, index_database_fixture  # noqa: F401
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, photograph, read, rotated_rectangle
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server_fixture  # noqa: F401
from resources.archive import Archive

pytestmark = pytest.mark.timeout(300)

SIZE = 600
STEP = 420.0


@pytest.fixture
def home() -> Iterator[Path]:
    # straight under the temporary directory: pytest's own folders are closed to the user that serves
    folder = Path(tempfile.mkdtemp(prefix="ls4-test-overview-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="flown")
def flown_fixture(index_database: IndexDatabase, home: Path) -> Iterator[Shelf]:
    """A folder with a survey of six frames, not rebuilt yet."""
    (home / "archive").mkdir()
    with shelf(index_database, home, str(home / "archive"), {}) as made:
        fly(made, 6)
        yield made


def fly(onto: Shelf, count: int, first: int = 0) -> None:
    mask = rotated_rectangle(SIZE, SIZE)
    for n in range(first, first + count):
        east, south = STEP * (n % 8), STEP * (n // 8)
        onto.put(f"02-08-60_6-{n}", east, south, ground(east, south, n) * mask, mask)


def ground(east: float, south: float, seed: int) -> Pixels:
    """The same smooth country for all frames, each a little lighter or darker, with grain."""
    x, y = np.arange(SIZE) + east, np.arange(SIZE)[:, None] + south
    grain = np.random.default_rng(seed).normal(30 * (seed % 3), 4, (SIZE, SIZE))
    return (90 + 60 * np.sin(x / 300) * np.cos(y / 250) + grain).clip(1, 254).astype(np.uint8)[None]


def extent(count: int) -> Box:
    rows = -(-count // 8)
    return WEST - 50, NORTH - STEP * rows - 250, WEST + STEP * min(count, 8) + 250, NORTH + 50


def pixels_of(key: str, onto: Shelf) -> bytes:
    return bytes(read(Path(onto.archive.storage.gdal_path(key))).tobytes())


def is_due(onto: Shelf) -> bool:
    with onto.archive.database.begin() as connection:
        connection.execute(update(collection).values(files_revision=collection.c.index_revision))
        connection.execute(update(collection).values(map_revision=collection.c.index_revision))
        values = {"collection": OF.name, "revision": select(collection.c.index_revision).scalar_subquery()}
        connection.execute(insert(export_state).values(values).on_conflict_do_update(index_elements=["collection"], set_=values))
    exports_version = exports_format(onto.archive.settings)
    due = due_collections(onto.archive.database, "http://maps.test/archive", served_root(onto.archive.storage), exports_version)
    return [one.collection for one in due] == [OF]


# --- kept up to date


def test_only_what_changed_is_painted_and_the_result_is_that_of_a_full_rebuild(flown: Shelf) -> None:
    flown.rebuild()
    first = flown.row()
    assert first and (first["collection"], first["table_name"], first["frames"]) == (OF.name, OF.table, 6)
    told = flown.rebuild()
    assert told["overview_mosaic"] == "nothing to do"
    assert flown.row() == first

    replaced = flown.put("02-08-60_6-1", STEP, 30, photograph(SIZE, SIZE, seed=77))
    fly(flown, 1, first=40)  # far to the south
    told = flown.rebuild()
    second = flown.row()
    assert second and second["served_location"] != first["served_location"] and second["frames"] == 7
    assert 2 <= int(str(told["frames_read"])) < 7 or told["tiles_kept"] == 0
    flown.remove(replaced)
    flown.rebuild()
    assert len(flown.mosaics()) == 2, "the one before stays for those who are reading it"
    touched_up = pixels_of(flown.state().key or "", flown)
    told = flown.rebuild(force=True)
    assert (told["tiles_kept"], told["frames_read"]) == (0, 6)
    assert pixels_of(flown.state().key or "", flown) == touched_up


def test_what_a_dead_run_left_is_made_up_for(flown: Shelf) -> None:
    """Killed after the index was changed, and once more after the mosaic was put: neither is known to the next run."""
    flown.rebuild()
    flown.put("02-08-60_6-1", STEP, 0, np.full((1, SIZE, SIZE), 250, np.uint8))
    flown.index()
    assert is_due(flown)
    flown.archive.storage.put(OF.overview_mosaic_key("orphan"), b"of a run that died")
    told = flown.rebuild()
    assert told["tiles_painted"] and not is_due(flown)
    assert OF.overview_mosaic_key("orphan") not in flown.mosaics()
    flown.publish()
    box = (WEST + STEP + 150, NORTH - 450, WEST + STEP + 450, NORTH - 150)
    assert (flown.map(box, 9)[..., 0] > 200).mean() > 0.3


def test_colours_come_into_a_grey_collection(flown: Shelf) -> None:
    flown.rebuild()
    flown.put("11-30-60_7-1", 0, 600, np.full((3, SIZE, SIZE), 90, np.uint8))
    assert flown.rebuild()["tiles_kept"] == 0
    assert read(Path(flown.archive.storage.gdal_path(flown.state().key or ""))).shape[0] == 3


def test_withdrawn_with_its_collection(flown: Shelf) -> None:
    flown.rebuild()
    withdraw_overview_mosaic(flown.archive, OF, flown.state().revision)
    assert flown.row() is None and flown.mosaics() == []
    assert not is_due(flown)


# --- never in the map's way


def test_a_frame_that_cannot_be_read_is_left_out_and_tried_again(flown: Shelf) -> None:
    with flown.archive.database.connect() as connection:
        key = connection.scalar(text("SELECT served_key FROM ls4.frame WHERE id LIKE '%6-3'"))
    assert isinstance(key, str)
    good = flown.archive.storage.read(key)
    flown.archive.storage.put(key, b"torn")
    told = flown.rebuild()
    assert told["frames_left_out"] == 1 and key in str(told["left_out"])
    assert flown.row() and is_due(flown) and flown.state().attempts == 1

    flown.archive.storage.put(key, good)
    told = flown.rebuild()
    assert told["frames_left_out"] == 0 and not is_due(flown)
    healed = pixels_of(flown.state().key or "", flown)
    flown.rebuild(force=True)
    assert pixels_of(flown.state().key or "", flown) == healed

    flown.archive.storage.put(key, b"torn for good")
    flown.put("02-08-60_6-2", 2 * STEP, 0, photograph(SIZE, SIZE, seed=80))
    for _ in range(5):
        assert is_due(flown) or flown.rebuild()
        flown.rebuild()
    assert not is_due(flown), "given up until the collection changes"


def test_a_mosaic_that_cannot_be_made_withholds_nothing_and_heals(flown: Shelf) -> None:
    flown.rebuild()
    flown.publish()
    flown.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=99))
    flown.index()
    no_room = Archive(overrides=flown.archive.overrides | {"work_dir": str(flown.home / "not-there")})
    for attempt in (1, 2):
        told = dict(refresh_overview_mosaic(no_room, OF).metadata or {})
        assert "FileNotFoundError" in str(told["not_made"]) and flown.row() is None
        assert flown.state().attempts == attempt and is_due(flown)
    seen = flown.map(extent(6), 12)
    assert (seen[..., 3] > 0).mean() > 0.3, "frames, by the mapfile that is there"

    flown.rebuild()
    assert flown.row() and not is_due(flown)
    assert_alike(flown.map(extent(6), 12), seen)


def test_the_mosaic_before_is_not_needed(flown: Shelf) -> None:
    flown.rebuild()
    for key in flown.mosaics():
        flown.archive.storage.put(key, b"torn")
    flown.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=99))
    told = [flown.rebuild() for _ in range(3)]
    assert [bool(one.get("not_made")) for one in told] == [True, True, False]
    for key in flown.mosaics():
        flown.archive.storage.delete(key)
    flown.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=98))
    assert flown.rebuild()["frames_read"] == 6


def test_a_rebuild_that_follows_three_dead_ones_leaves_it_out(flown: Shelf) -> None:
    """It may be the mosaic that kills them, and the map must get through."""
    with flown.archive.database.begin() as connection:
        connection.execute(update(collection).values(attempts=4))
    assert "died" in str(flown.rebuild()["not_made"])
    with flown.archive.database.begin() as connection:
        connection.execute(update(collection).values(attempts=0))  # as the map's publication does
    assert flown.rebuild()["frames_read"] == 6


def test_a_large_collection_gets_its_map_first(flown: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asset, "MAP_FIRST", 5)
    with flown.archive.database.begin() as connection:
        connection.execute(update(collection).values(published_at=None))
    assert "comes first" in str(flown.rebuild()["overview_mosaic"])
    assert is_due(flown) and flown.row() is None
    with flown.archive.database.begin() as connection:
        connection.execute(update(collection).values(published_at=text("now()")))
    assert flown.rebuild()["frames_read"] == 6


# --- on the map


def assert_alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """The same picture, but for grain and for the pixels at edges."""
    valid = (one[..., 3] > 0) & (other[..., 3] > 0)
    assert valid.mean() > 0.3
    assert ((one[..., 3] > 0) ^ (other[..., 3] > 0)).mean() < 0.05
    difference = one[..., :3][valid].astype(int) - other[..., :3][valid]
    assert abs(difference.mean()) < 1
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("resolution", [9.0, 14.0, 30.0])
def test_mosaic_and_frames_give_the_same_map(flown: Shelf, resolution: float) -> None:
    """Also with the same mapfile: while there is no mosaic it shows the frames."""
    flown.rebuild()
    flown.publish()
    with_mosaic = flown.map(extent(6), resolution)
    with flown.archive.database.begin() as connection:
        connection.execute(text("DELETE FROM overview_mosaics"))
    assert_alike(with_mosaic, flown.map(extent(6), resolution))


def test_it_is_read_from_its_own_scale_on_and_not_before(flown: Shelf) -> None:
    """Seen by a mosaic that is wrong on purpose: all of it is white."""
    flown.rebuild()
    flown.publish()
    row = flown.row()
    assert row
    pixel = float(str(row["resolution"]))
    white = flown.put("02-08-60_6-9", 0, 0, np.full((1, SIZE * 3, 2600), 255, np.uint8))
    with flown.archive.database.begin() as connection:
        served = flown.archive.storage.gdal_path(f"{white.served_folder}{flown.written}.tif")
        connection.execute(text("UPDATE overview_mosaics SET served_location = :served"), {"served": served})
    box = (WEST + 100, NORTH - 500, WEST + 2100, NORTH - 100)

    def is_mosaic(seen: NDArray[np.uint8]) -> bool:
        return bool((seen[..., :3] == 255).all())

    assert is_mosaic(flown.map(box, pixel))
    assert is_mosaic(flown.map(box, pixel, VERSION="1.3.0", CRS="EPSG:3857"))
    assert not is_mosaic(flown.map(box, pixel / 2))
    assert not is_mosaic(flown.map(box, 1))
    # The same ground in degrees: a screen's pixel is as wide as the mosaic's, or a third of that.
    west, north = -97.7355, 30.2815
    for share, expected in ((1.0, True), (0.33, False)):
        step = pixel * share / 111_319
        bbox = f"{north - 20 * step},{west},{north},{west + 40 * step}"
        seen = flown.get_map(VERSION="1.3.0", CRS="EPSG:4326", LAYERS=OF.name, WIDTH="40", HEIGHT="20", BBOX=bbox)
        assert (seen[..., 3] > 0).mean() > 0.3
        assert is_mosaic(seen[seen[..., 3] > 0][None]) == expected


def test_reading_a_whole_collection_costs_the_same_however_many_frames_it_has(
    index_database: IndexDatabase, home: Path, s3_server: Callable[[str], S3Server]
) -> None:
    server = s3_server("moto")
    bucket = f"s3://{server.new_bucket().bucket}"
    options = {
        "AWS_S3_ENDPOINT": urlsplit(server.endpoint_url).netloc,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    requests: dict[int, int] = {}
    with shelf(index_database, home, bucket, options, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as shelved:
        for count, more in ((4, 4), (32, 28)):
            fly(shelved, more, first=count - more)
            assert shelved.rebuild()["frames_left_out"] == 0
            shelved.publish()
            with counted_requests() as seen:
                pixels = shelved.map(extent(count), 20)
            assert (pixels[..., 3] > 0).mean() > 0.3
            requests[count] = len(seen)
        with shelved.archive.database.begin() as connection:
            connection.execute(text("DELETE FROM overview_mosaics"))
        with counted_requests() as by_frames:
            shelved.map(extent(32), 20)
    assert requests[32] <= requests[4] <= 4
    assert len(by_frames) >= 32


@contextmanager
def counted_requests() -> Iterator[list[str]]:
    """What moto's server is asked for, as it writes it down itself."""
    seen: list[str] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    log, counter = logging.getLogger("werkzeug"), Counter()
    level = log.level
    log.addHandler(counter)
    log.setLevel(logging.INFO)
    try:
        yield seen
    finally:
        log.removeHandler(counter)
        log.setLevel(level)
