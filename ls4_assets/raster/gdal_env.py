"""GDAL settings scoped to one processing step, GDAL's error classes, and atomic writes of GDAL's output.

Settings must not leak in from an earlier step or from the surrounding process: `COMPRESS_OVERVIEW` left set breaks a JPEG COG;
`GDAL_DISABLE_READDIR_ON_OPEN`, which suits S3, hides sidecars and external overviews of local files.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio._env import del_gdal_config
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError)
"""Every exception that GDAL can raise here: rasterio wraps most of them, but not those of a coordinate transformation."""

CACHE_BYTES = 256 * 1024 * 1024
"""GDAL's block cache per process: rasterio passes this number on in bytes, without guessing a unit."""

_OUT_OF_MEMORY = re.compile("no space for|out of memory|(cannot|failed to|unable to) allocate", re.IGNORECASE)

_DEFAULTS: dict[str, Any] = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    # One frame per process: the pool provides the parallelism.
    "GDAL_NUM_THREADS": "1",
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    # Write masks into the file: a .msk sidecar would be lost on the way to the bucket.
    "GDAL_TIFF_INTERNAL_MASK": "YES",
    "GDAL_TIFF_INTERNAL_MASK_TO_8BIT": "YES",
    "TIFF_USE_OVR": "NO",
}

# Unset unless a step sets them: the COG driver builds overviews of the mask and would use these options for it as well.
_OVERVIEW_OPTIONS = ("COMPRESS_OVERVIEW", "PREDICTOR_OVERVIEW", "PHOTOMETRIC_OVERVIEW", "INTERLEAVE_OVERVIEW")


@contextmanager
def gdal_env(*, pam: bool = False, **options: Any) -> Iterator[None]:
    """Run a step under the defaults above plus `options`.

    `pam` enables GDAL's `.aux.xml` sidecars: read those of a source, but never write one beside a product. Nothing that a source
    names is then fetched from the network.
    """
    # No address equals this one, so /vsicurl/ opens nothing.
    source_options = {"GDAL_PAM_ENABLED": "YES", "CPL_VSIL_CURL_ALLOWED_FILENAME": "none"}
    settings = {**_DEFAULTS, **(source_options if pam else {"GDAL_PAM_ENABLED": "NO"}), **options}
    with rasterio.Env(**settings), warnings.catch_warnings():
        for name in set(_OVERVIEW_OPTIONS) - set(options):
            del_gdal_config(name)
        # `georeference` rejects a source without a georeference in its own words; a thumbnail never has one.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_out_of_memory(error: BaseException | None) -> bool:
    """True when memory ran out: numpy and GDAL raise their own classes somewhere in the chain; libtiff only says so in text."""
    while error is not None:
        if isinstance(error, MemoryError | CPLE_OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomic_write(out: Path) -> Iterator[Path]:
    """Yield a path beside `out` to write to; it is renamed to `out` only when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part-{out.name}")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
