"""Object keys of the exports, which are all public. Keys of frames, tile indexes and maps are in `names`.

The exports of a collection are below derived/<Name>/. docs/reference/names.md lists all keys.
"""

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.names import Collection, Frame

ROOT_CATALOG_KEY = "derived/catalog.json"
COMPILED_GEOJSON_KEY = "geojson/compiled_historical_indexes.geojson"
COMPILED_PARQUET_KEY = "geojson/compiled_historical_indexes.parquet"


def footprints_key(collection: Collection, suffix: str) -> str:
    """Key of the collection's footprints, a part of the statewide file; `suffix` is `.geojson` or `.parquet`."""
    return f"derived/{collection.name}/footprints{suffix}"


def mosaic_index_key(collection: Collection, film_type: FilmType) -> str:
    """Key of the GDAL raster tile index. GDAL identifies the format by the suffix `.gti.gpkg`."""
    return f"derived/{collection.name}/{collection.name}_{film_type}.gti.gpkg"


def stac_folder(collection: Collection) -> str:
    return f"derived/{collection.name}/stac/"


def stac_collection_key(collection: Collection) -> str:
    return f"{stac_folder(collection)}collection.json"


def stac_parquet_key(collection: Collection) -> str:
    return f"{stac_folder(collection)}items.parquet"


def stac_item_key(frame: Frame) -> str:
    return f"{stac_folder(frame.collection)}items/{frame.film_type}/{frame.stem}.json"
