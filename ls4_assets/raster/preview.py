"""What `ls4 check` shows of a frame: a small picture with its collar."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from scipy import ndimage

from ls4_assets.raster.gdal_env import atomic_write, gdal_env
from ls4_assets.raster.thumbnail import SUFFIX, render_thumbnail

_SIZE_PX = 512
_COLLAR = np.array([220, 40, 40], np.uint8)
_OUTLINE = np.array([255, 220, 0], np.uint8)


def write_preview(cog: Path, out: Path) -> None:
    """Write a PNG whose longer side has at most 512 pixels: the collar is red, and the outline of the photograph yellow."""
    with gdal_env(), MemoryFile(render_thumbnail(cog, _SIZE_PX), ext=SUFFIX) as memory, memory.open() as picture:
        pixels, valid = picture.read((1, 2, 3)), np.ones(picture.shape, bool)
        # WebP drops an alpha band without a transparent pixel.
        if picture.count == 4:
            valid = picture.read(4) > 127
    pixels[:, ~valid] = _COLLAR[:, None]
    # Outside of the picture counts as collar: the outline then also follows the edge of the picture.
    outline = valid & ~ndimage.binary_erosion(valid, iterations=2)
    pixels[:, outline] = _OUTLINE[:, None]
    options = {"driver": "PNG", "dtype": "uint8", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2]}
    with atomic_write(out) as part, gdal_env(), rasterio.open(part, "w", **options) as target:
        target.write(pixels)
