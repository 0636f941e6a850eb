"""From a dropped scan to frames, tile index and mapfile, through the sensors and real databases."""

import io
import zipfile
from pathlib import Path

import dagster as dg
import geopandas
from affine import Affine

from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.domain.products import PRODUCTS, STEPS
from ls4_assets.operations.status import collect
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.rendering import FOOTPRINT_TEMPLATE

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
OTHER = f"{FOLDER}/02-08-60_6-108.tif"


def photo(folder: Path, seed: int = 7, east: float = 0, bands: int = 1) -> bytes:
    place = Affine(1, 0, -10_880_000.0 + east, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(300, 320, bands, seed), transform=place).read_bytes()


def index_rows(platform: Platform) -> dict[str, dict[str, object]]:
    return {str(row["location"]): row for row in platform.rows("SELECT * FROM travis_usda_1958_frames ORDER BY oid")}


def test_a_dropped_frame_reaches_products_index_and_mapfile(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    runs = platform.settle()
    assert [run.success for run in runs] == [True, True]
    frame = frame_of(KEY)
    for step in STEPS:
        assert platform.storage.head(frame.product_key(step))
        assert platform.partitions("Travis", step) == {frame.partition: "MATERIALIZED"}
    assert platform.storage.head(frame.thumbnail_key)
    row = index_rows(platform)[f"/vsis3/ls4/{frame.cog_key}"]
    assert (row["date"], row["roll"], row["frame_num"], row["band"]) == ("02-08-60", "6", "107", "bw")
    assert row["served_location"] == platform.storage.gdal_path(frame.cog_key)
    assert row["dl_georef"] == f"http://maps.test/archive/{frame.cog_key}"
    mapfile = platform.storage.read("mapfiles/travis_usda_1958_frames.map").decode()
    assert 'NAME "Travis_USDA_1958_frames"' in mapfile
    assert "only-for-tests" not in mapfile
    (status,) = collect(platform.settings).collections
    assert (status.dropped, status.done, status.indexed, status.failed) == (1, 1, 1, {})


def test_feature_info_template_is_next_to_the_mapfile(platform: Platform, tmp_path: Path) -> None:
    """A map server with read-only access to the archive returned an error for every click on a footprint."""
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    assert platform.storage.read("mapfiles/footprint.html") == FOOTPRINT_TEMPLATE.read_bytes()


def test_shapefile_matches_the_table(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    zipped = platform.storage.read(frame_of(KEY).collection.tile_index_key("bw", "_idx.zip"))
    assert sorted(name.rpartition(".")[2] for name in zipfile.ZipFile(io.BytesIO(zipped)).namelist()) == [
        "cpg",
        "dbf",
        "prj",
        "shp",
        "shx",
    ]
    path = tmp_path / "index.zip"
    path.write_bytes(zipped)
    frames = geopandas.read_file(path)
    assert frames.crs.to_epsg() == 3857
    row = index_rows(platform)[f"/vsis3/ls4/{frame_of(KEY).cog_key}"]
    for column in ("location", "dl_orig", "dl_georef", "dl_index", "roll", "frame_num", "date", "band"):
        assert frames[column].tolist() == [row[column]]
    assert frames["acquired"].tolist() == ["1960-02-08"]
    assert "served_lo" not in " ".join(frames.columns)


def test_materializations_have_metadata_for_operators(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert metadata["key"] == frame_of(KEY).cog_key
    assert metadata["dimensions"] == "320 x 300"
    assert metadata["crs"] == "EPSG:3857 (dropped in EPSG:3857)"
    assert metadata["link"] == f"http://maps.test/archive/{frame_of(KEY).cog_key}"
    assert metadata["thumbnail"] == f"http://maps.test/archive/{frame_of(KEY).thumbnail_key}"
    stored = platform.storage.head(frame_of(KEY).cog_key)
    assert stored and metadata["size"] == format_size(stored.size)
    assert {"seconds", "profile", "source_version", "source_sha256", "overview_levels", "valid_share"} <= set(metadata)
    dropped = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "georef"]))
    assert dropped and dropped.asset_materialization
    assert dropped.asset_materialization.partition == frame_of(KEY).partition


