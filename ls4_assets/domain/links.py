"""Where people find a frame: its three download links and its collection's map addresses.

The wording of the links is a contract with published catalogues (legacy columns dl_orig, dl_georef, dl_index).
"""

from dataclasses import dataclass

from ls4_assets.domain.names import Collection, FilmType, Frame


@dataclass(frozen=True)
class Links:
    """`dl_orig` is "N/A" for a mosaic, which has no scan."""

    dl_orig: str
    dl_georef: str
    dl_index: str


def links(frame: Frame, public_url: str, scan_file: str | None) -> Links:
    """`scan_file` is the raw scan's real file name when it is known: staff's scans keep their case (.TIF)."""
    file = scan_file or (f"{frame.scan_stem}.tif" if frame.scan_stem else None)
    return Links(
        dl_orig=f"{public_url}/{frame.folder}/scanned/{file}" if file else "N/A",
        dl_georef=f"{public_url}/{frame.cog_key}",
        dl_index=index_url(frame.collection, frame.film_type, public_url),
    )


def index_url(collection: Collection, film_type: FilmType, public_url: str) -> str:
    """The zipped shapefile, as it lies under one band of the collection."""
    return f"{public_url}/{collection.tile_index_key(film_type, '_idx.zip')}"


def map_url(collection: Collection, map_front: str) -> str:
    """The address that published maps use; a WMS client adds its own parameters."""
    return f"{map_front}/?map=/{collection.map_key}"


def wms_url(collection: Collection, map_front: str) -> str:
    """The same map without a path in the address: what is handed out anew."""
    return f"{map_front}/wms/{collection.table}"


def tiles_url(collection: Collection, map_front: str) -> str:
    """What stands before /{z}/{x}/{y}.png and /tilejson.json."""
    return f"{map_front}/tiles/{collection.table}"
