"""The COG: deflate tif and overviews in the order that a reader over HTTP wants.

A lossless COG holds the same compressed tiles as those two files, so it is put together from them without
compressing anything again (`cog_assembly`). A JPEG COG, and any layout the assembly does not handle, goes
through GDAL's COG driver, which takes over the overviews it finds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import rasterio.shutil

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.cog_assembly import assemble_cog
from ls4_assets.raster.gdal_env import gdal_env, written_whole
from ls4_assets.raster.overviews import overviews_path

HowMade = Literal["assembled", "driver"]


def write_cog(deflate_tif: Path, out: Path, profile: FrameProfile, *, pixels: Path | None = None) -> HowMade:
    """Write the COG of `deflate_tif`, whose overviews lie beside it, to `out`; tells how it was made.

    `pixels`: the uncompressed copy that `write_deflate` kept, if it did; a COG that is encoded anew reads it quicker.
    """
    overviews = overviews_path(deflate_tif)
    with written_whole(out) as part:
        if profile.cog_compression == "DEFLATE" and assemble_cog(deflate_tif, overviews, part):
            return "assembled"
        if pixels is None:
            _through_driver(deflate_tif, part, profile)
        else:
            with _linked(overviews, overviews_path(pixels)):
                _through_driver(pixels, part, profile)
        return "driver"


@contextmanager
def _linked(existing: Path, link: Path) -> Iterator[None]:
    link.symlink_to(existing.resolve())
    try:
        yield
    finally:
        link.unlink()


def _through_driver(deflate_tif: Path, out: Path, profile: FrameProfile) -> None:
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