def test_batch_rebuilds_its_collection_once(platform: Platform, tmp_path: Path) -> None:
    for number in range(4):
        platform.drop(f"{FOLDER}/02-08-60_6-10{number}.tif", photo(tmp_path, seed=number, east=250 * number))
    runs = platform.ingest()
    assert len(runs) == 1
    assert len(platform.rebuild()) == 1
    assert len(index_rows(platform)) == 4
    assert platform.rebuild() == []
    assert platform.ingest() == []


def test_mission_in_both_film_types_is_one_collection(platform: Platform, tmp_path: Path) -> None:
    """The run of the second film type replaced the table and map of the first, and half the mission vanished from the map."""
    platform.drop(KEY, photo(tmp_path))
    color_key = KEY.replace("bw/", "nc/")
    platform.drop(color_key, photo(tmp_path, seed=9, bands=3))
    platform.settle()
    assert sorted(str(row["band"]) for row in index_rows(platform).values()) == ["bw", "nc"]
    collection = frame_of(KEY).collection
    shapefiles = [platform.storage.read(collection.tile_index_key(film_type, ".shp")) for film_type in ("bw", "nc")]
    assert shapefiles[0] == shapefiles[1]


def test_all_three_types_are_published(platform: Platform, tmp_path: Path) -> None:
    names = {"frames": "02-08-60_6-107", "index": "USDA_1958_1_400dpi_2", "mosaic": "mosaic01"}
    for type_, stem in names.items():
        platform.drop(f"bw/Travis/USDA_1958/{type_}/georef/{stem}.TIF", photo(tmp_path))
    platform.settle()
    statuses = {status.name: status for status in collect(platform.settings).collections}
    assert {name.rpartition("_")[2]: status.indexed for name, status in statuses.items()} == {
        "frames": 1,
        "index": 1,
        "mosaic": 1,
    }
    (sheet,) = platform.rows("SELECT date, roll, frame_num, dl_orig FROM travis_usda_1958_index")
    assert str(sheet["dl_orig"]).endswith("/index/scanned/USDA_1958_1_400dpi.tif")
    (mosaic,) = platform.rows("SELECT date, dl_orig FROM travis_usda_1958_mosaic")
    assert mosaic == {"date": "MULTIPLE", "dl_orig": "N/A"}


