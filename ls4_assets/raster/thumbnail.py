"""Render the thumbnail of a frame, with a transparent collar.

The format is WebP: a 256 px photograph with alpha takes about 10 kB, as PNG 60 to 150 kB, and JPEG has no transparency.
"""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import MemoryFile

from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import has_mask

SUFFIX = ".webp"


def render_thumbnail(cog: Path, size_px: int = 256) -> bytes:
    """Return the frame as an RGBA WebP whose longer side has at most `size_px` pixels."""
    with gdal_env(), rasterio.open(cog) as dataset:
        scale = min(1.0, size_px / max(dataset.shape))
        shape = (max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale)))
        pixels = dataset.read(out_shape=(dataset.count, *shape), resampling=Resampling.average)
        alpha = np.full(shape, 255, np.uint8)
        if has_mask(dataset):
            alpha = dataset.read_masks(1, out_shape=shape, resampling=Resampling.average)
        colors = pixels if dataset.count == 3 else np.repeat(pixels[:1], 3, axis=0)
        with MemoryFile(ext=SUFFIX) as memory:
            options = {"driver": "WEBP", "dtype": "uint8", "count": 4, "height": shape[0], "width": shape[1]}
            with memory.open(**options, quality=75) as picture:
                picture.write(np.concatenate([colors, alpha[None]]))
            return bytes(memory.read())
