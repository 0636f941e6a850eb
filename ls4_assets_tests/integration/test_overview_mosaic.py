"""The overview mosaic in database, bucket and map: incremental updates, failures, and the cost of reading the map."""

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
from ls4_assets.publishing.maps import map_format
from ls4_assets.publishing.rebuilds import pending_rebuilds
from ls4_assets.raster.overview_grid import Box
from ls4_assets_tests.integration.overview_fixtures import COLLECTION, MosaicArchive, mosaic_archive
from ls4_assets_tests.integration.serving_fixtures import IndexDatabase, index_database_fixture  # noqa: F401
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, photograph, read, rotated_rectangle
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server_fixture  # noqa: F401
from resources.archive import Archive

pytestmark = pytest.mark.timeout(300)

SIZE = 600
STEP = 420.0


@pytest.fixture
def home() -> Iterator[Path]:
    # Directly in the temporary directory: the user of the map server has no access to pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="ls4-test-overview-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="survey")
def survey_fixture(index_database: IndexDatabase, home: Path) -> Iterator[MosaicArchive]:
    """A survey of six frames in a folder, not rebuilt yet."""
    (home / "archive").mkdir()
    with mosaic_archive(index_database, home, str(home / "archive"), {}) as archive:
        add_frames(archive, 6)
        yield archive


