"""One photograph of every film type in one mission: indexed, mapped, exported and consistent."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas
import httpx
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from PIL import Image

from ls4_assets.assets import keys
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import FOOTPRINTS_GEOJSON, MOSAIC
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets_tests.integration.serving_fixtures import serve_archive
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.stac_validation import validate

COLLECTION = Collection("Travis", "USDA_1958", "frames")
TABLE = COLLECTION.table
HEIGHT, WIDTH = 300, 320

every_film_type = pytest.mark.parametrize("film_type", FILM_TYPES)


@dataclass(frozen=True)
class Mission:
    """A processed mission of one frame for each film type, side by side from west to east."""

    platform: Platform
    client: httpx.Client

    def local_path(self, key: str) -> Path:
        return Path(self.platform.storage.gdal_path(key))

    def document(self, key: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.platform.storage.read(key))
        return content

    def get_map(self, box: tuple[float, ...]) -> np.ndarray:
        """RGBA of a box in EPSG:3857 at one pixel a meter, shape (4, rows, columns)."""
        parameters = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": COLLECTION.name, "STYLES": ""}
        parameters |= {"SRS": "EPSG:3857", "map": f"/{COLLECTION.map_key}", "BBOX": ",".join(map(repr, box))}
        parameters |= {"WIDTH": str(WIDTH), "HEIGHT": str(HEIGHT), "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
        response = self.client.get("/", params=parameters)
        assert response.headers["content-type"] == "image/png", response.text
        return np.moveaxis(np.asarray(Image.open(BytesIO(response.content)).convert("RGBA")), -1, 0)


def frame_of(film_type: FilmType) -> Frame:
    return Frame(COLLECTION, film_type, f"02-08-60_6-{100 + [*FILM_TYPES].index(film_type)}")


def drop(platform: Platform, film_type: FilmType, folder: Path) -> str:
    """Drop a photograph whose bands differ; returns its key."""
    frame, bands = frame_of(film_type), FILM_TYPES[film_type].bands
    place = Affine(1, 0, WEST + WIDTH * [*FILM_TYPES].index(film_type), 0, -1, NORTH)
    key = f"{frame.folder}/georef/{frame.stem}.tif"
    platform.drop(key, write_tif(folder / "drop.tif", photograph(HEIGHT, WIDTH, bands), transform=place))
    return key


def reconciled(platform: Platform) -> list[str]:
    """Names of collections that are inconsistent."""
    reports = Reconciler(platform.archive, platform.instance, False, False, timedelta(0)).run(())
    return [report.name for report in reports if not report.is_consistent]


@pytest.fixture(scope="module")
def mission(cluster: Cluster) -> Iterator[Mission]:
    # Not in pytest's own temporary folders, because the user that serves the maps may not read them.
    home = Path(tempfile.mkdtemp(prefix="ls4-film-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        platform = stack.enter_context(running_platform(cluster, home))
        for film_type in FILM_TYPES:
            drop(platform, film_type, home)
        assert [run.success for run in platform.settle()] == [True, True]
        yield Mission(platform, stack.enter_context(serve_archive(home, cluster)))


@every_film_type
def test_frame_has_products_and_an_index_row(mission: Mission, film_type: FilmType) -> None:
    frame = frame_of(film_type)
    platform = mission.platform
    assert all(platform.storage.head(frame.product_key(step)) for step in STEPS)
    assert platform.storage.head(frame.thumbnail_key)
    (row,) = platform.rows(f"SELECT * FROM {TABLE} WHERE band = :band", band=film_type)
    assert row["dl_georef"] == f"http://maps.test/archive/{frame.cog_key}"
    assert row["profile_hash"] == platform.settings.profiles[film_type].hash("cog")
    assert platform.storage.head(COLLECTION.tile_index_key(film_type, "_idx.zip"))


@every_film_type
def test_map_shows_the_bands_in_the_colors_of_the_film(mission: Mission, film_type: FilmType) -> None:
    with rasterio.open(mission.local_path(frame_of(film_type).cog_key)) as cog:
        pixels, box = cog.read(), tuple(cog.bounds)
    picture = mission.get_map(box)
    assert (picture[3] == 255).all()
    colors = pixels if len(pixels) == 3 else np.repeat(pixels, 3, axis=0)
    # MapServer's JPEG decoder rounds chroma in its own way. A swapped band differs by 10.
    assert np.abs(picture[:3].astype(int) - colors).mean(axis=(1, 2)).max() < 1
    assert (len({band.tobytes() for band in picture[:3]}) == 3) == (FILM_TYPES[film_type].bands == 3)


@every_film_type
def test_web_front_end_serves_the_cog_and_not_the_drop(mission: Mission, film_type: FilmType) -> None:
    frame = frame_of(film_type)
    assert mission.client.head(f"/archive/{frame.cog_key}").status_code == 200
    assert mission.client.head(f"/archive/{frame.folder}/georef/{frame.stem}.tif").status_code == 404


@every_film_type
def test_stac_item_names_the_bands(mission: Mission, film_type: FilmType) -> None:
    item = mission.document(export_keys.stac_item_key(frame_of(film_type)))
    validate(item)
    spec = FILM_TYPES[film_type]
    assert item["assets"]["cog"]["bands"] == [{"name": name, "data_type": "uint8"} for name in spec.band_names]
    collection = mission.document(export_keys.stac_collection_key(COLLECTION))
    validate(collection)
    assert {f"mosaic_{film_type}", f"tile_index_{film_type}"} <= {*collection["assets"]}
    assert collection["summaries"]["ls4:band"] == [*FILM_TYPES]


@every_film_type
def test_mosaic_index_has_the_bands_of_the_film(mission: Mission, film_type: FilmType) -> None:
    path = mission.local_path(MOSAIC.key_of(COLLECTION, film_type))
    assert pyogrio.read_info(path)["features"] == 1
    metadata = pyogrio.read_info(path)["layer_metadata"]
    spec = FILM_TYPES[film_type]
    assert (metadata["BAND_COUNT"], metadata["COLOR_INTERPRETATION"]) == (str(spec.bands), ",".join(spec.color_interpretation))


def test_color_infrared_beside_black_and_white_is_near_infrared_red_green(mission: Mission) -> None:
    item = mission.document(export_keys.stac_item_key(frame_of("cir")))
    assert [band["name"] for band in item["assets"]["cog"]["bands"]] == ["nir", "red", "green"]


def test_lists_name_every_film_type(mission: Mission) -> None:
    content = mission.document("derived/collections.json")
    assert content["film_types"] == {film_type: spec.title for film_type, spec in FILM_TYPES.items()}
    (entry,) = content["collections"]
    assert set(entry["bands"]) == set(entry["exports"]["mosaics"]) == {*FILM_TYPES}
    footprints = geopandas.read_file(mission.local_path(FOOTPRINTS_GEOJSON.key_of(COLLECTION)))
    assert {*footprints["band"]} == {*FILM_TYPES}
    assert mission.platform.run([keys.COMPILED_INDEXES]).success
    statewide = geopandas.read_file(mission.local_path(export_keys.COMPILED_GEOJSON_KEY))
    assert {*statewide["band"]} == {*FILM_TYPES}


def test_overview_mosaic_has_as_many_bands_as_the_film_types_need(mission: Mission) -> None:
    (row,) = mission.platform.rows("SELECT served_location FROM public.overview_mosaics")
    with rasterio.open(row["served_location"]) as mosaic:
        assert mosaic.count == max(spec.bands for spec in FILM_TYPES.values())


def test_archive_is_consistent(mission: Mission) -> None:
    assert reconciled(mission.platform) == []
