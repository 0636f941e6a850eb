"""Write the COG of a frame from its deflate tif and its overviews.

A lossless COG holds the same compressed tiles as those two files, so `cog_assembly` copies them without compressing anything
again. GDAL's COG driver writes a JPEG COG, and any layout that the assembly does not handle; it reuses the existing overviews.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import rasterio.shutil

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.cog_assembly import assemble_cog
from ls4_assets.raster.gdal_env import atomic_write, gdal_env
from ls4_assets.raster.overviews import overviews_path

CogMethod = Literal["assembled", "driver"]


def write_cog(deflate_tif: Path, out: Path, profile: FrameProfile, *, pixels: Path | None = None) -> CogMethod:
    """Write the COG of `deflate_tif`, whose overviews are beside it, to `out`; returns the method that wrote it.

    `pixels`: the uncompressed copy that `write_deflate` kept, if any; the driver reads it faster.
    """
    overviews = overviews_path(deflate_tif)
    with atomic_write(out) as part:
        if profile.cog_compression == "DEFLATE" and assemble_cog(deflate_tif, overviews, part):
            return "assembled"
        if pixels is None:
            _copy_with_driver(deflate_tif, part, profile)
        else:
            with _symlink(overviews, overviews_path(pixels)):
                _copy_with_driver(pixels, part, profile)
        return "driver"


@contextmanager
def _symlink(existing: Path, link: Path) -> Iterator[None]:
    link.symlink_to(existing.resolve())
    try:
        yield
    finally:
        link.unlink()


def _copy_with_driver(deflate_tif: Path, out: Path, profile: FrameProfile) -> None:
    options: dict[str, object] = {
        "blocksize": profile.blocksize, "overviews": "AUTO", "bigtiff": "IF_SAFER",
        "overview_resampling": profile.overview_resampling.replace("_", "").upper(),
    }  # fmt: skip
    if profile.cog_compression == "JPEG":
        options |= {"compress": "JPEG", "quality": profile.jpeg_quality}
    else:
        options |= {"compress": "DEFLATE", "predictor": "YES", "level": profile.deflate_zlevel}
    with gdal_env():
        rasterio.shutil.copy(deflate_tif, out, driver="COG", **options)
