"""Synthetic scans for the tests: photographs with grain, collars, and tifs of any layout."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from affine import Affine
from numpy.typing import NDArray

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.gdal_env import gdal_env

Pixels = NDArray[np.uint8]

WEST, NORTH = -10_880_000.0, 3_540_000.0
"""Default upper left corner of a scan: a point in Texas in EPSG:3857."""
UTM_PLACE = (620_000.0, 3_350_000.0)
"""A point in Texas in EPSG:26914."""

NODATA_TAG = 42113

BW, NC = PROFILES["bw"], PROFILES["nc"]


def photograph(height: int, width: int, bands: int = 1, seed: int = 7) -> Pixels:
    """Return smooth structures with grain, values 1 to 254, shape (bands, height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    layers = []
    for band in range(bands):
        structure = 125 + 70 * np.sin(x / (61 + 9 * band)) * np.cos(y / 83) + 20 * np.sin((x + y) / 13)
        layers.append(np.clip(structure + rng.normal(0, 4, (height, width)), 1, 254))
    return np.stack(layers).astype(np.uint8)


def rotated_rectangle(height: int, width: int, degrees: float = 7.0, share: float = 0.76) -> NDArray[np.bool_]:
    """Return True inside a rectangle rotated about the image's center: a convex photograph with a collar."""
    y, x = np.mgrid[0:height, 0:width]
    angle = np.radians(degrees)
    u = (x + 0.5 - width / 2) * np.cos(angle) + (y + 0.5 - height / 2) * np.sin(angle)
    v = (y + 0.5 - height / 2) * np.cos(angle) - (x + 0.5 - width / 2) * np.sin(angle)
    inside: NDArray[np.bool_] = (np.abs(u) < share * width / 2) & (np.abs(v) < share * height / 2)
    return inside


def write_tif(path: Path, pixels: Pixels, *, mask: NDArray[np.bool_] | None = None, **options: Any) -> Path:
    """Write `pixels` (bands, height, width) as a GeoTIFF; `options` override EPSG:3857 and pixels of 1 m."""
    bands, height, width = pixels.shape
    defaults: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "crs": "EPSG:3857",
        "transform": Affine(1, 0, WEST, 0, -1, NORTH),
    }
    if bands >= 3 and pixels.dtype == np.uint8:
        defaults |= {"photometric": "RGB"}
    with gdal_env(), rasterio.open(path, "w", **{**defaults, **options}) as target:
        target.write(pixels)
        if mask is not None:
            target.write_mask(mask)
    return path


def write_nodata_tag(path: Path, pixels: Pixels, value: str) -> Path:
    """Write a GeoTIFF whose nodata tag is the text `value`, even one outside uint8, which GDAL cannot write."""
    photo = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    write_tif(path, pixels)
    with tifffile.TiffFile(path) as tif:
        tags = [
            (tag.code, int(tag.dtype), tag.count, tag.value, True)
            for tag in tif.pages.first.tags.values()
            if tag.code in (33550, 33922, 34735, 34737)
        ]
    tifffile.imwrite(path, photo, extratags=[*tags, (NODATA_TAG, "s", 0, value, True)])
    return path


def read(path: Path, level: int | None = None) -> Pixels:
    """Read all bands of a product, or of one of its overviews."""
    with gdal_env(), rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
        pixels: Pixels = dataset.read()
        return pixels


def read_mask(path: Path, level: int | None = None) -> NDArray[np.bool_]:
    """Read the valid pixels of a product, or of one of its overviews."""
    with gdal_env(), rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
        valid: NDArray[np.bool_] = dataset.read_masks(1) > 0
        return valid
