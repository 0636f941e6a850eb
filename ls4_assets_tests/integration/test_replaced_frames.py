"""A replaced frame: the map switches to a COG under a new key, then the public COG is replaced and old copies are deleted."""

from pathlib import Path
from time import sleep

import dagster as dg
import pytest
from affine import Affine
from sqlalchemy import text

from ls4_assets.db import tile_index
from ls4_assets.domain.names import Collection
from ls4_assets.local.postgres import Cluster
from ls4_assets.publishing.obsolete import remove_obsolete
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
COLLECTION = Collection("Travis", "USDA_1958", "frames")
FRAME = frame_of(KEY)


def photo(folder: Path, seed: int, east: float = 0, side: int = 200) -> bytes:
    transform = Affine(1, 0, -10_880_000.0 + east, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(side, side, 1, seed), transform=transform).read_bytes()


def served_location(platform: Platform) -> str:
    (row,) = platform.rows("SELECT served_location FROM travis_usda_1958_frames")
    return str(row["served_location"])


def served_copies(platform: Platform) -> list[str]:
    return [platform.storage.gdal_path(stored.key) for stored in platform.storage.list(FRAME.served_folder)]


def test_map_reads_a_new_key_before_the_public_cog_is_replaced(platform: Platform, tmp_path: Path) -> None:
    """A map server mixed its cached blocks with those of the COG that had replaced them."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    first = platform.storage.read(FRAME.cog_key)
    assert served_location(platform) == platform.storage.gdal_path(FRAME.cog_key)
    platform.drop(KEY, photo(tmp_path, 2))
    platform.ingest()
    # The frame is processed but not indexed yet: the COG on the map is unchanged.
    assert platform.storage.read(FRAME.cog_key) == first
    platform.rebuild()
    assert served_location(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert served_copies(platform) == [served_location(platform)]
    assert platform.storage.read(FRAME.cog_key) == Path(served_location(platform)).read_bytes() != first


def test_frame_replaced_twice_has_one_served_copy(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    assert served_copies(platform) == [served_location(platform)]
    assert platform.storage.read(FRAME.cog_key) == Path(served_location(platform)).read_bytes()


def test_deleted_frame_that_comes_back_gets_a_new_key(platform: Platform, tmp_path: Path) -> None:
    """Deleted and dropped again with other pixels, the frame got the key that map servers had cached."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    assert platform.storage.head(FRAME.cog_key) is None
    platform.drop(KEY, photo(tmp_path, 2))
    platform.settle()
    assert served_location(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert platform.storage.read(FRAME.cog_key) == Path(served_location(platform)).read_bytes()


def test_frame_that_comes_back_with_another_spelling_gets_a_new_key(platform: Platform, tmp_path: Path) -> None:
    """x.tif was deleted and x.TIF dropped: the version count restarted at one, and the COG got the previous key."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    platform.drop(KEY.replace(".tif", ".TIF"), photo(tmp_path, 2))
    platform.settle()
    assert served_location(platform) != platform.storage.gdal_path(FRAME.cog_key)


def test_existing_cog_is_not_overwritten_while_a_map_may_read_it(platform: Platform, tmp_path: Path) -> None:
    """The COG of the former system, which its map still read, was overwritten under running map servers."""
    platform.storage.put(FRAME.cog_key, b"of the former system")
    platform.drop(KEY, photo(tmp_path, 1))
    platform.ingest()
    assert platform.storage.read(FRAME.cog_key) == b"of the former system"
    platform.rebuild()
    assert served_location(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert platform.storage.read(FRAME.cog_key) == Path(served_location(platform)).read_bytes()


def test_deleting_a_replaced_frame_deletes_its_copies(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    assert not list(platform.storage.list("derived/Travis_USDA_1958_frames/served/"))
    assert platform.storage.head(FRAME.cog_key) is None


def test_next_rebuild_replaces_a_public_cog_after_a_crash(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    old = b"the COG before the crash"
    platform.storage.put(FRAME.cog_key, old)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET public_version = 'older'"))
        connection.execute(text("UPDATE ls4.collection SET map_revision = map_revision - 1"))
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.read(FRAME.cog_key) == Path(served_location(platform)).read_bytes() != old
    assert remove_obsolete(platform.archive, COLLECTION) == []


def test_public_cog_is_replaced_after_the_reader_grace_period(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("ls4_assets.publishing.obsolete.sleep", waits.append)
    configured = platform.with_settings(reader_grace_seconds="30")
    configured.drop(KEY, photo(tmp_path, 1))
    configured.settle()
    assert waits == []
    configured.drop(KEY, photo(tmp_path, 2))
    configured.settle()
    assert 5 < sum(waits) <= 30


def test_reader_grace_period_delays_no_other_change_of_the_collection(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two frames replaced within a minute, the second was on the map only after the readers of the first were done."""
    other, patient = f"{FOLDER}/02-08-60_6-108.tif", platform.with_settings(reader_grace_seconds="3600")
    for key in (KEY, other):
        patient.drop(key, photo(tmp_path, 1))
    patient.settle()
    first = platform.storage.read(FRAME.cog_key)
    waits: list[float] = []

    def replace_other_frame(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            patient.drop(other, photo(tmp_path, 3))
            patient.ingest()

    monkeypatch.setattr("ls4_assets.publishing.obsolete.sleep", replace_other_frame)
    patient.drop(KEY, photo(tmp_path, 2))
    patient.ingest()
    assert [run.success for run in patient.rebuild()] == [True]
    assert len(waits) == 2
    assert platform.storage.read(FRAME.cog_key) == first
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.read(FRAME.cog_key) != first


def test_products_of_a_deleted_frame_stay_for_its_readers(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of a collection waited for the readers of a deleted frame: zoomed out, it showed the frame until then."""
    patient = platform.with_settings(reader_grace_seconds="30")
    other = f"{FOLDER}/02-08-60_6-108.tif"
    for key in (KEY, other):
        patient.drop(key, photo(tmp_path, 1))
    patient.settle()
    states: list[tuple[bool, list[dict[str, object]]]] = []
    unpublished = "SELECT name FROM ls4.collection JOIN ls4.overview_mosaic ON name = collection WHERE revision <> index_revision"

    def observe(seconds: float) -> None:
        states.append((platform.storage.head(FRAME.cog_key) is not None, platform.rows(unpublished)))

    monkeypatch.setattr("ls4_assets.publishing.obsolete.sleep", observe)
    platform.storage.delete(KEY)
    patient.settle()
    assert states
    assert all(state == (True, []) for state in states)
    assert platform.storage.head(FRAME.cog_key) is None


def test_rematerialized_cog_does_not_overwrite_the_served_one(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    written = platform.storage.head(FRAME.cog_key)
    assert platform.run([dg.AssetKey(["Travis", "cog"])], partition_key=FRAME.partition).success
    assert platform.storage.head(FRAME.cog_key) == written
    platform.rebuild()
    assert platform.storage.head(FRAME.cog_key) != written


STORED = "SELECT frames, film_types, ST_AsText(ST_Normalize(outline)) AS outline FROM ls4.collection"
COUNTED = (
    "SELECT count(*)::int AS frames, array_agg(DISTINCT band) AS film_types, "
    "ST_AsText(ST_Normalize(ST_ConvexHull(ST_Collect(geom)))) AS outline FROM travis_usda_1958_frames"
)


def test_extended_summary_equals_the_counted_summary(platform: Platform, tmp_path: Path) -> None:
    """Added frames extend the summary in the collection's row, which must equal the summary of the whole table."""
    for number, key in enumerate((KEY, f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif")):
        platform.drop(key, photo(tmp_path, number, east=150.0 * number))
        platform.settle()
        assert platform.rows(STORED) == platform.rows(COUNTED)
    platform.drop(KEY, photo(tmp_path, 8, side=120))
    platform.settle()
    platform.storage.delete(f"{FOLDER}/02-08-60_6-109.tif")
    platform.settle()
    (row,) = platform.rows(STORED)
    assert (row["frames"], row["film_types"]) == (2, ["bw"])
    assert platform.rows(STORED) == platform.rows(COUNTED)
    with platform.database.connect() as connection:
        extent = tile_index.load_extent(connection, COLLECTION)
    (sides,) = platform.rows(
        "SELECT ST_XMin(b), ST_YMin(b), ST_XMax(b), ST_YMax(b) FROM "
        "(SELECT ST_Extent(geom) AS b FROM travis_usda_1958_frames) AS whole"
    )
    assert extent == tuple(sides.values())


def test_frame_deleted_before_it_is_indexed_does_not_extend_the_map(platform: Platform, tmp_path: Path) -> None:
    """The extent of a map covered empty land: the position of a misplaced frame that was deleted at once."""
    kept, misplaced = f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif"
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.drop(kept, photo(tmp_path, 2, east=150.0))
    platform.drop(misplaced, photo(tmp_path, 3, east=5000.0))
    platform.ingest()
    platform.storage.delete(misplaced)
    platform.ingest()
    assert platform.rows("SELECT deleted FROM ls4.frame WHERE id LIKE '%109'") == [{"deleted": True}]
    platform.rebuild()
    assert platform.rows(STORED) == platform.rows(COUNTED)


def test_collection_that_comes_back_gets_a_greater_revision(platform: Platform, tmp_path: Path) -> None:
    """Browsers cache the tiles of a revision for a year: a collection dropped again after its withdrawal showed old tiles."""
    query = "SELECT index_revision FROM ls4.collection"
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    (first,) = platform.rows(query)
    platform.storage.delete(KEY)
    platform.settle()
    platform.rebuild()
    assert platform.rows(query) == []
    sleep(1)
    platform.drop(KEY, photo(tmp_path, 2))
    platform.settle()
    (second,) = platform.rows(query)
    assert int(str(second["index_revision"])) > int(str(first["index_revision"]))


def test_moved_archive_is_served_from_its_new_folder(platform: Platform, tmp_path: Path) -> None:
    """After a move to a larger disk every row still had paths of the old one, and the map was empty."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    old = Path(platform.settings.storage)
    new = old.rename(tmp_path / "larger-disk")
    moved = platform.with_settings(storage=str(new))
    moved.settle()
    assert served_location(moved) == str(new / FRAME.cog_key)


def test_rows_are_renamed_when_the_bucket_changes(platform: Platform, tmp_path: Path) -> None:
    """After a change of LS4_LEGACY_BUCKET every replaced frame had two rows, and deleted frames kept theirs."""
    keys = [KEY, f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif"]
    rows = "SELECT oid, location, source_version FROM travis_usda_1958_frames ORDER BY oid"
    for number, key in enumerate(keys):
        platform.drop(key, photo(tmp_path, number, east=150.0 * number))
    platform.settle()
    before = platform.rows(rows)
    # The state that such a change used to leave: two rows of the first frame.
    with platform.database.begin() as connection:
        table, columns = f"public.{COLLECTION.table}", "src_srs, band, served_location, source_version, profile_hash, geom"
        duplicate = f"SELECT replace(location, '/ls4/', '/other/'), {columns} FROM {table} ORDER BY oid LIMIT 1"
        connection.execute(text(f"INSERT INTO {table} (location, {columns}) {duplicate}"))
    renamed = platform.with_settings(legacy_bucket="other")
    renamed.drop(keys[0], photo(tmp_path, 8))
    renamed.storage.delete(keys[2])
    renamed.settle()
    after = renamed.rows(rows)
    assert [(row["oid"], row["location"]) for row in after] == [
        (row["oid"], str(row["location"]).replace("/ls4/", "/other/")) for row in before[:2]
    ]
    assert [old["source_version"] == new["source_version"] for old, new in zip(before, after, strict=False)] == [False, True]
    assert renamed.rows(STORED) == renamed.rows(COUNTED)


def test_map_server_can_read_the_statewide_views_only(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    with platform.database.begin() as connection:
        for view in ("archive_collections", "archive_frames", "travis_usda_1958_frames"):
            privileges = (
                "SELECT has_table_privilege('mapserver', :view, 'SELECT'), has_table_privilege('mapserver', :view, 'INSERT')"
            )
            assert tuple(connection.execute(text(privileges), {"view": f"public.{view}"}).one()) == (True, False)
        has_usage = connection.scalar(text("SELECT has_schema_privilege('mapserver', 'ls4', 'USAGE')"))
        assert has_usage is False
    (collection,) = platform.rows("SELECT name, title, agency, year, frames, bands FROM archive_collections")
    assert collection == {
        "name": "Travis_USDA_1958_frames", "title": "Travis Usda 1958 Frames", "agency": "USDA", "year": 1958,
        "frames": 1, "bands": "bw",
    }  # fmt: skip
    (frame,) = platform.rows("SELECT collection, year, served_location FROM archive_frames")
    assert frame == {"collection": COLLECTION.name, "year": 1958, "served_location": served_location(platform)}
