"""GDAL's settings, scoped to one step: what an earlier step or the surrounding process has set must not leak in.

(`COMPRESS_OVERVIEW` left set breaks a JPEG COG; `GDAL_DISABLE_READDIR_ON_OPEN`, right for S3, hides sidecars
and external overviews of local files.)
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
"""What GDAL's failures come out as: rasterio wraps most of them, but not those of a coordinate transformation."""

CACHE_BYTES = 256 * 1024 * 1024
"""GDAL's block cache a process, in bytes: rasterio hands the number to the cache as it is, without guessing a unit."""

_NO_MEMORY = re.compile("no space for|out of memory|(cannot|failed to|unable to) allocate", re.IGNORECASE)

_DEFAULTS: dict[str, Any] = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    # One frame a process: the pool is the parallelism.
    "GDAL_NUM_THREADS": "1",
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    # Masks live inside the file they belong to: a .msk sidecar would be lost on the way to the bucket.
    "GDAL_TIFF_INTERNAL_MASK": "YES",
    "GDAL_TIFF_INTERNAL_MASK_TO_8BIT": "YES",
    "TIFF_USE_OVR": "NO",
}

# Unset unless a step sets them: the COG driver builds overviews of the mask and would take these too.
_OVERVIEW_OPTIONS = ("COMPRESS_OVERVIEW", "PREDICTOR_OVERVIEW", "PHOTOMETRIC_OVERVIEW", "INTERLEAVE_OVERVIEW")


@contextmanager
def gdal_env(*, pam: bool = False, **options: Any) -> Iterator[None]:
    """Run a step under the defaults above plus `options`.

    `pam` switches GDAL's `.aux.xml` sidecars on: read those of a source, never write any beside a product.
    """
    settings = {**_DEFAULTS, "GDAL_PAM_ENABLED": "YES" if pam else "NO", **options}
    with rasterio.Env(**settings), warnings.catch_warnings():
        for name in set(_OVERVIEW_OPTIONS) - set(options):
            del_gdal_config(name)
        # A source without georeference is rejected in words of our own, and a thumbnail never has one.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_out_of_memory(error: BaseException | None) -> bool:
    """numpy says so itself; of GDAL's errors, one further down the chain does, in libtiff's case by its words only."""
    while error is not None:
        if isinstance(error, MemoryError | CPLE_OutOfMemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to; it becomes `out` only when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part-{out.name}")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
