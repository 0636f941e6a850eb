"""Write the external overviews (`x.tif.ovr`) of a deflate tif, with a mask at every level.

For an image with an internal mask, GDAL builds external overviews of the image only, and the collar of a zoomed-out map turns
black. `write_overviews` therefore writes the first level as a masked tif named `.ovr`, and the further levels as its internal
overviews, whose masks GDAL does keep. GDAL reads the result like any other `.ovr`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.gdal_env import atomic_write, gdal_env
from ls4_assets.raster.windows import iter_chunks


def overviews_path(deflate_tif: Path) -> Path:
    """Return the path at which GDAL expects the external overviews of a tif."""
    return deflate_tif.with_name(deflate_tif.name + ".ovr")


def has_mask(dataset: DatasetReader) -> bool:
    """True when the image has a mask of its own, not one that GDAL infers."""
    return MaskFlags.per_dataset in dataset.mask_flag_enums[0]


def write_overviews(deflate_tif: Path, profile: FrameProfile, *, pixels: Path | None = None) -> Path:
    """Write the external overviews beside `deflate_tif`, replacing existing ones; returns their path.

    `pixels`: the uncompressed copy that `write_deflate` kept, if any; it is faster to read.
    """
    out = overviews_path(deflate_tif)
    out.unlink(missing_ok=True)
    with gdal_env(**_internal_overview_options(profile)), rasterio.open(pixels or deflate_tif) as full:
        levels = profile.levels_for(full.width, full.height)
        with (
            atomic_write(out) as part,
            rasterio.open(part, "w", **_creation_options(full, levels[0], profile)) as first,
        ):
            _downsample(full, first, profile)
            # Before `first` is closed: its pixels are still in GDAL's cache and need no decoding.
            if further := [level // levels[0] for level in levels[1:]]:
                first.build_overviews(further, Resampling[profile.overview_resampling])
    return out


def _creation_options(full: DatasetReader, level: int, profile: FrameProfile) -> dict[str, object]:
    # Rounded up as in GDAL, which recognizes the level by its size.
    width, height = -(-full.width // level), -(-full.height // level)
    return {
        "driver": "GTiff", "width": width, "height": height, "count": full.count, "dtype": "uint8",
        "crs": full.crs,
        "transform": full.transform @ full.transform.scale(full.width / width, full.height / height),
        "photometric": _photometric(profile), "interleave": "pixel", "bigtiff": "IF_SAFER",
        "tiled": True, "blockxsize": profile.blocksize, "blockysize": profile.blocksize,
        "compress": "DEFLATE", "predictor": 2, "zlevel": profile.deflate_zlevel,
    }  # fmt: skip


def _photometric(profile: FrameProfile) -> str:
    return "MINISBLACK" if profile.bands == 1 else "RGB"


def _downsample(full: DatasetReader, first: DatasetWriter, profile: FrameProfile) -> None:
    """Fill `first` with the pixels of `full`, resampled to its size; GDAL resamples valid pixels only."""
    resampling = Resampling[profile.overview_resampling]
    across, down = full.width / first.width, full.height / first.height
    masked = has_mask(full)
    for window in iter_chunks(first.width, first.height, profile.blocksize):
        area = Window(window.col_off * across, window.row_off * down, window.width * across, window.height * down)
        shape = (int(window.height), int(window.width))
        pixels = full.read(window=area, out_shape=(full.count, *shape), resampling=resampling)
        if masked:
            # A pixel is valid when any part of it is valid, which is also GDAL's rule.
            valid = full.read_masks(1, window=area, out_shape=shape, resampling=Resampling.average) > 0
            first.write_mask(valid.astype(np.uint8) * np.uint8(255), window=window)
        first.write(pixels, window=window)


def _internal_overview_options(profile: FrameProfile) -> dict[str, Any]:
    return {
        "COMPRESS_OVERVIEW": "DEFLATE",
        "PREDICTOR_OVERVIEW": "2",
        "ZLEVEL_OVERVIEW": str(profile.deflate_zlevel),
        "GDAL_TIFF_OVR_BLOCKSIZE": str(profile.blocksize),
        "INTERLEAVE_OVERVIEW": "PIXEL",
        "PHOTOMETRIC_OVERVIEW": _photometric(profile),
    }
