"""Object keys of STAC documents, statewide files and MosaicJSON, which are all public, and of the lists that the pages read.

Keys of a collection's other exports are in `exports`, keys of frames, tile indexes and maps in `names`. docs/reference/names.md
and docs/reference/exports.md list all keys.
"""

from ls4_assets.domain.names import Collection, Frame

ROOT_CATALOG_KEY = "derived/catalog.json"
COMPILED_GEOJSON_KEY = "geojson/compiled_historical_indexes.geojson"
# What the map page offers.
COLLECTIONS_KEY = "derived/collections.json"
# Outside all prefixes that are served to the public: the web front end decides whether and to whom it is shown.
STAFF_KEY = "staff/rejections.json"
# Files that the monitor writes to a folder of its own, and that the web front end serves to staff.
HEALTH_FILE, METRICS_FILE = "health.json", "metrics.txt"
COMPILED_PARQUET_KEY = "geojson/compiled_historical_indexes.parquet"


def mosaicjson_key(collection: Collection) -> str:
    """Key of the document that titiler reads."""
    return f"derived/{collection.name}/mosaic.json"


def stac_folder(collection: Collection) -> str:
    return f"derived/{collection.name}/stac/"


def stac_collection_key(collection: Collection) -> str:
    return f"{stac_folder(collection)}collection.json"


def stac_item_key(frame: Frame) -> str:
    return f"{stac_folder(frame.collection)}items/{frame.film_type}/{frame.stem}.json"
