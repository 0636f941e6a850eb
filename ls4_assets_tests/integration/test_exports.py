"""Exports of a collection and of the archive: built after the map, updated for changed frames, readable by common programs."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import geopandas
import httpx
import numpy as np
import pytest
import rasterio
from affine import Affine
from pystac import Catalog, STACValidationError
from rasterio.windows import from_bounds
from sqlalchemy import text
from stac_geoparquet.arrow import stac_table_to_items

from ls4_assets.assets import keys
from ls4_assets.db.export_state import StatewideBuild
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import EXPORTS, FOOTPRINTS_GEOJSON, FOOTPRINTS_PARQUET, ITEMS, MOSAIC, export_keys_of
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets.publishing.export_files import WRITERS
from ls4_assets_tests.integration.serving_fixtures import running
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, read, rotated_rectangle, write_tif
from ls4_assets_tests.stac_validation import validate
from mapserver.config import PostgresService, write_config

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEYS = [f"{FOLDER}/02-08-60_6-{number}.tif" for number in (107, 108, 109)]
COLLECTION = frame_of(KEYS[0]).collection
URL = "http://maps.test/archive"
LEGACY = ["tablename", "collection", "dl_orig", "dl_georef", "dl_index"]


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path) as platform:
        yield platform


def photo(folder: Path, seed: int = 7, east: float = 0, bands: int = 1) -> bytes:
    place = Affine(1, 0, WEST + east, 0, -1, NORTH)
    collar = rotated_rectangle(300, 320)
    return write_tif(folder / f"{seed}.tif", photograph(300, 320, bands, seed), mask=collar, transform=place).read_bytes()


def drop_two(platform: Platform, folder: Path) -> None:
    for number, key in enumerate(KEYS[:2]):
        platform.drop(key, photo(folder, seed=number, east=250 * number))
    assert [run.success for run in platform.settle()] == [True, True]


def document(platform: Platform, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(platform.storage.read(key))
    return content


def stac_item(platform: Platform, key: str) -> dict[str, Any]:
    return document(platform, export_keys.stac_item_key(frame_of(key)))


def local_path(platform: Platform, key: str) -> Path:
    return Path(platform.storage.gdal_path(key))


def compile_statewide(platform: Platform) -> None:
    assert platform.run([keys.COMPILED_INDEXES]).success


def requested_assets(platform: Platform) -> list[list[str]]:
    """Assets of each run that the sensor requests."""
    result = platform.tick("publish_collections")
    requests = result.run_requests or [] if isinstance(result, dg.SensorResult) else []
    return [[key.path[-1] for key in request.asset_selection or []] for request in requests]


def test_footprints_match_the_tile_index(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    index = geopandas.read_postgis("SELECT * FROM public.travis_usda_1958_frames ORDER BY oid", platform.database, "geom").to_crs(
        4326
    )
    for export, read_file in ((FOOTPRINTS_GEOJSON, geopandas.read_file), (FOOTPRINTS_PARQUET, geopandas.read_parquet)):
        frames = read_file(local_path(platform, export.key_of(COLLECTION)))
        assert set(LEGACY) <= set(frames.columns)
        assert frames.crs.equals("OGC:CRS84") or frames.crs.to_epsg() == 4326
        for column in ("location", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index", "band"):
            assert frames[column].tolist() == index[column].tolist()
        assert frames["collection"].tolist() == ["TRAVIS USDA 1958"] * 2
        assert frames["tablename"].tolist() == [COLLECTION.table] * 2
        assert frames.geometry.symmetric_difference(index.geometry).area.max() < 1e-8 < index.area.min()


def test_stac_catalog_is_valid_and_describes_the_cogs(platform: Platform, tmp_path: Path) -> None:
    scan = f"{FOLDER.replace('georef', 'scanned')}/02-08-60_6-107.TIF"
    platform.drop(scan, b"raw")
    drop_two(platform, tmp_path)
    root = document(platform, export_keys.ROOT_CATALOG_KEY)
    (child,) = [link["href"] for link in root["links"] if link["rel"] == "child"]
    collection = document(platform, f"derived/{child.removeprefix('./')}")
    for checked in (root, collection):
        validate(checked)
    assert (collection["id"], [link["rel"] for link in collection["links"]].count("item")) == (COLLECTION.name, 2)
    (entry,) = json.loads(platform.storage.read("derived/collections.json"))["collections"]
    assert entry["exports"]["stac"] == f"{URL}/{export_keys.stac_collection_key(COLLECTION)}"
    (wms,) = [link for link in collection["links"] if link["rel"] == "wms"]
    assert (wms["href"], wms["wms:layers"]) == (f"http://maps.test/wms/{COLLECTION.table}", [COLLECTION.name])
    for key in KEYS[:2]:
        frame = frame_of(key)
        item = stac_item(platform, key)
        validate(item)
        properties, asset = item["properties"], item["assets"]["cog"]
        with rasterio.open(local_path(platform, frame.cog_key)) as cog:
            assert properties["proj:shape"] == [cog.height, cog.width]
            assert properties["proj:transform"] == list(cog.transform)[:6]
            assert properties["proj:bbox"] == list(cog.bounds)
        content = platform.storage.read(frame.cog_key)
        assert asset["href"] == f"{URL}/{frame.cog_key}"
        assert asset["file:size"] == len(content)
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert platform.storage.head(item["assets"]["thumbnail"]["href"].removeprefix(f"{URL}/"))
        assert (properties["start_datetime"], properties["ls4:roll"]) == ("1960-02-08T00:00:00Z", "6")
    assert stac_item(platform, KEYS[0])["assets"]["scan"]["href"] == f"{URL}/{scan}"
    assert "scan" not in stac_item(platform, KEYS[1])["assets"]


def test_rights_are_in_stac_geoparquet_tilejson_and_files(platform: Platform, tmp_path: Path) -> None:
    """STAC said `other` without a link, and no file or service named a license, whom to credit or how to cite."""
    import pyarrow.parquet

    drop_two(platform, tmp_path)
    rights = platform.settings.archive_description.rights.of(COLLECTION)
    assert rights.citation == "U.S. Department of Agriculture (1958). Travis USDA 1958 frames [Aerial photographs]."
    collection = document(platform, export_keys.stac_collection_key(COLLECTION))
    validate(collection)
    assert (collection["license"], collection["sci:citation"]) == ("other", rights.citation)
    (license_link,) = [link for link in collection["links"] if link["rel"] == "license"]
    assert (license_link["href"], license_link["title"]) == (rights.license_url, rights.license)
    assert {"name": "USDA", "description": rights.attribution, "roles": ["producer"]} in collection["providers"]
    metadata = pyarrow.parquet.read_schema(local_path(platform, FOOTPRINTS_PARQUET.key_of(COLLECTION))).metadata
    assert {name: metadata[name.encode()].decode() for name in rights.metadata()} == rights.metadata() and b"geo" in metadata
    with rasterio.open(local_path(platform, frame_of(KEYS[0]).cog_key)) as cog:
        assert cog.tags().items() >= rights.tiff_tags().items()
    assert document(platform, f"mapfiles/{COLLECTION.table}.tilejson")["attribution"] == rights.attribution
    mapfile = platform.storage.read(COLLECTION.map_key).decode()
    assert f'"ows_accessconstraints" "{rights.license}"' in mapfile and f"Cite as: {rights.citation}" in mapfile
    assert f'"wms_attribution_title" "{rights.attribution}"' in mapfile


def test_titles_are_for_people_and_the_wms_title_stays(platform: Platform, tmp_path: Path) -> None:
    """Every client showed "Travis Usda 1958 Frames"."""
    drop_two(platform, tmp_path)
    title = "Travis USDA 1958 frames"
    listed = document(platform, "derived/collections.json")
    assert listed["collections"][0]["title"] == title
    assert document(platform, export_keys.stac_collection_key(COLLECTION))["title"] == title
    assert title in [link.get("title") for link in document(platform, export_keys.ROOT_CATALOG_KEY)["links"]]
    assert document(platform, f"mapfiles/{COLLECTION.table}.tilejson")["name"] == title
    assert f"<ows:Title>{title}</ows:Title>" in platform.storage.read(f"mapfiles/{COLLECTION.table}.wmts").decode()
    assert '"ows_title" "Travis Usda 1958 Frames"' in platform.storage.read(COLLECTION.map_key).decode()
    # The summary for the statewide map comes first, in steps of 10 km.
    assert next(iter(listed)) == "archive" and listed["archive"]["years"] == [1958, 1958]
    west, south, east, north = listed["archive"]["extent"]
    minx, miny, maxx, maxy = listed["collections"][0]["extent"]
    assert west <= minx < west + 10_000 and south <= miny < south + 10_000
    assert east - 10_000 < maxx <= east and north - 10_000 < maxy <= north


def test_every_export_is_written_linked_and_listed(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    assets = document(platform, export_keys.stac_collection_key(COLLECTION))["assets"]
    (entry,) = document(platform, "derived/collections.json")["collections"]
    assert set(entry["exports"]) == {"stac", *(export.listed_as for export in EXPORTS if export.listed_as)}
    for export in EXPORTS:
        for film_type in export.variants(["bw"]):
            key = export.key_of(COLLECTION, film_type)
            assert platform.storage.head(key), key
            asset = assets[export.asset_name(film_type)]
            assert (asset["href"], asset["type"]) == (f"{URL}/{key}", export.content_type)
            if export.listed_as:
                listed = entry["exports"][export.listed_as]
                assert (listed[film_type] if film_type else listed) == f"{URL}/{key}"
    # The collection has no frames of the other film types.
    written = {export.key_of(COLLECTION, film_type) for export in EXPORTS for film_type in export.variants(["bw"])}
    assert not [key for key in set(export_keys_of(COLLECTION)) - written if platform.storage.head(key)]


def test_validation_rejects_fields_that_the_extensions_do_not_define(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    for change in ({"proj:epsg": 3857}, {"proj:shape": ["300", 320]}, {"processing:software": "ls4"}):
        wrong = stac_item(platform, KEYS[0])
        wrong["properties"] |= change
        with pytest.raises(STACValidationError):
            validate(wrong)
    wrong = stac_item(platform, KEYS[0])
    wrong["assets"]["cog"]["file:checksum"] = "ab"
    with pytest.raises(STACValidationError):
        validate(wrong)


def test_items_in_parquet_equal_the_json_items(platform: Platform, tmp_path: Path) -> None:
    import pyarrow.parquet

    drop_two(platform, tmp_path)
    path = local_path(platform, ITEMS.key_of(COLLECTION))
    items = list(stac_table_to_items(pyarrow.parquet.read_table(path)))
    for item in items:
        validate(item)
    assert [item["id"] for item in items] == ["bw_02-08-60_6-107", "bw_02-08-60_6-108"]
    assert items[0]["assets"]["cog"] == stac_item(platform, KEYS[0])["assets"]["cog"]
    assert geopandas.read_parquet(path).crs.equals("EPSG:4326"), "GeoParquet always orders axes x, y"


def test_only_items_of_frames_that_changed_are_written(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    before = [platform.storage.head(export_keys.stac_item_key(frame_of(key))) for key in KEYS[:2]]
    platform.drop(KEYS[1], photo(tmp_path, seed=9, east=250))
    platform.drop(KEYS[2], photo(tmp_path, seed=3, east=500))
    platform.settle()
    after = [platform.storage.head(export_keys.stac_item_key(frame_of(key))) for key in KEYS]
    assert after[0] == before[0] and after[1] != before[1] and after[2]
    content = platform.storage.read(frame_of(KEYS[1]).cog_key)
    cog = stac_item(platform, KEYS[1])["assets"]["cog"]
    assert cog["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    platform.storage.delete(KEYS[0])
    platform.settle()
    platform.settle()
    assert platform.storage.head(export_keys.stac_item_key(frame_of(KEYS[0]))) is None
    links = json.loads(platform.storage.read(export_keys.stac_collection_key(COLLECTION)))["links"]
    assert [link["href"] for link in links if link["rel"] == "item"] == [f"./items/bw/02-08-60_6-{n}.json" for n in (108, 109)]
    assert requested_assets(platform) == []


def test_withdrawn_collection_is_removed_from_the_exports(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    compile_statewide(platform)
    for key in KEYS[:2]:
        platform.storage.delete(key)
    for _ in range(3):
        platform.settle()
    assert [stored.key for stored in platform.storage.list(f"derived/{COLLECTION.name}/")] == []
    root = json.loads(platform.storage.read(export_keys.ROOT_CATALOG_KEY))
    assert [link for link in root["links"] if link["rel"] == "child"] == []
    assert platform.rows("SELECT name FROM ls4.collection") == []
    compile_statewide(platform)
    assert json.loads(platform.storage.read(export_keys.COMPILED_GEOJSON_KEY))["features"] == []
    assert platform.storage.head(export_keys.COMPILED_PARQUET_KEY) is None


def test_failed_export_does_not_affect_the_map(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the export is retried, because a rebuild of the index would invalidate all cached tiles."""

    def broken(*_: object) -> None:
        raise OSError("no such driver")

    with monkeypatch.context() as patched:
        patched.setitem(WRITERS, "mosaic", broken)
        platform.drop(KEYS[0], photo(tmp_path))
        runs = platform.settle()
        assert [run.success for run in runs] == [True, False]
    columns = "index_revision, map_revision, attempts"
    (row,) = platform.rows(f"SELECT {columns} FROM ls4.collection")
    assert row["map_revision"] == row["index_revision"] and row["attempts"] == 0
    assert platform.storage.head(COLLECTION.map_key)
    assert requested_assets(platform) == []
    platform.skip_waits()
    (again,) = platform.rebuild()
    materialized = [event.asset_key for event in again.get_asset_materialization_events()]
    assert again.success and {key.path[-1] for key in materialized if key} == {"exports"}
    assert platform.rows(f"SELECT {columns} FROM ls4.collection") == [row]
    assert requested_assets(platform) == []