def add_frames(survey: MosaicArchive, count: int, first: int = 0) -> None:
    mask = rotated_rectangle(SIZE, SIZE)
    for n in range(first, first + count):
        east, south = STEP * (n % 8), STEP * (n // 8)
        survey.put(f"02-08-60_6-{n}", east, south, landscape(east, south, n) * mask, mask)


def landscape(east: float, south: float, seed: int) -> Pixels:
    """Pixels of one smooth landscape, with a brightness and grain for each frame."""
    x, y = np.arange(SIZE) + east, np.arange(SIZE)[:, None] + south
    grain = np.random.default_rng(seed).normal(30 * (seed % 3), 4, (SIZE, SIZE))
    return (90 + 60 * np.sin(x / 300) * np.cos(y / 250) + grain).clip(1, 254).astype(np.uint8)[None]


def extent(count: int) -> Box:
    rows = -(-count // 8)
    return WEST - 50, NORTH - STEP * rows - 250, WEST + STEP * min(count, 8) + 250, NORTH + 50


def read_pixels(key: str, survey: MosaicArchive) -> bytes:
    return bytes(read(Path(survey.archive.storage.gdal_path(key))).tobytes())


def is_due(survey: MosaicArchive) -> bool:
    with survey.archive.database.begin() as connection:
        connection.execute(update(collection).values(files_revision=collection.c.index_revision))
        formats = exports_format(survey.archive.settings), map_format(survey.archive.settings)
        connection.execute(update(collection).values(map_revision=collection.c.index_revision, map_format=formats[1]))
        values = {"collection": COLLECTION.name, "revision": select(collection.c.index_revision).scalar_subquery()}
        connection.execute(insert(export_state).values(values).on_conflict_do_update(index_elements=["collection"], set_=values))
    due = pending_rebuilds(survey.archive.database, "http://maps.test/archive", served_root(survey.archive.storage), *formats)
    return [rebuild.collection for rebuild in due] == [COLLECTION]


# --- incremental updates


def test_incremental_update_equals_a_full_rebuild(survey: MosaicArchive) -> None:
    survey.rebuild()
    first = survey.row()
    assert first and (first["collection"], first["table_name"], first["frames"]) == (COLLECTION.name, COLLECTION.table, 6)
    metadata = survey.rebuild()
    assert metadata["overview_mosaic"] == "nothing to do"
    assert survey.row() == first

    replaced = survey.put("02-08-60_6-1", STEP, 30, photograph(SIZE, SIZE, seed=77))
    add_frames(survey, 1, first=40)  # far to the south
    metadata = survey.rebuild()
    second = survey.row()
    assert second and second["served_location"] != first["served_location"] and second["frames"] == 7
    assert 2 <= int(str(metadata["frames_read"])) < 7 or metadata["tiles_kept"] == 0
    survey.remove(replaced)
    survey.rebuild()
    assert len(survey.mosaics()) == 2, "the previous mosaic stays for its current readers"
    incremental = read_pixels(survey.state().key or "", survey)
    metadata = survey.rebuild(force=True)
    assert (metadata["tiles_kept"], metadata["frames_read"]) == (0, 6)
    assert read_pixels(survey.state().key or "", survey) == incremental


def test_next_run_completes_the_work_of_a_crashed_one(survey: MosaicArchive) -> None:
    """One run crashes after the change of the index, another after the upload of the mosaic."""
    survey.rebuild()
    survey.put("02-08-60_6-1", STEP, 0, np.full((1, SIZE, SIZE), 250, np.uint8))
    survey.index()
    assert is_due(survey)
    survey.archive.storage.put(COLLECTION.overview_mosaic_key("orphan"), b"from a crashed run")
    metadata = survey.rebuild()
    assert metadata["tiles_painted"] and not is_due(survey)
    assert COLLECTION.overview_mosaic_key("orphan") not in survey.mosaics()
    survey.publish()
    box = (WEST + STEP + 150, NORTH - 450, WEST + STEP + 450, NORTH - 150)
    assert (survey.map(box, 9)[..., 0] > 200).mean() > 0.3


def test_first_color_frame_of_a_gray_collection(survey: MosaicArchive) -> None:
    survey.rebuild()
    survey.put("11-30-60_7-1", 0, 600, np.full((3, SIZE, SIZE), 90, np.uint8))
    assert survey.rebuild()["tiles_kept"] == 0
    assert read(Path(survey.archive.storage.gdal_path(survey.state().key or ""))).shape[0] == 3


def test_mosaic_is_withdrawn_with_its_collection(survey: MosaicArchive) -> None:
    survey.rebuild()
    withdraw_overview_mosaic(survey.archive, COLLECTION, survey.state().revision)
    assert survey.row() is None and survey.mosaics() == []
    assert not is_due(survey)


# --- failures


def test_unreadable_frame_is_left_out_and_retried(survey: MosaicArchive) -> None:
    with survey.archive.database.connect() as connection:
        key = connection.scalar(text("SELECT served_key FROM ls4.frame WHERE id LIKE '%6-3'"))
    assert isinstance(key, str)
    good = survey.archive.storage.read(key)
    survey.archive.storage.put(key, b"corrupt")
    metadata = survey.rebuild()
    assert metadata["frames_left_out"] == 1 and key in str(metadata["left_out"])
    assert survey.row() and is_due(survey) and survey.state().attempts == 1

    survey.archive.storage.put(key, good)
    metadata = survey.rebuild()
    assert metadata["frames_left_out"] == 0 and not is_due(survey)
    repaired = read_pixels(survey.state().key or "", survey)
    survey.rebuild(force=True)
    assert read_pixels(survey.state().key or "", survey) == repaired

    survey.archive.storage.put(key, b"corrupt forever")
    survey.put("02-08-60_6-2", 2 * STEP, 0, photograph(SIZE, SIZE, seed=80))
    for _ in range(5):
        assert is_due(survey) or survey.rebuild()
        survey.rebuild()
    assert not is_due(survey), "no further attempt until the collection changes"


def test_failed_mosaic_does_not_block_the_map(survey: MosaicArchive) -> None:
    survey.rebuild()
    survey.publish()
    survey.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=99))
    survey.index()
    broken = Archive(overrides=survey.archive.overrides | {"work_dir": str(survey.home / "missing")})
    for attempt in (1, 2):
        metadata = dict(refresh_overview_mosaic(broken, COLLECTION).metadata or {})
        assert "FileNotFoundError" in str(metadata["not_built"]) and survey.row() is None
        assert survey.state().attempts == attempt and is_due(survey)
    frames = survey.map(extent(6), 12)
    assert (frames[..., 3] > 0).mean() > 0.3, "the existing mapfile shows frames"

    survey.rebuild()
    assert survey.row() and not is_due(survey)
    assert_similar(survey.map(extent(6), 12), frames)


def test_previous_mosaic_is_not_needed(survey: MosaicArchive) -> None:
    survey.rebuild()
    for key in survey.mosaics():
        survey.archive.storage.put(key, b"corrupt")
    survey.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=99))
    results = [survey.rebuild() for _ in range(3)]
    assert [bool(metadata.get("not_built")) for metadata in results] == [True, True, False]
    for key in survey.mosaics():
        survey.archive.storage.delete(key)
    survey.put("02-08-60_6-1", STEP, 0, photograph(SIZE, SIZE, seed=98))
    assert survey.rebuild()["frames_read"] == 6


def test_rebuild_after_three_crashes_skips_the_mosaic(survey: MosaicArchive) -> None:
    """The mosaic may have caused the crashes, and the map must be published anyway."""
    with survey.archive.database.begin() as connection:
        connection.execute(update(collection).values(attempts=4))
    assert "crashed" in str(survey.rebuild()["not_built"])
    with survey.archive.database.begin() as connection:
        connection.execute(update(collection).values(attempts=0))  # as publishing the map does
    assert survey.rebuild()["frames_read"] == 6


