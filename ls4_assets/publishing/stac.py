"""STAC 1.1 documents as plain dictionaries: an item a frame, a collection a collection, one root catalog.

Specification: https://github.com/radiantearth/stac-spec; extensions: projection 2.0, file 2.1, processing 1.2, web-map-links 1.2.
What is not known is left out: a checksum is the COG's own or none.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ls4_assets.db.schema import WEB_MERCATOR
from ls4_assets.domain import export_keys
from ls4_assets.domain.links import index_url, tiles_url, wms_url
from ls4_assets.domain.names import FILM_TYPES, Collection, FilmType
from ls4_assets.publishing.rows import Cog, Shown

VERSION = "1.1.0"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
WEB_MAP_LINKS = "https://stac-extensions.github.io/web-map-links/v1.2.0/schema.json"

GEOJSON = "application/geo+json"
PARQUET = "application/vnd.apache.parquet"
GEOPACKAGE = "application/geopackage+sqlite3"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# A multihash: the code of SHA2-256, and that 32 bytes follow.
_SHA256 = "1220"
_COLOURS: dict[FilmType, tuple[str, ...]] = {"bw": ("gray",), "nc": ("red", "green", "blue")}

Document = dict[str, Any]


@dataclass(frozen=True)
class Addresses:
    """Without a trailing slash: of the archive's public objects, and of the map front; `host` is who answers for them."""

    public: str
    maps: str
    host: str | None = None


def item_id(shown: Shown) -> str:
    return f"{shown.frame.film_type}_{shown.frame.stem}"


def item(shown: Shown, geometry: Document, at: Addresses) -> Document:
    """A photograph. `geometry` is the footprint in degrees."""
    of = shown.frame.collection
    start, end = _taken(shown)
    attributes = {f"ls4:{name}": shown.columns[name] for name in ("date", "roll", "frame_num", "band")}
    extensions = [FILE, PROCESSING, PROJECTION] if shown.cog else [FILE, PROCESSING]
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": extensions,
        "id": item_id(shown),
        "collection": of.name,
        "geometry": geometry,
        "bbox": list(shown.box),
        "properties": {
            "datetime": None,
            "start_datetime": start,
            "end_datetime": end,
            **attributes,
            **(_projection(shown.cog) if shown.cog else {}),
            **_processing(shown),
        },
        "links": [
            {"rel": "root", "href": "../../../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../../collection.json", "type": "application/json"},
            {"rel": "self", "href": f"{at.public}/{export_keys.stac_item_key(shown.frame)}", "type": GEOJSON},
        ],
        "assets": _assets(shown, at),
    }


def collection(of: Collection, frames: Sequence[Shown], overview_key: str | None, at: Addresses) -> Document:
    """A collection with all its frames. `overview_key`: of its overview mosaic."""
    taken = [_taken(shown) for shown in frames]
    sides = list(zip(*(shown.box for shown in frames), strict=True))
    box = [min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3])]
    items = [
        {"rel": "item", "href": f"./items/{shown.frame.film_type}/{shown.frame.stem}.json", "type": GEOJSON} for shown in frames
    ]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [WEB_MAP_LINKS],
        "id": of.name,
        "title": of.title,
        "description": f"{len(frames):,} scanned and georeferenced aerial photographs ({of.type}) of {of.title}.",
        "keywords": [of.shard, of.agency, of.type],
        "license": "other",
        "providers": [
            {"name": of.agency, "roles": ["producer"]},
            *([{"name": at.host, "roles": ["processor", "host"]}] if at.host else []),
        ],
        "extent": {
            "spatial": {"bbox": [box]},
            "temporal": {"interval": [[min(start for start, _ in taken), max(end for _, end in taken)]]},
        },
        "summaries": {"ls4:band": _bands(frames), "proj:code": [f"EPSG:{WEB_MERCATOR}"]},
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "self", "href": f"{at.public}/{export_keys.stac_collection_key(of)}", "type": "application/json"},
            *_map_links(of, at),
            *items,
        ],
        "assets": _collection_assets(of, frames, overview_key, at.public),
    }


def root(collections: Sequence[Collection], at: Addresses) -> Document:
    """The catalog of all collections."""
    children = [
        {"rel": "child", "href": f"./{of.name}/stac/collection.json", "type": "application/json", "title": of.title}
        for of in collections
    ]
    return {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": "historical-aerial-photographs",
        "title": "Historical aerial photographs",
        "description": "Scanned and georeferenced aerial photographs, a collection for each county, agency and year.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "self", "href": f"{at.public}/{export_keys.ROOT_CATALOG_KEY}", "type": "application/json"},
            *children,
        ],
    }


