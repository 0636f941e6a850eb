"""Files of the sample data: plain tifs, world files and other sidecars, and the numbers inked on prints."""

import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

Image = NDArray[np.uint8]  # (bands, rows, columns)

# One 3 x 5 pixel glyph per character: five rows of three bits, in octal.
GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71122", "8": "75757", "9": "75717", "-": "00700",
}  # fmt: skip


def write_label(print_: Image, text: str) -> None:
    """Write digits and dashes in white ink into the upper left corner of a print."""
    glyphs = [[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in GLYPHS[character]] for character in text]
    ink = np.kron(np.concatenate(glyphs, axis=1), np.ones((5, 5), np.uint8)).astype(bool)
    print_[14 : 14 + ink.shape[0], 16 : 16 + ink.shape[1]][ink] = 250


def format_world_file(transform: Affine) -> str:
    """The six lines of an ESRI world file, whose origin is the center of the first pixel."""
    x, y = transform @ (0.5, 0.5)
    return "".join(f"{value!r}\n" for value in (transform.a, transform.d, transform.b, transform.e, x, y))


def write_sidecar(folder: Path, key: str, text: str) -> str:
    """Write a text file; returns its key."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return key


def write_tif(
    folder: Path,
    key: str,
    image: Image,
    transform: Affine | None = None,
    crs: CRS | None = None,
    *,
    nodata: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> str:
    """Write one tif as scanners and GIS software do: in strips, uncompressed; returns its key."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = image.shape
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": bands,
        "height": height,
        "width": width,
        "nodata": nodata,
    }
    if transform is not None:
        profile |= {"transform": transform, "crs": crs}
    if bands == 3:
        profile["photometric"] = "RGB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a raw scan has no georeference
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as tif:
            tif.write(image)
            if mask is not None:
                tif.write_mask(mask)
    return key
