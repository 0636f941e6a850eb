"""May this finished COG be served as it is? Told from its header and its mask at one small overview: a few range requests.

The layout's rules are those of rio-cogeo's strict validation, asked of one open file: `cog_validate` opens the file anew for each
overview, which would cost more than all the rest (test_adopt_header.py compares the verdicts).
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

from ls4_assets.domain.names import FilmType
from ls4_assets.errors import FrameError
from ls4_assets.raster.footprint import outline
from ls4_assets.raster.gdal_env import GDAL_ERRORS
from ls4_assets.raster.georeference import WEB_MERCATOR

_OUTLINE_GRID = 512
"""Pixels of the longer side of the mask that the footprint is drawn from: a thousandth of a frame's side, in one tile."""
_SMALLEST_OVERVIEW = 1024
"""A map of the whole frame reads its smallest overview: that may have at most so many pixels on its longer side."""
_SMALL = 512
"""An image of this size or less needs neither tiles nor overviews."""
_WHITE, _MOSTLY, _PROBES = 250, 0.7, 16
"""A mask whose holes are white at most of so many places (JPEG blurs it a little) was drawn by value."""
_GHOST_AREA = 300
_BANDS = {"bw": 1, "nc": 3}
_SOURCE_TAG = "LS4_SOURCE"


@dataclass(frozen=True)
class Header:
    """What the index wants to know. `masked`: something tells the photograph from its collar; without it the footprint is the
    image's rectangle. `source_sha256`: where ls4 made the COG, hash of the tif it was made from; else empty."""

    width: int
    height: int
    transform: tuple[float, ...]
    footprint: bytes
    masked: bool
    source_sha256: str


def read_header(path: str, size: int, film_type: FilmType) -> Header:
    """Read a COG of `size` bytes by its GDAL path. Raises FrameFault: half a sentence that says what is wrong with it."""
    try:
        with rasterio.open(path) as cog:
            for defect in _defects(cog, size, film_type):
                raise FrameError(defect)
            mask = _mask(cog)
            drawn = outline(mask, array_bounds(cog.height, cog.width, cog.transform))
            place, source = tuple(cog.transform)[:6], cog.tags().get(_SOURCE_TAG, "")
            return Header(cog.width, cog.height, place, drawn.wkb, mask is not None, source)
    except GDAL_ERRORS as error:
        what = str(error).strip().partition("\n")[0].rstrip(".")
        raise FrameError(f"cannot be read ({what}), as when it is no tif or was cut off") from error


