"""The four ways to make a COG from a scan that `benchmarks.frame` compares, each in a process of its own.

All of them use the GDAL of rasterio, one thread and the same block cache, so that the work differs and not the build. The legacy
chain makes the same calls as its three commands (gdal_translate, gdaladdo, gdal_translate).
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rio_cogeo.cogeo import cog_translate
from rio_cogeo.profiles import cog_profiles

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.frame import process
from ls4_assets.raster.gdal_env import CACHE_BYTES
from ls4_assets.raster.memory import peak_rss_mb, reset_peak
from ls4_assets.raster.source import Limits

_LEGACY_LEVELS = [2, 4, 8, 16, 32, 64]
_TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}


def ours(source: Path, folder: Path, film_type: FilmType) -> Path:
    """This platform: deflate tif, overviews and COG, validated, with footprint and thumbnail."""
    process(source, folder, "frame", film_type, PROFILES[film_type], Limits())
    return folder / "cog" / "frame.tif"


def cog_driver(source: Path, folder: Path, film_type: FilmType) -> Path:
    """GDAL's COG driver, directly from the source: the COG only."""
    out = folder / "cog.tif"
    rasterio.shutil.copy(source, out, driver="COG", blocksize=512, overview_resampling="AVERAGE", **_codec(film_type))
    return out


def legacy_chain(source: Path, folder: Path, film_type: FilmType) -> Path:
    """The three commands of lambda-s4 with their faults: nodata 256 clamped to 255, uncompressed overviews, none in the COG.

    (`-ot Byte` makes gdal_translate go through a VRT, which hides the overviews that COPY_SRC_OVERVIEWS would copy.)
    """
    deflate_tif, out = folder / "deflate.tif", folder / "cog.tif"
    rasterio.shutil.copy(_build_vrt(source, film_type), deflate_tif, driver="GTiff", compress="DEFLATE", predictor=2, **_TILED)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(deflate_tif, "r+") as dataset:
        dataset.build_overviews(_LEGACY_LEVELS, Resampling.average)
    codec = {"compress": "DEFLATE", "predictor": 2}
    if film_type == "nc":
        codec = {"compress": "JPEG", "jpeg_quality": 85, "photometric": "YCBCR"}
    rasterio.shutil.copy(_build_vrt(deflate_tif, film_type), out, driver="GTiff", copy_src_overviews=True, **codec, **_TILED)
    return out


def rio_cogeo(source: Path, folder: Path, film_type: FilmType) -> Path:
    """rio-cogeo with the defaults of its deflate and jpeg profiles."""
    out = folder / "cog.tif"
    cog_translate(source, out, cog_profiles["deflate" if film_type == "bw" else "jpeg"], quiet=True)
    return out


CONTENDERS: dict[str, Callable[[Path, Path, FilmType], Path]] = {
    "ours": ours,
    "cog_driver": cog_driver,
    "legacy_chain": legacy_chain,
    "rio_cogeo": rio_cogeo,
}


def measure(contender: str, source: Path, folder: Path, film_type: FilmType) -> dict[str, float]:
    """Run one contender in this process; returns CPU and wall seconds without the imports, peak memory and COG size in MB."""
    reset_peak()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_NUM_THREADS="1", GDAL_TIFF_INTERNAL_MASK=True):
        cog = CONTENDERS[contender](source, folder, film_type)
    return {
        "cpu_s": round(_cpu_seconds() - cpu, 3),
        "wall_s": round(time.perf_counter() - wall, 3),
        "peak_mb": round(peak_rss_mb(), 1),
        "cog_mb": round(cog.stat().st_size / 1e6, 2),
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _codec(film_type: FilmType) -> dict[str, object]:
    return {"compress": "DEFLATE", "predictor": "YES"} if film_type == "bw" else {"compress": "JPEG", "quality": 85}


def _build_vrt(path: Path, film_type: FilmType) -> str:
    """VRT XML that `gdal_translate -b 1 [-b 2 -b 3] -ot Byte -a_nodata 256` reads from, with nodata clamped to 255."""
    with rasterio.open(path) as dataset:
        width, height = dataset.width, dataset.height
        transform, crs = dataset.transform.to_gdal(), dataset.crs.to_wkt()
    colors = ("Gray",) if film_type == "bw" else ("Red", "Green", "Blue")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><NoDataValue>255</NoDataValue><ColorInterp>{color}'
        f'</ColorInterp><SimpleSource><SourceFilename relativeToVRT="0">{escape(str(path))}</SourceFilename>'
        f"<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        for number, color in enumerate(colors, start=1)
    )
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{escape(crs)}</SRS>'
        f"<GeoTransform>{', '.join(map(str, transform))}</GeoTransform>{bands}</VRTDataset>"
    )
