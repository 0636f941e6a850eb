"""Public URLs: a frame's three download links, and its place on the map page. Object keys are in `names` and
`export_keys`, addresses of maps in the map publishers.

The download links are a contract with published tile indexes (legacy columns dl_orig, dl_georef, dl_index).
"""

from dataclasses import dataclass
from urllib.parse import quote

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.names import Collection, Frame


@dataclass(frozen=True)
class Links:
    """Download links of a frame; `dl_orig` is "N/A" for a mosaic sheet, which has no scan."""

    dl_orig: str
    dl_georef: str
    dl_index: str


def build_links(frame: Frame, public_url: str, scan_file: str | None) -> Links:
    """Download links of `frame`. `scan_file` is the raw scan's file name, if known, because scans keep their case (.TIF)."""
    file = scan_file or (f"{frame.scan_stem}.tif" if frame.scan_stem else None)
    return Links(
        dl_orig=f"{public_url}/{frame.folder}/scanned/{file}" if file else "N/A",
        dl_georef=f"{public_url}/{frame.cog_key}",
        dl_index=index_url(frame.collection, frame.film_type, public_url),
    )


def index_url(collection: Collection, film_type: FilmType, public_url: str) -> str:
    """URL of the zipped shapefile of a collection, below one of its film types."""
    return f"{public_url}/{collection.tile_index_key(film_type, '_idx.zip')}"


def collection_page_url(collection: Collection, map_url: str) -> str:
    """URL of the map page that shows the collection (mapserver/viewer/src/address.js)."""
    return f"{map_url}/#{collection.table}"


def map_page_url(frame: Frame, map_url: str) -> str:
    """URL of the map page that shows the frame, zoomed to it (mapserver/viewer/src/address.js)."""
    return f"{collection_page_url(frame.collection, map_url)}?frame={quote(f'{frame.film_type}/{frame.stem}')}"