def _taken(shown: Shown) -> tuple[str, str]:
    """The day; the year where the name holds no more; the century where it holds nothing."""
    first = last = shown.acquired
    if first is None or last is None:
        year = shown.frame.collection.year
        first, last = datetime.date(year or 1900, 1, 1), datetime.date(year or 1999, 12, 31)
    return f"{first.isoformat()}T00:00:00Z", f"{last.isoformat()}T23:59:59Z"


def _projection(cog: Cog) -> Document:
    return {
        "proj:code": f"EPSG:{WEB_MERCATOR}",
        "proj:shape": [cog.height, cog.width],
        "proj:transform": list(cog.transform),
        "proj:bbox": list(cog.box),
    }


def _processing(shown: Shown) -> Document:
    """By what, and from what: the profile's hash tells products of other options or code apart."""
    told: Document = {"processing:software": {"ls4": f"profile {shown.cog.profile}"}} if shown.cog else {}
    if shown.source_crs:
        told["processing:lineage"] = f"Scanned, georeferenced in {shown.source_crs}, written in EPSG:{WEB_MERCATOR}."
    return told


def _assets(shown: Shown, at: Addresses) -> Document:
    frame, columns = shown.frame, shown.columns
    cog: Document = {
        "href": columns["dl_georef"],
        "type": _COG,
        "title": "Georeferenced photograph (COG)",
        "roles": ["data"],
        "bands": [{"name": name, "data_type": "uint8"} for name in _COLOURS[frame.film_type]],
    }
    if shown.cog and shown.cog.current:
        cog["file:size"] = shown.cog.size
        cog |= {"file:checksum": f"{_SHA256}{shown.cog.sha256}"} if shown.cog.sha256 else {}
    thumbnail = f"{at.public}/{frame.thumbnail_key}"
    assets = {
        "cog": cog,
        "thumbnail": {"href": thumbnail, "type": "image/webp", "title": "Thumbnail", "roles": ["thumbnail"]},
    }
    if shown.scan_file:
        assets["scan"] = {"href": columns["dl_orig"], "type": "image/tiff", "title": "Raw scan", "roles": ["source"]}
    return assets


def _collection_assets(of: Collection, frames: Sequence[Shown], overview_key: str | None, public_url: str) -> Document:
    def asset(key: str, media_type: str, title: str, *roles: str) -> Document:
        return {"href": f"{public_url}/{key}", "type": media_type, "title": title, "roles": list(roles)}

    assets = {
        "items": asset(export_keys.stac_parquet_key(of), PARQUET, "All items as stac-geoparquet", "collection-mirror"),
        "footprints_geojson": asset(export_keys.footprints_key(of, ".geojson"), GEOJSON, "Footprints (GeoJSON)", "metadata"),
        "footprints_parquet": asset(export_keys.footprints_key(of, ".parquet"), PARQUET, "Footprints (GeoParquet)", "metadata"),
    }
    for film_type in _bands(frames):
        zipped = {"href": index_url(of, film_type, public_url), "type": "application/zip", "roles": ["metadata"]}
        assets[f"tile_index_{film_type}"] = {**zipped, "title": "Tile index (zipped shapefile)"}
        if any(shown.frame.film_type == film_type and shown.cog for shown in frames):
            title = "All frames as one raster (GDAL raster tile index)"
            assets[f"mosaic_{film_type}"] = asset(export_keys.mosaic_index_key(of, film_type), GEOPACKAGE, title, "data")
    if overview_key:
        assets["overview"] = asset(overview_key, _COG, "Overview mosaic, coarse (COG)", "overview")
    return assets


def _map_links(of: Collection, at: Addresses) -> list[Document]:
    png = {"type": "image/png", "title": of.title}
    return [
        {"rel": "wms", "href": wms_url(of, at.maps), "wms:layers": [of.name], "wms:transparent": True, **png},
        {"rel": "xyz", "href": f"{tiles_url(of, at.maps)}/{{z}}/{{x}}/{{y}}.png", **png},
        {"rel": "tilejson", "href": f"{tiles_url(of, at.maps)}/tilejson.json", "type": "application/json", "title": of.title},
    ]


def _bands(frames: Sequence[Shown]) -> list[FilmType]:
    return [film_type for film_type in FILM_TYPES if any(shown.frame.film_type == film_type for shown in frames)]