@pytest.fixture
def public(cluster: Cluster) -> Iterator[Platform]:
    """A platform whose archive nginx serves at the public URL."""
    # Not in pytest's own temporary folders, because nginx's OS user may not read them.
    home = Path(tempfile.mkdtemp(prefix="ls4-test-exports-"))
    home.chmod(0o755)
    port = find_free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        address = {"public_url": f"http://127.0.0.1:{port}/archive", "map_url": f"http://127.0.0.1:{port}"}
        platform = stack.enter_context(running_platform(cluster, home, **address))
        archive = home / "archive"
        (archive / "mapfiles").mkdir()
        database = PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", "only-for-tests")
        config = write_config(
            home / "serving", port=port, mapfiles_dir=archive / "mapfiles", archive_dir=archive, database=database, workers=1
        )
        log = stack.enter_context((home / "nginx.log").open("wb"))
        stack.enter_context(running(config.nginx_argv, log))
        yield platform


def test_gdal_reads_the_pixels_of_the_cogs_through_the_public_mosaic_index(public: Platform, tmp_path: Path) -> None:
    drop_two(public, tmp_path)
    url = f"{public.settings.public_url}/{MOSAIC.key_of(COLLECTION, 'bw')}"
    assert httpx.get(url).status_code == 200
    with rasterio.open(f"/vsicurl/{url}") as mosaic:
        assert (mosaic.driver, mosaic.count, mosaic.crs.to_epsg()) == ("GTI", 1, 3857)
        # Where frames overlap, the later one is on top, as on the map.
        for key, east in ((KEYS[0], slice(0, 240)), (KEYS[1], slice(0, 320))):
            path = local_path(public, frame_of(key).cog_key)
            with rasterio.open(path) as cog:
                window = from_bounds(*cog.bounds, mosaic.transform).round_offsets().round_lengths()
                valid = cog.read_masks(1)[:, east] > 0
            pixels = mosaic.read(1, window=window)[:, east]
            assert 0.3 < valid.mean() < 1
            assert np.array_equal(pixels[valid], read(path)[0][:, east][valid])
            assert (mosaic.read_masks(1, window=window)[:, east][valid] == 255).all()
        assert mosaic.read(1, out_shape=(40, 80)).any()
    # The example of docs/reference/exports.md.
    items = []
    for collection in Catalog.from_file(f"{public.settings.public_url}/{export_keys.ROOT_CATALOG_KEY}").get_children():
        for item in collection.get_items():
            with rasterio.open(item.assets["cog"].href) as cog:
                items.append((item.id, cog.shape))
    assert items == [("bw_02-08-60_6-107", (300, 320)), ("bw_02-08-60_6-108", (300, 320))]


