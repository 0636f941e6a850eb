"""Decide from its header whether a finished COG can be served as it is; a few range requests each.

The layout rules are those of rio-cogeo's strict validation, applied to one open dataset. `cog_validate` itself reopens the file
for each overview, which would cost more than everything else here (test_adopt_header.py compares the verdicts).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import rasterio
import scipy.ndimage
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.transform import array_bounds
from rasterio.windows import Window

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.errors import FrameError
from ls4_assets.raster.footprint import trace_outline
from ls4_assets.raster.gdal_env import GDAL_ERRORS
from ls4_assets.raster.interior import trace_dataset_interior
from ls4_assets.raster.position import WEB_MERCATOR

_OUTLINE_GRID_PX = 512
"""Longer side of the mask that the footprint is drawn from: precise to a thousandth of a frame's side, and one tile to read."""
_SMALLEST_OVERVIEW_MAX_PX = 1024
"""Longer side that the smallest overview may have: a map of the whole frame reads it."""
_SMALL_IMAGE_PX = 512
"""An image of at most this size needs neither tiles nor overviews."""
_WHITE, _WHITE_SHARE, _PROBE_COUNT = 250, 0.7, 16
"""A mask was derived from pixel values if its holes are white in more than this share of probes. JPEG blurs white a little."""
_MAX_FIRST_IFD_OFFSET = 300
"""Bytes that may precede the first directory: the TIFF header and GDAL's ghost area."""
_SOURCE_TAG = "LS4_SOURCE"


@dataclass(frozen=True)
class CogHeader:
    """What the index needs from a COG.

    `footprint`: WKB in EPSG:3857. `has_mask`: a mask or a no-data value separates the photograph from its collar; without one
    the footprint is the image's rectangle. `interior`: WKB, of a COG without a mask only, because it would take the whole mask
    to read; None otherwise. `source_sha256`: hash of the source tif if ls4 made the COG, else empty.
    """

    width: int
    height: int
    transform: tuple[float, ...]
    footprint: bytes
    interior: bytes | None
    has_mask: bool
    source_sha256: str


def read_header(path: str, size: int, film_type: FilmType) -> CogHeader:
    """Read and check a COG of `size` bytes at a GDAL path.

    Raises FrameError with the rest of a sentence that begins with the COG's name.
    """
    try:
        with rasterio.open(path) as cog:
            for defect in _find_defects(cog, size, film_type):
                raise FrameError(defect)
            mask = _read_mask(cog)
            footprint = trace_outline(mask, array_bounds(cog.height, cog.width, cog.transform))
            transform, source_sha256 = tuple(cog.transform)[:6], cog.tags().get(_SOURCE_TAG, "")
            interior = trace_dataset_interior(cog) if mask is None else None
            return CogHeader(
                cog.width,
                cog.height,
                transform,
                footprint.wkb,
                interior.wkb if interior else None,
                mask is not None,
                source_sha256,
            )
    except GDAL_ERRORS as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise FrameError(f"cannot be read ({reason}): it is not a tif, or it is truncated") from error


