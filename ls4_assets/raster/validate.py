"""Is this a COG that the archive may serve? Findings are returned, never printed.

rio-cogeo's strict validation is not enough: a COG without overviews passes it when the image is small, and
one without its mask always does. What the profile and the deflate tif promise is asserted as well.
"""

from pathlib import Path

import rasterio
from rasterio.io import DatasetReader
from rio_cogeo.cogeo import cog_validate

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.georeference import WEB_MERCATOR
from ls4_assets.raster.overviews import has_mask


def check_cog(path: Path, profile: FrameProfile, deflate_tif: Path | None = None) -> list[str]:
    """Everything that is wrong with the COG at `path`, one phrase each; with `deflate_tif`, also what it has lost.

    Whether the pixels are right is asked in `fidelity`.
    """
    with gdal_env():
        _, errors, warnings = cog_validate(path, strict=True, quiet=True)
        findings = [*errors, *warnings]
        with rasterio.open(path) as cog:
            findings += _against_profile(cog, profile)
            if deflate_tif is not None:
                with rasterio.open(deflate_tif) as deflate:
                    findings += _against_deflate(cog, deflate)
    return findings


def _against_profile(cog: DatasetReader, profile: FrameProfile) -> list[str]:
    jpeg_colour = profile.cog_compression == "JPEG" and profile.bands == 3
    expected = {
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
            "YCbCr" if jpeg_colour else None,
            cog.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE"),
        ),
    }
    return [f"{what} should be {wanted}, found {found}" for what, (wanted, found) in expected.items() if wanted != found]


def _against_deflate(cog: DatasetReader, deflate: DatasetReader) -> list[str]:
    findings = []
    if cog.shape != deflate.shape or not cog.transform.almost_equals(deflate.transform, precision=1e-6):
        findings.append("size or geotransform differ from the deflate tif")
    if has_mask(cog) != has_mask(deflate):
        findings.append(f"mask of the deflate tif: {has_mask(deflate)}, of the COG: {has_mask(cog)}")
    return findings
