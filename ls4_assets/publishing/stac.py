"""STAC 1.1 documents as plain dictionaries: items for frames, collections for collections, and the root catalog.

Specification: https://github.com/radiantearth/stac-spec; extensions: projection 2.0, file 2.1, processing 1.2, web-map-links 1.2.
Unknown values are omitted; size and checksum appear only if they belong to the public COG. `exports` writes the documents.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ls4_assets.db.schema import WEB_MERCATOR
from ls4_assets.domain import export_keys
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.links import index_url, tiles_url, wms_url
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import COG, PRODUCTS
from ls4_assets.publishing.rows import Cog, IndexedFrame

VERSION = "1.1.0"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
WEB_MAP_LINKS = "https://stac-extensions.github.io/web-map-links/v1.2.0/schema.json"

GEOJSON = "application/geo+json"
PARQUET = "application/vnd.apache.parquet"
GEOPACKAGE = "application/geopackage+sqlite3"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# Prefix of a multihash: the code of SHA2-256 and the length, 32 bytes.
_SHA256 = "1220"

Document = dict[str, Any]


@dataclass(frozen=True)
class BaseUrls:
    """Base URLs, without a trailing slash, of the public objects and of the maps.

    `host` is the organization that runs both; `license` is the address of the license's text.
    """

    public: str
    maps: str
    host: str | None = None
    license: str | None = None


def item_id(indexed: IndexedFrame) -> str:
    return f"{indexed.frame.film_type}_{indexed.frame.stem}"


def build_item(indexed: IndexedFrame, geometry: Document, urls: BaseUrls) -> Document:
    """Item of a frame. `geometry` is its footprint as GeoJSON in degrees."""
    collection = indexed.frame.collection
    start, end = _acquired_interval(indexed)
    attributes = {f"ls4:{name}": indexed.columns[name] for name in ("date", "roll", "frame_num", "band")}
    extensions = [FILE, PROCESSING, PROJECTION] if indexed.cog else [FILE, PROCESSING]
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": extensions,
        "id": item_id(indexed),
        "collection": collection.name,
        "geometry": geometry,
        "bbox": list(indexed.box),
        "properties": {
            "datetime": None,
            "start_datetime": start,
            "end_datetime": end,
            **attributes,
            **(_projection(indexed.cog) if indexed.cog else {}),
            **_processing(indexed),
        },
        "links": [
            {"rel": "root", "href": "../../../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../../collection.json", "type": "application/json"},
            {"rel": "self", "href": f"{urls.public}/{export_keys.stac_item_key(indexed.frame)}", "type": GEOJSON},
        ],
        "assets": _assets(indexed, urls),
    }


def build_collection(
    collection: Collection, frames: Sequence[IndexedFrame], overview_key: str | None, urls: BaseUrls
) -> Document:
    """Collection document with links to all items. `overview_key` is the key of the overview mosaic."""
    intervals = [_acquired_interval(indexed) for indexed in frames]
    sides = list(zip(*(indexed.box for indexed in frames), strict=True))
    box = [min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3])]
    items = [
        {"rel": "item", "href": f"./items/{indexed.frame.film_type}/{indexed.frame.stem}.json", "type": GEOJSON}
        for indexed in frames
    ]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [WEB_MAP_LINKS],
        "id": collection.name,
        "title": collection.title,
        "description": f"{len(frames):,} scanned and georeferenced aerial photographs ({collection.type}) of {collection.title}.",
        "keywords": [collection.shard, collection.agency, collection.type],
        "license": "other",
        "providers": [
            {"name": collection.agency, "roles": ["producer"]},
            *([{"name": urls.host, "roles": ["processor", "host"]}] if urls.host else []),
        ],
        "extent": {
            "spatial": {"bbox": [box]},
            "temporal": {"interval": [[min(start for start, _ in intervals), max(end for _, end in intervals)]]},
        },
        "summaries": {"ls4:band": _film_types(frames), "proj:code": [f"EPSG:{WEB_MERCATOR}"]},
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "self", "href": f"{urls.public}/{export_keys.stac_collection_key(collection)}", "type": "application/json"},
            *([{"rel": "license", "href": urls.license, "title": "License"}] if urls.license else []),
            *_map_links(collection, urls),
            *items,
        ],
        "assets": _collection_assets(collection, frames, overview_key, urls.public),
    }


def build_root_catalog(collections: Sequence[Collection], urls: BaseUrls) -> Document:
    """Root catalog with links to all collections."""
    children = [
        {
            "rel": "child",
            "href": f"./{collection.name}/stac/collection.json",
            "type": "application/json",
            "title": collection.title,
        }
        for collection in collections
    ]
    return {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": "historical-aerial-photographs",
        "title": "Historical aerial photographs",
        "description": "Scanned and georeferenced aerial photographs, a collection for each county, agency and year.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "self", "href": f"{urls.public}/{export_keys.ROOT_CATALOG_KEY}", "type": "application/json"},
            *children,
        ],
    }


def _acquired_interval(indexed: IndexedFrame) -> tuple[str, str]:
    """Start and end of the day, the year or the century of a photograph, whichever is the most precise that its name gives."""
    first = last = indexed.acquired
    if first is None or last is None:
        year = indexed.frame.collection.year
        first, last = datetime.date(year or 1900, 1, 1), datetime.date(year or 1999, 12, 31)
    return f"{first.isoformat()}T00:00:00Z", f"{last.isoformat()}T23:59:59Z"


def _projection(cog: Cog) -> Document:
    return {
        "proj:code": f"EPSG:{WEB_MERCATOR}",
        "proj:shape": [cog.height, cog.width],
        "proj:transform": list(cog.transform),
        "proj:bbox": list(cog.box),
    }


def _processing(indexed: IndexedFrame) -> Document:
    """Fields of the processing extension. The profile's hash identifies the options and the code that built the COG."""
    fields: Document = {"processing:software": {"ls4": f"profile {indexed.cog.profile}"}} if indexed.cog else {}
    if indexed.source_crs:
        fields["processing:lineage"] = f"Scanned, georeferenced in {indexed.source_crs}, written in EPSG:{WEB_MERCATOR}."
    return fields