def _find_defects(cog: DatasetReader, size: int, film_type: FilmType) -> Iterator[str]:
    """Yield the defects, the most serious first."""
    if cog.driver != "GTiff":
        yield f"is a {cog.driver}, not a GeoTIFF"
    if ColorInterp.alpha in cog.colorinterp:
        yield "has an alpha band where the COGs of the archive have a mask"
    expected = FILM_TYPES[film_type].bands
    if (cog.count, set(cog.dtypes)) != (expected, {"uint8"}) or cog.colorinterp[0] == ColorInterp.palette:
        yield f"has {cog.count} band(s) of {cog.dtypes[0]}; a COG under {film_type}/ has {expected} of uint8 without a palette"
    if not _is_web_mercator(cog.crs):
        yield f"is not in EPSG:3857 (its coordinate system: {cog.crs.to_string() if cog.crs else 'none'})"
    if cog.transform.b or cog.transform.d or cog.transform.a <= 0 or cog.transform.e >= 0:
        yield "is rotated or not north up"
    if cog.nodata == 255:
        yield "shows true white as transparent (its no-data value is 255)"
    levels = cog.overviews(1)
    longer_side = max(cog.shape)
    if longer_side > _SMALL_IMAGE_PX and not levels:
        yield "has no overviews"
    elif longer_side > _SMALL_IMAGE_PX and -(-longer_side // levels[-1]) > _SMALLEST_OVERVIEW_MAX_PX:
        yield f"has too few overviews (down to 1:{levels[-1]} only)"
    yield from _find_layout_defects(cog, levels, size)


def _is_web_mercator(crs: CRS | None) -> bool:
    return crs is not None and (crs == WEB_MERCATOR or crs.to_epsg() == 3857)


def _find_layout_defects(cog: DatasetReader, levels: list[int], size: int) -> Iterator[str]:
    """Check the order in the file: directories from the full image to the smallest overview, then tiles in the reverse order."""
    rows, columns = cog.block_shapes[0]
    if max(cog.shape) > _SMALL_IMAGE_PX and columns == cog.width:
        yield "is not a COG: it is not tiled"
    if "KNOWN_INCOMPATIBLE_EDITION=YES" in (cog.get_tag_item("GDAL_STRUCTURAL_METADATA", "TIFF") or ""):
        yield "is no longer a COG: it was edited after it was written"
    images = (None, *range(len(levels)))
    directories = [int(cog.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=level)) for level in images]
    if directories[0] > _MAX_FIRST_IFD_OFFSET or directories != sorted(directories):
        yield "is not a COG: its directories (IFDs) are not at the start of the file"
    tiles = [tile for level in images if (tile := _first_tile_offset(cog, level, 1 if level is None else levels[level]))]
    if tiles != sorted(tiles, reverse=True) or (tiles and tiles[-1] < directories[-1]):
        yield "is not a COG: the tiles of its overviews do not precede those of the full image"
    last = f"{(cog.width - 1) // columns}_{(cog.height - 1) // rows}"
    offset, length = (_read_int_tag(cog, f"{name}_{last}") for name in ("BLOCK_OFFSET", "BLOCK_SIZE"))
    if offset + length > size:
        yield "is truncated: its last tile is missing"


def _first_tile_offset(cog: DatasetReader, level: int | None, factor: int) -> int:
    """Return the offset in bytes of the first tile that has data; 0 when none has."""
    rows, columns = cog.block_shapes[0]
    down, across = -(-cog.height // (factor * rows)), -(-cog.width // (factor * columns))
    offsets = (_read_int_tag(cog, f"BLOCK_OFFSET_{x}_{y}", level) for y in range(down) for x in range(across))
    return next((offset for offset in offsets if offset), 0)


def _read_int_tag(cog: DatasetReader, name: str, level: int | None = None) -> int:
    return int(cog.get_tag_item(name, "TIFF", bidx=1, ovr=level) or 0)


def _read_mask(cog: DatasetReader) -> NDArray[np.uint8] | None:
    """Return a coarse mask of valid pixels, from the internal mask or a no-data value; None when every pixel is valid."""
    if MaskFlags.all_valid in cog.mask_flag_enums[0]:
        return None
    levels = [1, *cog.overviews(1)]
    factor = next((level for level in levels if max(cog.shape) <= _OUTLINE_GRID_PX * level), levels[-1])
    shape = (-(-cog.height // factor), -(-cog.width // factor))
    mask: NDArray[np.uint8] = cog.read_masks(1, out_shape=shape, resampling=Resampling.nearest)
    if not mask.any():
        raise FrameError("has no valid pixel")
    if MaskFlags.per_dataset in cog.mask_flag_enums[0] and _has_white_holes(cog, mask, factor):
        raise FrameError("shows true white as transparent (its mask has holes where the photograph is white)")
    return mask


def _has_white_holes(cog: DatasetReader, mask: NDArray[np.uint8], factor: int) -> bool:
    """Return whether the full image is white where the coarse mask has holes. Overviews hold no values for masked pixels.

    The masks of ls4 have next to no holes, so only the COGs of other pipelines cost reads here.
    """
    holes = np.argwhere(_find_holes(mask))
    if len(holes) == 0:
        return False
    probes = holes[np.linspace(0, len(holes) - 1, _PROBE_COUNT, dtype=int)]
    windows = [Window(column * factor, row * factor, 1, 1) for row, column in probes]
    return bool(np.mean([(cog.read(window=window) >= _WHITE).all() for window in windows]) > _WHITE_SHARE)


def _find_holes(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the masked pixels inside the photograph. A collar touches the image's edge; a hole does not."""
    regions, _ = scipy.ndimage.label(mask == 0)
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    holes: NDArray[np.bool_] = (regions > 0) & ~np.isin(regions, edge)
    return holes
