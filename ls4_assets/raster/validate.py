"""Validate the structure of a COG before the archive serves it.

rio-cogeo's strict validation is not enough: a small COG without overviews passes it, and so does every COG that lost its mask.
`check_cog` therefore also compares the COG with its profile and with its deflate tif. `fidelity` compares the pixels.
"""

from pathlib import Path

import rasterio
from rasterio.io import DatasetReader
from rio_cogeo.cogeo import cog_validate

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import has_mask
from ls4_assets.raster.position import WEB_MERCATOR


def check_cog(path: Path, profile: FrameProfile, deflate_tif: Path | None = None) -> list[str]:
    """Return every defect of the COG at `path`, one phrase each; with `deflate_tif`, also what differs from that."""
    with gdal_env():
        _, errors, warnings = cog_validate(path, strict=True, quiet=True)
        findings = [*errors, *warnings]
        with rasterio.open(path) as cog:
            findings += _compare_with_profile(cog, profile)
            if deflate_tif is not None:
                with rasterio.open(deflate_tif) as deflate:
                    findings += _compare_with_deflate(cog, deflate)
    return findings


def _compare_with_profile(cog: DatasetReader, profile: FrameProfile) -> list[str]:
    is_color_jpeg = profile.cog_compression == "JPEG" and profile.bands == 3
    properties = {
        "overview levels": (list(profile.levels_for(cog.width, cog.height)), cog.overviews(1)),
        "block size": ([(profile.blocksize, profile.blocksize)], sorted(set(cog.block_shapes))),
        "compression": (
            profile.cog_compression,
            cog.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "none").split()[-1],
        ),
        "bands": (profile.bands, cog.count),
        "type": ({"uint8"}, set(cog.dtypes)),
        "CRS": (WEB_MERCATOR, cog.crs),
        "photometric": (
            "YCbCr" if is_color_jpeg else None,
            cog.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE"),
        ),
    }
    return [
        f"{name} should be {expected}, found {actual}" for name, (expected, actual) in properties.items() if expected != actual
    ]


def _compare_with_deflate(cog: DatasetReader, deflate: DatasetReader) -> list[str]:
    findings = []
    if cog.shape != deflate.shape or not cog.transform.almost_equals(deflate.transform, precision=1e-6):
        findings.append("size or geotransform differ from the deflate tif")
    if has_mask(cog) != has_mask(deflate):
        findings.append(f"mask of the deflate tif: {has_mask(deflate)}, of the COG: {has_mask(cog)}")
    return findings