def test_replaced_frame_is_rebuilt_and_keeps_its_stacking_order(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.drop(OTHER, photo(tmp_path, seed=8, east=200))
    platform.settle()
    before, cog = index_rows(platform), platform.storage.head(frame_of(KEY).cog_key)
    platform.drop(KEY, photo(tmp_path, seed=99, east=-100))
    platform.settle()
    after = index_rows(platform)
    location = f"/vsis3/ls4/{frame_of(KEY).cog_key}"
    assert platform.storage.head(frame_of(KEY).cog_key) != cog
    assert after[location]["oid"] == before[location]["oid"]
    assert after[location]["geom"] != before[location]["geom"]
    assert [row["oid"] for row in after.values()] == [row["oid"] for row in before.values()]


def test_identical_upload_is_not_processed_again(platform: Platform, tmp_path: Path) -> None:
    data = photo(tmp_path)
    platform.drop(KEY, data)
    platform.settle()
    before = [platform.storage.head(frame_of(KEY).product_key(step)) for step in STEPS]
    platform.drop(KEY, data)
    runs = platform.settle()
    assert [run.success for run in runs] == [True]  # the frame's run; nothing to rebuild
    assert [platform.storage.head(frame_of(KEY).product_key(step)) for step in STEPS] == before
    assert platform.state(KEY) == ("done", None)
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    assert event.asset_materialization.metadata["work"].value == "already up to date"


def test_deleted_frame_is_removed_from_index_map_and_products(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.drop(OTHER, photo(tmp_path, seed=8, east=5000))
    platform.settle()
    mapfile = platform.storage.read("mapfiles/travis_usda_1958_frames.map")
    platform.storage.delete(OTHER)
    platform.settle()
    assert platform.ingest() == []  # the next scan deletes the partition in Dagster
    assert list(index_rows(platform)) == [f"/vsis3/ls4/{frame_of(KEY).cog_key}"]
    deleted = frame_of(OTHER)
    assert {platform.storage.head(deleted.product_key(product.name)) for product in PRODUCTS} == {None}
    assert platform.storage.read("mapfiles/travis_usda_1958_frames.map") != mapfile
    assert list(platform.partitions("Travis", "cog")) == [frame_of(KEY).partition]


def test_collection_without_frames_is_withdrawn(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    platform.storage.delete(KEY)
    assert [run.success for run in platform.settle()] == [True]
    assert platform.rebuild() == []
    assert platform.storage.head("mapfiles/travis_usda_1958_frames.map") is None
    assert [stored.key for stored in platform.storage.list("bw/")] == []
    assert platform.rows("SELECT to_regclass('public.travis_usda_1958_frames') AS it") == [{"it": None}]
    assert platform.instance.get_dynamic_partitions("collections/Travis") == []
    assert b"Travis" not in platform.storage.read("derived/collections.json")
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    assert len(index_rows(platform)) == 1


def test_each_asset_can_be_materialized_alone(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    frame = frame_of(KEY)
    for step in STEPS:
        before = {other: platform.storage.head(frame.product_key(other)) for other in STEPS}
        assert platform.run([dg.AssetKey(["Travis", step])], partition_key=frame.partition).success
        platform.settle()
        after = {other: platform.storage.head(frame.product_key(other)) for other in STEPS}
        assert {other for other in STEPS if before[other] != after[other]} == {step}


def test_step_rebuilds_an_expired_intermediate(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    frame = frame_of(KEY)
    platform.storage.delete(frame.deflate_key)
    assert platform.run([dg.AssetKey(["Travis", "cog"])], partition_key=frame.partition).success
    assert platform.storage.head(frame.cog_key)


def test_partition_range_run_processes_every_frame(platform: Platform, tmp_path: Path) -> None:
    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-10{number}.tif", photo(tmp_path, seed=number))
    platform.settle()
    before = {key: platform.storage.head(frame_of(key).cog_key) for key in (f"{FOLDER}/02-08-60_6-10{n}.tif" for n in range(3))}
    partitions = sorted(frame_of(key).partition for key in before)
    tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
    assert platform.run([dg.AssetKey(["Travis", step]) for step in STEPS], tags=tags).success
    assert len(platform.rebuild()) == 1
    assert all(platform.storage.head(frame_of(key).cog_key) != stored for key, stored in before.items())


def test_rebuild_keeps_the_table_and_its_grants(platform: Platform, tmp_path: Path) -> None:
    """After each rebuild the map server could no longer read the table, and the layer was down."""
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    table = "'travis_usda_1958_frames'"
    granted = f"SELECT has_table_privilege('mapserver', {table}, 'SELECT') AS may_read, {table}::regclass::oid AS id"
    before = platform.rows(granted)
    platform.drop(OTHER, photo(tmp_path, seed=8))
    platform.settle()
    assert platform.rows(granted) == before
    assert before[0]["may_read"] is True
    assert platform.rows("SELECT has_table_privilege('mapserver', 'travis_usda_1958_frames', 'INSERT') AS may_write") == [
        {"may_write": False}
    ]


def test_links_change_with_the_public_url(platform: Platform, tmp_path: Path) -> None:
    """The port of the demo changed between two starts, and every download link of the index was broken."""
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    moved = platform.with_settings(public_url="https://new.test")
    assert len(moved.rebuild()) == 1
    assert moved.rebuild() == []
    (row,) = index_rows(platform).values()
    assert row["dl_georef"] == f"https://new.test/{frame_of(KEY).cog_key}"


def test_raw_scan_is_linked_by_its_actual_name(platform: Platform, tmp_path: Path) -> None:
    platform.drop("bw/Travis/USDA_1958/frames/scanned/02-08-60_6-107.TIF", b"the raw scan")
    platform.drop(KEY, photo(tmp_path))
    platform.settle()
    (row,) = index_rows(platform).values()
    assert str(row["dl_orig"]).endswith("/scanned/02-08-60_6-107.TIF")
