"""A replaced frame: the map changes over to a COG of its own key, the public COG follows, and nothing is left behind."""

from pathlib import Path
from time import sleep

import dagster as dg
import pytest
from affine import Affine
from sqlalchemy import text

from ls4_assets.db import tile_index
from ls4_assets.domain.names import Collection
from ls4_assets.local.postgres import Cluster
from ls4_assets.publishing.public_cogs import publish_cogs
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
COLLECTION = Collection("Travis", "USDA_1958", "frames")
FRAME = frame_of(KEY)


def photo(folder: Path, seed: int, east: float = 0, side: int = 200) -> bytes:
    place = Affine(1, 0, -10_880_000.0 + east, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(side, side, 1, seed), transform=place).read_bytes()


def served(platform: Platform) -> str:
    (row,) = platform.rows("SELECT served_location FROM travis_usda_1958_frames")
    return str(row["served_location"])


def served_copies(platform: Platform) -> list[str]:
    return [platform.storage.gdal_path(found.key) for found in platform.storage.list(FRAME.served_folder)]


def test_the_map_reads_a_new_key_and_the_public_cog_follows(platform: Platform, tmp_path: Path) -> None:
    """A warm map server mixed the blocks it knew with those of the COG that was written over them."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    first = platform.storage.read(FRAME.cog_key)
    assert served(platform) == platform.storage.gdal_path(FRAME.cog_key)
    platform.drop(KEY, photo(tmp_path, 2))
    platform.look()
    # The frame is made, the index not yet changed over: what the map reads is untouched.
    assert platform.storage.read(FRAME.cog_key) == first
    platform.rebuild()
    assert served(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert served_copies(platform) == [served(platform)]
    assert platform.storage.read(FRAME.cog_key) == Path(served(platform)).read_bytes() != first


def test_a_frame_replaced_twice_leaves_one_served_copy(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    assert served_copies(platform) == [served(platform)]
    assert platform.storage.read(FRAME.cog_key) == Path(served(platform)).read_bytes()


def test_a_frame_that_was_deleted_and_comes_again_gets_a_new_key(platform: Platform, tmp_path: Path) -> None:
    """Deleted and dropped anew with other pixels, the frame came back under the key that warm map servers remembered."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    assert platform.storage.head(FRAME.cog_key) is None
    platform.drop(KEY, photo(tmp_path, 2))
    platform.settle()
    assert served(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert platform.storage.read(FRAME.cog_key) == Path(served(platform)).read_bytes()


def test_a_frame_that_comes_again_spelled_otherwise_gets_a_new_key(platform: Platform, tmp_path: Path) -> None:
    """x.tif was deleted and x.TIF dropped: versions were counted from one again, and the COG had the key of the one before."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    platform.drop(KEY.replace(".tif", ".TIF"), photo(tmp_path, 2))
    platform.settle()
    assert served(platform) != platform.storage.gdal_path(FRAME.cog_key)


def test_a_cog_from_before_is_not_written_over_while_a_map_may_read_it(platform: Platform, tmp_path: Path) -> None:
    """The COG of an archive's former system, which its map still read, was written over block by block under warm map servers."""
    platform.storage.put(FRAME.cog_key, b"the former system's")
    platform.drop(KEY, photo(tmp_path, 1))
    platform.look()
    assert platform.storage.read(FRAME.cog_key) == b"the former system's"
    platform.rebuild()
    assert served(platform) != platform.storage.gdal_path(FRAME.cog_key)
    assert platform.storage.read(FRAME.cog_key) == Path(served(platform)).read_bytes()


def test_deleting_a_replaced_frame_removes_its_copies_too(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    assert not list(platform.storage.list("derived/Travis_USDA_1958_frames/served/"))
    assert platform.storage.head(FRAME.cog_key) is None


def test_a_public_cog_that_a_crash_left_behind_follows_with_the_next_rebuild(platform: Platform, tmp_path: Path) -> None:
    for seed in (1, 2):
        platform.drop(KEY, photo(tmp_path, seed))
        platform.settle()
    old = b"the COG before the crash"
    platform.storage.put(FRAME.cog_key, old)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET public_version = 'older'"))
        connection.execute(text("UPDATE ls4.collection SET map_revision = map_revision - 1"))
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.read(FRAME.cog_key) == Path(served(platform)).read_bytes() != old
    assert publish_cogs(platform.archive, COLLECTION) == []


def test_the_readers_of_an_old_cog_are_waited_for(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("ls4_assets.publishing.public_cogs.sleep", waits.append)
    patient = platform.with_settings(reader_grace_seconds="30")
    patient.drop(KEY, photo(tmp_path, 1))
    patient.settle()
    assert waits == []
    patient.drop(KEY, photo(tmp_path, 2))
    patient.settle()
    assert len(waits) == 1
    assert 5 < waits[0] <= 30


def test_a_remade_cog_is_not_written_over_the_one_that_is_served(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    written = platform.storage.head(FRAME.cog_key)
    assert platform.run([dg.AssetKey(["Travis", "cog"])], partition_key=FRAME.partition).success
    assert platform.storage.head(FRAME.cog_key) == written
    platform.rebuild()
    assert platform.storage.head(FRAME.cog_key) != written


STORED = "SELECT frames, bands, ST_AsText(ST_Normalize(outline)) AS outline FROM ls4.collection"
COUNTED = (
    "SELECT count(*)::int AS frames, array_agg(DISTINCT band) AS bands, "
    "ST_AsText(ST_Normalize(ST_ConvexHull(ST_Collect(geom)))) AS outline FROM travis_usda_1958_frames"
)


def test_the_collections_summary_is_the_same_grown_and_counted(platform: Platform, tmp_path: Path) -> None:
    """Frames are added one by one to what the collection's row says; it must say what the whole table says."""
    for number, key in enumerate((KEY, f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif")):
        platform.drop(key, photo(tmp_path, number, east=150.0 * number))
        platform.settle()
        assert platform.rows(STORED) == platform.rows(COUNTED)
    platform.drop(KEY, photo(tmp_path, 8, side=120))
    platform.settle()
    platform.storage.delete(f"{FOLDER}/02-08-60_6-109.tif")
    platform.settle()
    (row,) = platform.rows(STORED)
    assert (row["frames"], row["bands"]) == (2, ["bw"])
    assert platform.rows(STORED) == platform.rows(COUNTED)
    with platform.database.connect() as connection:
        extent = tile_index.extent(connection, COLLECTION)
    (sides,) = platform.rows(
        "SELECT ST_XMin(b), ST_YMin(b), ST_XMax(b), ST_YMax(b) FROM "
        "(SELECT ST_Extent(geom) AS b FROM travis_usda_1958_frames) AS whole"
    )
    assert extent == tuple(sides.values())


def test_a_frame_that_goes_before_it_is_ever_indexed_leaves_no_trace_in_the_extent(platform: Platform, tmp_path: Path) -> None:
    """The map of a collection reached over empty land, where a misplaced frame had lain that was deleted at once."""
    stays, misplaced = f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif"
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    platform.drop(stays, photo(tmp_path, 2, east=150.0))
    platform.drop(misplaced, photo(tmp_path, 3, east=5000.0))
    platform.look()
    platform.storage.delete(misplaced)
    platform.look()
    assert platform.rows("SELECT deleted FROM ls4.frame WHERE id LIKE '%109'") == [{"deleted": True}]
    platform.rebuild()
    assert platform.rows(STORED) == platform.rows(COUNTED)


def test_a_collection_that_comes_again_does_not_begin_at_its_old_version(platform: Platform, tmp_path: Path) -> None:
    """Browsers keep the tiles of a version for a year: a collection dropped anew after its withdrawal showed the old."""
    version = "SELECT index_revision FROM ls4.collection"
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    (first,) = platform.rows(version)
    platform.storage.delete(KEY)
    platform.settle()
    platform.rebuild()
    assert platform.rows(version) == []
    sleep(1)
    platform.drop(KEY, photo(tmp_path, 2))
    platform.settle()
    (second,) = platform.rows(version)
    assert int(str(second["index_revision"])) > int(str(first["index_revision"]))


def test_an_archive_that_moved_is_served_from_its_new_place(platform: Platform, tmp_path: Path) -> None:
    """The folder was moved to a larger disk: every row still named files of the old one, and the map was empty."""
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    old = Path(platform.settings.storage)
    new = old.rename(tmp_path / "larger-disk")
    moved = platform.with_settings(storage=str(new))
    moved.settle()
    assert served(moved) == str(new / FRAME.cog_key)


def test_rows_follow_another_name_of_the_bucket(platform: Platform, tmp_path: Path) -> None:
    """After LS4_LEGACY_BUCKET was changed every replaced frame stood in the index twice, and deleted ones never left it."""
    keys = [KEY, f"{FOLDER}/02-08-60_6-108.tif", f"{FOLDER}/02-08-60_6-109.tif"]
    rows = "SELECT oid, location, source_version FROM travis_usda_1958_frames ORDER BY oid"
    for number, key in enumerate(keys):
        platform.drop(key, photo(tmp_path, number, east=150.0 * number))
    platform.settle()
    before = platform.rows(rows)
    # As what such a change had left before: the first frame has two rows.
    with platform.database.begin() as connection:
        table, columns = f"public.{COLLECTION.table}", "src_srs, band, served_location, source_version, profile_hash, geom"
        double = f"SELECT replace(location, '/ls4/', '/other/'), {columns} FROM {table} ORDER BY oid LIMIT 1"
        connection.execute(text(f"INSERT INTO {table} (location, {columns}) {double}"))
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


def test_the_map_server_sees_the_statewide_views_and_nothing_behind_them(
    platform: Platform, cluster: Cluster, tmp_path: Path
) -> None:
    platform.drop(KEY, photo(tmp_path, 1))
    platform.settle()
    with platform.database.begin() as connection:
        for view in ("archive_collections", "archive_frames", "travis_usda_1958_frames"):
            allowed = (
                "SELECT has_table_privilege('mapserver', :view, 'SELECT'), has_table_privilege('mapserver', :view, 'INSERT')"
            )
            assert tuple(connection.execute(text(allowed), {"view": f"public.{view}"}).one()) == (True, False)
        behind = connection.scalar(text("SELECT has_schema_privilege('mapserver', 'ls4', 'USAGE')"))
        assert behind is False
    (collection,) = platform.rows("SELECT name, title, agency, year, frames, bands FROM archive_collections")
    assert collection == {
        "name": "Travis_USDA_1958_frames", "title": "Travis Usda 1958 Frames", "agency": "USDA", "year": 1958,
        "frames": 1, "bands": "bw",
    }  # fmt: skip
    (frame,) = platform.rows("SELECT collection, year, served_location FROM archive_frames")
    assert frame == {"collection": COLLECTION.name, "year": 1958, "served_location": served(platform)}
