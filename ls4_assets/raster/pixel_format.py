"""Decide by the header how the pixels of a scan are stored, and whether they must be converted to 8-bit gray or RGB.

`convert` converts the pixels. Formats that nobody can show right are rejected here, with a command where one helps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from ls4_assets.domain.film_types import FILM_TYPES, FilmType, join_or
from ls4_assets.errors import FrameError
from ls4_assets.raster.cielab import CIELAB, ICCLAB
from ls4_assets.raster.icc import MAX_BYTES, IccTransform, read_icc
from ls4_assets.raster.pages import Page
from ls4_assets.raster.tiff_directories import EXTRA_SAMPLES, PHOTOMETRIC, read_icc_profile

PixelKind = Literal["plain", "few bits", "palette", "wide", "cielab"]

_UNKNOWN_COLORS = {
    10: "ITU L*a*b*",
    32803: "the raw mosaic of a camera's sensor (CFA)",
    32844: "CIE Log2(L)",
    32845: "CIE Log2(L) (u', v')",
    34892: "the linear raw data of a camera (LinearRaw)",
}
_CMYK = 5
_EXPORT = "export it again as a GeoTIFF in RGB or gray and drop that"
_GRAY_TOLERANCE = 3
"""Largest difference of red, green and blue in a palette that is still gray: rounding of a profile conversion."""


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels are stored.

    bits: used bits of each value, where the file names fewer than its type has. palette: 8-bit colors of shape (bands, values).
    is_premultiplied: colors are stored multiplied by alpha. icc: an embedded profile that has to be applied.
    """

    kind: PixelKind
    dtype: str
    min_is_white: bool
    bits: int | None = None
    palette: NDArray[np.uint8] | None = None
    is_premultiplied: bool = False
    is_offset_lab: bool = False
    icc: IccTransform | None = None

    @property
    def needs_conversion(self) -> bool:
        return self.kind != "plain" or self.is_premultiplied or self.icc is not None


def read_pixel_format(dataset: DatasetReader, page: Page | None, path: Path) -> PixelFormat:
    """Return the format of the open page; raises FrameError for one that cannot be converted."""
    photometric = page.directory.number(PHOTOMETRIC, 1) if page else 1
    if name := _UNKNOWN_COLORS.get(photometric):
        raise FrameError(f"{path.name} stores its colors as {name}, which this system cannot show; {_EXPORT}.")
    dtypes = set(dataset.dtypes)
    dtype = dataset.dtypes[0]
    if len(dtypes) > 1:
        raise FrameError(f"{path.name} has bands of different types ({join_or(sorted(dtypes))}); {_EXPORT}.")
    if "complex" in dtype:
        raise FrameError(
            f"{path.name} has complex pixels ({dtype}) and a frame is a photograph; convert it with gdal_translate -ot Float32 "
            "and drop the result."
        )
    if dtype != "uint8" and ColorInterp.cyan in dataset.colorinterp:
        raise FrameError(f"{path.name} is in CMYK with more than 8 bits per band; {_EXPORT}.")
    min_is_white = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    nbits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    bits = int(nbits) if nbits and np.issubdtype(np.dtype(dtype), np.integer) else None
    is_premultiplied = (
        bool(page and 1 in page.directory.values.get(EXTRA_SAMPLES, ())) and ColorInterp.alpha in dataset.colorinterp
    )
    if photometric in (CIELAB, ICCLAB):
        if dtype not in ("uint8", "uint16") or bits:
            raise FrameError(f"{path.name} is in CIE L*a*b* of other than 8 or 16 bits per band; {_EXPORT}.")
        return PixelFormat("cielab", dtype, False, is_offset_lab=photometric == ICCLAB)
    # GDAL also reports a palette for a MINISWHITE image.
    if dataset.colorinterp[0] == ColorInterp.palette and not min_is_white:
        return PixelFormat("palette", dtype, False, bits, _read_palette(dataset))
    if dtype != "uint8":
        return PixelFormat("wide", dtype, min_is_white, bits, is_premultiplied=is_premultiplied)
    if bits and bits < 8:
        return PixelFormat("few bits", dtype, min_is_white, bits)
    icc = _read_profile(dataset, page)
    return PixelFormat("plain", dtype, min_is_white, is_premultiplied=is_premultiplied, icc=icc)


def _read_profile(dataset: DatasetReader, page: Page | None) -> IccTransform | None:
    """Return the transform of an embedded profile that belongs to the colors that GDAL returns; None for sRGB."""
    if page is None or page.directory.number(PHOTOMETRIC, 1) == _CMYK:
        return None
    colors = [color for color in dataset.colorinterp if color not in (ColorInterp.alpha, ColorInterp.undefined)]
    transform = read_icc(read_icc_profile(page.path, page.directory, MAX_BYTES), 1 if len(colors) == 1 else 3)
    return transform if transform and transform.changes_pixels else None


def _read_palette(dataset: DatasetReader) -> NDArray[np.uint8]:
    """Return the palette as the colors of red, green and blue for every value, shape (3, values)."""
    colors = dataset.colormap(1)
    palette = np.zeros((3, np.iinfo(dataset.dtypes[0]).max + 1), np.uint8)
    for value, color in colors.items():
        if 0 <= value < palette.shape[1]:
            palette[:, value] = color[:3]
    return palette


def reduce_palette(palette: NDArray[np.uint8], used: NDArray[np.bool_], film_type: FilmType, name: str) -> NDArray[np.uint8]:
    """Return the palette with the bands of the film type; raises FrameError when the used colors do not fit it.

    used: shape (values,), the values that the photograph's valid pixels have. name: of the file.
    """
    colors = palette[:, used].astype(int)
    if colors.shape[1] > 1 and (colors == colors[:, :1]).all():
        raise FrameError(
            f"{name} has a palette that shows all of its {colors.shape[1]} values in the same color; export it again as a "
            "GeoTIFF in gray without a palette and drop that."
        )
    if FILM_TYPES[film_type].bands > 1:
        return palette
    if colors.size and (colors.max(axis=0) - colors.min(axis=0)).max() > _GRAY_TOLERANCE:
        others = [f"under {other}/ if it is in {spec.title}" for other, spec in FILM_TYPES.items() if spec.bands > 1]
        raise FrameError(
            f"{name} has a color palette and a frame under {film_type}/ needs {FILM_TYPES[film_type].required_bands}; drop it "
            f"{join_or(others)}, or convert it with gdal_translate -expand gray and drop the result."
        )
    gray: NDArray[np.uint8] = palette.mean(axis=0, keepdims=True).round().astype(np.uint8)
    return gray