def _assets(indexed: IndexedFrame, urls: BaseUrls) -> Document:
    frame, columns = indexed.frame, indexed.columns
    cog: Document = {
        "href": columns["dl_georef"],
        "type": _COG,
        "title": "Georeferenced photograph (COG)",
        "roles": [COG.stac_role],
        "bands": [{"name": name, "data_type": "uint8"} for name in FILM_TYPES[frame.film_type].band_names],
    }
    if indexed.cog and indexed.cog.is_current:
        cog["file:size"] = indexed.cog.size
        cog |= {"file:checksum": f"{_SHA256}{indexed.cog.sha256}"} if indexed.cog.sha256 else {}
    assets: dict[str, Document] = {COG.name: cog}
    for product in PRODUCTS:
        if product.is_public and product is not COG:
            href, title = f"{urls.public}/{frame.product_key(product.name)}", product.title.capitalize()
            assets[product.name] = {"href": href, "type": product.content_type, "title": title, "roles": [product.stac_role]}
    if indexed.scan_file:
        assets["scan"] = {"href": columns["dl_orig"], "type": "image/tiff", "title": "Raw scan", "roles": ["source"]}
    return assets


def _collection_assets(
    collection: Collection, frames: Sequence[IndexedFrame], overview_key: str | None, public_url: str
) -> Document:
    def asset(key: str, media_type: str, title: str, *roles: str) -> Document:
        return {"href": f"{public_url}/{key}", "type": media_type, "title": title, "roles": list(roles)}

    assets = {
        "items": asset(export_keys.stac_parquet_key(collection), PARQUET, "All items as stac-geoparquet", "collection-mirror"),
        "footprints_geojson": asset(
            export_keys.footprints_key(collection, ".geojson"), GEOJSON, "Footprints (GeoJSON)", "metadata"
        ),
        "footprints_parquet": asset(
            export_keys.footprints_key(collection, ".parquet"), PARQUET, "Footprints (GeoParquet)", "metadata"
        ),
    }
    for film_type in _film_types(frames):
        zipped = {"href": index_url(collection, film_type, public_url), "type": "application/zip", "roles": ["metadata"]}
        assets[f"tile_index_{film_type}"] = {**zipped, "title": "Tile index (zipped shapefile)"}
        if any(indexed.frame.film_type == film_type and indexed.cog for indexed in frames):
            title = "All frames as one raster (GDAL raster tile index)"
            assets[f"mosaic_{film_type}"] = asset(export_keys.mosaic_index_key(collection, film_type), GEOPACKAGE, title, "data")
    if overview_key:
        assets["overview"] = asset(overview_key, _COG, "Overview mosaic, coarse (COG)", "overview")
    return assets


def _map_links(collection: Collection, urls: BaseUrls) -> list[Document]:
    png = {"type": "image/png", "title": collection.title}
    return [
        {"rel": "wms", "href": wms_url(collection, urls.maps), "wms:layers": [collection.name], "wms:transparent": True, **png},
        {"rel": "xyz", "href": f"{tiles_url(collection, urls.maps)}/{{z}}/{{x}}/{{y}}.png", **png},
        {
            "rel": "tilejson",
            "href": f"{tiles_url(collection, urls.maps)}/tilejson.json",
            "type": "application/json",
            "title": collection.title,
        },
    ]


def _film_types(frames: Sequence[IndexedFrame]) -> list[FilmType]:
    return [film_type for film_type in FILM_TYPES if any(indexed.frame.film_type == film_type for indexed in frames)]
