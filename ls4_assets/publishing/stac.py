"""STAC 1.1 documents as plain dictionaries: items for frames, collections for collections, and the root catalog.

Specification: https://github.com/radiantearth/stac-spec; extensions: projection 2.0, file 2.1, processing 1.2, scientific 1.0,
web-map-links 1.2.
Unknown values are omitted; size and checksum appear only if they belong to the public COG. `exports` writes the documents.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ls4_assets.db.schema import WEB_MERCATOR
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import EXPORTS
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.links import index_url
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import COG, PRODUCTS
from ls4_assets.domain.rights import Rights
from ls4_assets.publishing.rows import Cog, IndexedFrame, exported_frames

VERSION = "1.1.0"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"
WEB_MAP_LINKS = "https://stac-extensions.github.io/web-map-links/v1.2.0/schema.json"

GEOJSON = "application/geo+json"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# Prefix of a multihash: the code of SHA2-256 and the length, 32 bytes.
_SHA256 = "1220"

Document = dict[str, Any]


@dataclass(frozen=True)
class BaseUrls:
    """Base URL, without a trailing slash, of the public objects.

    `host` is the organization that publishes them; `rights` are those of the collection.
    """

    public: str
    host: str | None = None
    rights: Rights = field(default_factory=Rights)


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
    collection: Collection,
    frames: Sequence[IndexedFrame],
    overview_key: str | None,
    urls: BaseUrls,
    map_links: Sequence[Document],
) -> Document:
    """Collection document with links to its maps and all items. `overview_key` is the key of the overview mosaic."""
    intervals = [_acquired_interval(indexed) for indexed in frames]
    sides = list(zip(*(indexed.box for indexed in frames), strict=True))
    box = [min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3])]
    items = [
        {"rel": "item", "href": f"./items/{indexed.frame.film_type}/{indexed.frame.stem}.json", "type": GEOJSON}
        for indexed in frames
    ]
    rights = urls.rights
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [*([SCIENTIFIC] if rights.citation else []), WEB_MAP_LINKS],
        "id": collection.name,
        "title": collection.label,
        "description": f"{len(frames):,} scanned and georeferenced aerial photographs ({collection.type}) of {collection.label}.",
        "keywords": [collection.shard, collection.agency, collection.type],
        "license": rights.license_id or "other",
        **({"sci:citation": rights.citation} if rights.citation else {}),
        "providers": [
            {
                "name": collection.agency,
                **({"description": rights.attribution} if rights.attribution else {}),
                "roles": ["producer"],
            },
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
            *_license_links(rights),
            *map_links,
            *items,
        ],
        "assets": _collection_assets(collection, frames, overview_key, urls.public),
    }


def _license_links(rights: Rights) -> list[Document]:
    return [{"rel": "license", "href": rights.license_url, "title": rights.license or "License"}] if rights.license_url else []


def build_root_catalog(collections: Sequence[Collection], urls: BaseUrls) -> Document:
    """Root catalog with links to all collections."""
    children = [
        {
            "rel": "child",
            "href": f"./{collection.name}/stac/collection.json",
            "type": "application/json",
            "title": collection.label,
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
    def asset(href: str, media_type: str, title: str, role: str) -> Document:
        return {"href": href, "type": media_type, "title": title, "roles": [role]}

    def exported(film_type: FilmType | None) -> Document:
        return {
            export.asset_name(film_type): asset(
                f"{public_url}/{export.key_of(collection, film_type)}", export.content_type, export.title, export.stac_role
            )
            for export in EXPORTS
            if export.is_per_film_type == bool(film_type) and exported_frames(export, film_type, frames)
        }

    assets = exported(None)
    for film_type in _film_types(frames):
        zipped = index_url(collection, film_type, public_url)
        assets[f"tile_index_{film_type}"] = asset(zipped, "application/zip", "Tile index (zipped shapefile)", "metadata")
        assets |= exported(film_type)
    if overview_key:
        assets["overview"] = asset(f"{public_url}/{overview_key}", _COG, "Overview mosaic, coarse (COG)", "overview")
    return assets


def _film_types(frames: Sequence[IndexedFrame]) -> list[FilmType]:
    return [film_type for film_type in FILM_TYPES if any(indexed.frame.film_type == film_type for indexed in frames)]
