"""The keys of what is exported: they continue the grammar of `ls4_assets.domain.names`, and docs/naming.md lists them.

All of it is public. What belongs to one collection lies below derived/<Name>/.
"""

from ls4_assets.domain.names import Collection, FilmType, Frame

ROOT_CATALOG_KEY = "derived/catalog.json"
COMPILED_GEOJSON_KEY = "geojson/compiled_historical_indexes.geojson"
COMPILED_PARQUET_KEY = "geojson/compiled_historical_indexes.parquet"


def footprints_key(of: Collection, suffix: str) -> str:
    """`.geojson` or `.parquet`: the collection's part of the statewide file."""
    return f"derived/{of.name}/footprints{suffix}"


def mosaic_index_key(of: Collection, film_type: FilmType) -> str:
    """GDAL takes a GeoPackage for a raster tile index by the end of its name."""
    return f"derived/{of.name}/{of.name}_{film_type}.gti.gpkg"


def stac_folder(of: Collection) -> str:
    return f"derived/{of.name}/stac/"


def stac_collection_key(of: Collection) -> str:
    return f"{stac_folder(of)}collection.json"


def stac_parquet_key(of: Collection) -> str:
    return f"{stac_folder(of)}items.parquet"


def stac_item_key(of: Frame) -> str:
    return f"{stac_folder(of.collection)}items/{of.film_type}/{of.stem}.json"