def test_large_collection_gets_its_map_first(survey: MosaicArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asset, "MAP_FIRST", 5)
    with survey.archive.database.begin() as connection:
        connection.execute(update(collection).values(published_at=None))
    assert "skipped until the map" in str(survey.rebuild()["overview_mosaic"])
    assert is_due(survey) and survey.row() is None
    with survey.archive.database.begin() as connection:
        connection.execute(update(collection).values(published_at=text("now()")))
    assert survey.rebuild()["frames_read"] == 6


# --- on the map


def assert_similar(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
    """Both images are equal except for grain and pixels at edges."""
    valid = (first[..., 3] > 0) & (second[..., 3] > 0)
    assert valid.mean() > 0.3
    assert ((first[..., 3] > 0) ^ (second[..., 3] > 0)).mean() < 0.05
    difference = first[..., :3][valid].astype(int) - second[..., :3][valid]
    assert abs(difference.mean()) < 1
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("resolution", [9.0, 14.0, 30.0])
def test_mosaic_and_frames_give_the_same_map(survey: MosaicArchive, resolution: float) -> None:
    """Without a mosaic the same mapfile shows the frames."""
    survey.rebuild()
    survey.publish()
    with_mosaic = survey.map(extent(6), resolution)
    with survey.archive.database.begin() as connection:
        connection.execute(text("DELETE FROM overview_mosaics"))
    assert_similar(with_mosaic, survey.map(extent(6), resolution))


def test_mosaic_is_used_from_its_own_scale_on(survey: MosaicArchive) -> None:
    """A white mosaic shows which scales use it."""
    survey.rebuild()
    survey.publish()
    row = survey.row()
    assert row
    pixel = float(str(row["resolution"]))
    white = survey.put("02-08-60_6-9", 0, 0, np.full((1, SIZE * 3, 2600), 255, np.uint8))
    with survey.archive.database.begin() as connection:
        served = survey.archive.storage.gdal_path(f"{white.served_folder}{survey.cog_count}.tif")
        connection.execute(text("UPDATE overview_mosaics SET served_location = :served"), {"served": served})
    box = (WEST + 100, NORTH - 500, WEST + 2100, NORTH - 100)

    def is_mosaic(pixels: NDArray[np.uint8]) -> bool:
        return bool((pixels[..., :3] == 255).all())

    assert is_mosaic(survey.map(box, pixel))
    assert is_mosaic(survey.map(box, pixel, VERSION="1.3.0", CRS="EPSG:3857"))
    assert not is_mosaic(survey.map(box, pixel / 2))
    assert not is_mosaic(survey.map(box, 1))
    # The same area in degrees: a screen pixel has the width of a mosaic pixel, or a third of it.
    west, north = -97.7355, 30.2815
    for share, expected in ((1.0, True), (0.33, False)):
        step = pixel * share / 111_319
        bbox = f"{north - 20 * step},{west},{north},{west + 40 * step}"
        pixels = survey.get_map(VERSION="1.3.0", CRS="EPSG:4326", LAYERS=COLLECTION.name, WIDTH="40", HEIGHT="20", BBOX=bbox)
        assert (pixels[..., 3] > 0).mean() > 0.3
        assert is_mosaic(pixels[pixels[..., 3] > 0][None]) == expected


def test_map_of_a_whole_collection_costs_the_same_for_any_number_of_frames(
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
    with mosaic_archive(index_database, home, bucket, options, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as survey:
        for count, added in ((4, 4), (32, 28)):
            add_frames(survey, added, first=count - added)
            assert survey.rebuild()["frames_left_out"] == 0
            survey.publish()
            with counted_requests() as with_mosaic:
                pixels = survey.map(extent(count), 20)
            assert (pixels[..., 3] > 0).mean() > 0.3
            requests[count] = len(with_mosaic)
        with survey.archive.database.begin() as connection:
            connection.execute(text("DELETE FROM overview_mosaics"))
        with counted_requests() as without_mosaic:
            survey.map(extent(32), 20)
    assert requests[32] <= requests[4] <= 4
    assert len(without_mosaic) >= 32


@contextmanager
def counted_requests() -> Iterator[list[str]]:
    """The requests to the moto server, from its log."""
    requests: list[str] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            requests.append(record.getMessage())

    log, counter = logging.getLogger("werkzeug"), Counter()
    level = log.level
    log.addHandler(counter)
    log.setLevel(logging.INFO)
    try:
        yield requests
    finally:
        log.removeHandler(counter)
        log.setLevel(level)