def _defects(cog: DatasetReader, size: int, film_type: FilmType) -> Iterator[str]:
    """The gravest first."""
    if cog.driver != "GTiff":
        yield f"is a {cog.driver}, not a GeoTIFF"
    if ColorInterp.alpha in cog.colorinterp:
        yield "has an alpha band where the COGs of the archive have a mask"
    if (cog.count, set(cog.dtypes)) != (_BANDS[film_type], {"uint8"}) or cog.colorinterp[0] == ColorInterp.palette:
        yield f"has {cog.count} band(s) of {cog.dtypes[0]}, and under {film_type}/ a COG has {_BANDS[film_type]} of uint8 without a palette"
    if not _is_web_mercator(cog.crs):
        yield f"is not in EPSG:3857 (its coordinate system: {cog.crs.to_string() if cog.crs else 'none'})"
    if cog.transform.b or cog.transform.d or cog.transform.a <= 0 or cog.transform.e >= 0:
        yield "is rotated or not north up"
    if cog.nodata == 255:
        yield "shows true white as transparent (its no-data value is 255)"
    levels = cog.overviews(1)
    longer = max(cog.shape)
    if longer > _SMALL and not levels:
        yield "has no overviews"
    elif longer > _SMALL and -(-longer // levels[-1]) > _SMALLEST_OVERVIEW:
        yield f"has too few overviews (down to 1:{levels[-1]} only)"
    yield from _layout_defects(cog, levels, size)


def _is_web_mercator(crs: CRS | None) -> bool:
    return crs is not None and (crs == WEB_MERCATOR or crs.to_epsg() == 3857)


def _layout_defects(cog: DatasetReader, levels: list[int], size: int) -> Iterator[str]:
    """Directories first, from the full image to the smallest overview; then tiles, the smallest overview's first."""
    rows, columns = cog.block_shapes[0]
    if max(cog.shape) > _SMALL and columns == cog.width:
        yield "is no COG: it is not tiled"
    if "KNOWN_INCOMPATIBLE_EDITION=YES" in (cog.get_tag_item("GDAL_STRUCTURAL_METADATA", "TIFF") or ""):
        yield "is no COG any more: it was edited after it had been made"
    each = (None, *range(len(levels)))
    directories = [int(cog.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=level)) for level in each]
    if directories[0] > _GHOST_AREA or directories != sorted(directories):
        yield "is no COG: its directories do not stand at its beginning"
    tiles = [tile for level in each if (tile := _first_tile(cog, level, 1 if level is None else levels[level]))]
    if tiles != sorted(tiles, reverse=True) or (tiles and tiles[-1] < directories[-1]):
        yield "is no COG: the tiles of its overviews do not come before those of the full image"
    last = f"{(cog.width - 1) // columns}_{(cog.height - 1) // rows}"
    offset, length = (_tag(cog, f"{what}_{last}") for what in ("BLOCK_OFFSET", "BLOCK_SIZE"))
    if offset + length > size:
        yield "is truncated: its last tile is missing"


def _first_tile(cog: DatasetReader, level: int | None, factor: int) -> int:
    """Offset of the first tile that holds anything; 0 when none does."""
    rows, columns = cog.block_shapes[0]
    down, across = -(-cog.height // (factor * rows)), -(-cog.width // (factor * columns))
    offsets = (_tag(cog, f"BLOCK_OFFSET_{x}_{y}", level) for y in range(down) for x in range(across))
    return next((offset for offset in offsets if offset), 0)


def _tag(cog: DatasetReader, name: str, level: int | None = None) -> int:
    return int(cog.get_tag_item(name, "TIFF", bidx=1, ovr=level) or 0)


def _mask(cog: DatasetReader) -> NDArray[np.uint8] | None:
    """The valid pixels, coarsely: by the internal mask or an honest no-data value; None when every pixel counts."""
    if MaskFlags.all_valid in cog.mask_flag_enums[0]:
        return None
    levels = [1, *cog.overviews(1)]
    factor = next((level for level in levels if max(cog.shape) <= _OUTLINE_GRID * level), levels[-1])
    size = (-(-cog.height // factor), -(-cog.width // factor))
    mask: NDArray[np.uint8] = cog.read_masks(1, out_shape=size, resampling=Resampling.nearest)
    if not mask.any():
        raise FrameError("has no valid pixel")
    if MaskFlags.per_dataset in cog.mask_flag_enums[0] and _white_holes(cog, mask, factor):
        raise FrameError("shows true white as transparent (its mask has holes where the photograph is white)")
    return mask


def _white_holes(cog: DatasetReader, mask: NDArray[np.uint8], factor: int) -> bool:
    """Is the photograph white, in the full image, where the coarse mask has holes? Overviews know nothing of masked pixels.

    ls4's own masks have no holes to speak of: this reads nothing but of COGs of another chain.
    """
    holes = np.argwhere(_holes(mask))
    if len(holes) == 0:
        return False
    probes = holes[np.linspace(0, len(holes) - 1, _PROBES, dtype=int)]
    windows = [Window(column * factor, row * factor, 1, 1) for row, column in probes]
    return bool(np.mean([(cog.read(window=window) >= _WHITE).all() for window in windows]) > _MOSTLY)


def _holes(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masked pixels inside the photograph: a collar reaches the image's edge."""
    parts, _ = scipy.ndimage.label(mask == 0)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    holes: NDArray[np.bool_] = (parts > 0) & ~np.isin(parts, edge)
    return holes