def test_exports_do_not_reveal_local_paths(platform: Platform, tmp_path: Path) -> None:
    drop_two(platform, tmp_path)
    compile_statewide(platform)
    exported = [*platform.storage.list("derived/"), *platform.storage.list("geojson/")]
    assert len(exported) >= 10
    for stored in exported:
        assert str(tmp_path).encode() not in platform.storage.read(stored.key), stored.key


def test_statewide_files_have_every_collection_and_are_rebuilt(platform: Platform, tmp_path: Path) -> None:
    other = "nc/Bastrop/TxDOT_1996/frames/georef/11-30-96_12-4.tif"
    drop_two(platform, tmp_path)
    platform.drop(other, photo(tmp_path, seed=5, bands=3))
    platform.settle()
    (request,) = platform.tick("statewide_exports").run_requests or []  # type: ignore[union-attr]
    assert platform.run([keys.COMPILED_INDEXES], tags=request.tags).success
    frames = geopandas.read_file(local_path(platform, export_keys.COMPILED_GEOJSON_KEY))
    parquet_frames = geopandas.read_parquet(local_path(platform, export_keys.COMPILED_PARQUET_KEY))
    assert (
        frames["tablename"].tolist()
        == parquet_frames["tablename"].tolist()
        == ["bastrop_txdot_1996_frames", *[COLLECTION.table] * 2]
    )
    assert frames["dl_georef"].tolist() == parquet_frames["dl_georef"].tolist()
    assert parquet_frames.geometry.geom_equals_exact(frames.geometry, 1e-6).all()
    assert parquet_frames.crs.equals("OGC:CRS84")
    # A reader can filter by the bounding boxes in the metadata.
    west = geopandas.read_parquet(
        local_path(platform, export_keys.COMPILED_PARQUET_KEY), bbox=(-180, -80, frames.total_bounds[0] - 1, 80)
    )
    assert len(west) == 0
    assert isinstance(platform.tick("statewide_exports"), dg.SkipReason)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.statewide_build SET compiled_at = now() - interval '1 day'"))
    assert platform.tick("statewide_exports").run_requests  # type: ignore[union-attr]  # once a day without a change
    # A missing part is reported, does not block the others, and is rebuilt.
    platform.storage.delete(FOOTPRINTS_PARQUET.key_of(COLLECTION))
    compile_statewide(platform)
    assert len(geopandas.read_parquet(local_path(platform, export_keys.COMPILED_PARQUET_KEY))) == 1
    assert requested_assets(platform) == [["exports"]]


@pytest.mark.parametrize(
    ("state", "wait_seconds"),
    [
        ({}, None),
        ({"compiled": 0}, 60),
        ({"compiled": 0, "seconds": 40}, 400),
        ({"compiled": 0, "busy": True}, 900),
        ({"started": 0, "attempts": 1}, 120),
        ({"started": 0, "attempts": 9, "busy": True}, 900),
    ],
)
def test_statewide_files_are_built_less_often_while_frames_are_processed(state: dict[str, int], wait_seconds: int | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    statewide_build = StatewideBuild(
        changed=True,
        busy=bool(state.get("busy")),
        seconds=state.get("seconds", 0),
        started_at=now if "started" in state else None,
        compiled_at=now if "compiled" in state else None,
        attempts=state.get("attempts", 0),
    )
    assert statewide_build.waits_until() == (now + timedelta(seconds=wait_seconds) if wait_seconds else None)
