"""May this file be a frame? The inspection of a dropped tif before a pixel of it is read.

What is rejected here is rejected with one sentence that ends in advice. What can only be seen in the pixels (a
truncated strip, no valid pixel) is found by the steps that read them, through `Source.read` and `reading`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.domain.names import FilmType
from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env, is_out_of_memory
from ls4_assets.raster.georeference import Georeference, georeference_of

Declared = Literal["mask", "alpha", "nodata", "nothing"]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NEEDED = {"bw": "one band (black and white)", "nc": "three bands (natural colour)"}


@dataclass(frozen=True)
class Limits:
    """What a frame may cost: pixels of the image (width x height), and bytes of the file as it was dropped."""

    max_pixels: int = 1_000_000_000
    max_bytes: int = 8_000_000_000


@dataclass(frozen=True)
class Source:
    """A tif that may be a frame, inspected; `bands` are the 1-based bands that are the photograph.

    `declared` tells where the file itself says which pixels are valid; `alpha` is only a candidate until its
    values are seen (see `mask`). `min_is_white`: the file stores black as 255, which `read` turns round.
    """

    path: Path
    film_type: FilmType
    width: int
    height: int
    count: int
    georeference: Georeference
    bands: tuple[int, ...]
    declared: Declared
    alpha_band: int | None
    nodata: tuple[int, ...] | None
    min_is_white: bool

    @property
    def crs(self) -> CRS:
        return self.georeference.crs

    @property
    def crs_label(self) -> str:
        return self.georeference.crs_label

    @property
    def transform(self) -> Affine:
        return self.georeference.transform

    @property
    def needs_warp(self) -> bool:
        return self.georeference.needs_warp

    @contextmanager
    def open(self) -> Iterator[DatasetReader]:
        """The dataset for reading. Not every error inside the block is the file's: the disk that is written to may be full."""
        with reading(self.path):
            dataset = rasterio.open(self.path, driver="GTiff")
        with dataset:
            yield dataset

    def read(self, dataset: DatasetReader, window: Window) -> NDArray[np.uint8]:
        """The photograph's pixels as they are meant to be seen, shape (bands, rows, columns)."""
        with reading(self.path):
            pixels = cast(NDArray[np.uint8], dataset.read(list(self.bands), window=window))
        return 255 - pixels if self.min_is_white else pixels


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn GDAL's errors while the source is read, and only those, into a FrameFault. Want of memory is none of the file's."""
    try:
        yield
    except GDAL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise FrameError(
            f"{path.name} is truncated or corrupt; copy it again from the scanner's disk and drop it again."
        ) from error


def open_source(path: Path, band: FilmType, limits: Limits) -> Source:
    """Inspect a georeferenced tif (its sidecars beside it) without reading a pixel.

    Raises FrameFault, one sentence with advice, when it cannot become a frame of `band`.
    """
    _reject_no_tif(path, limits)
    with gdal_env(pam=True):
        try:
            dataset = rasterio.open(path, driver="GTiff")
        except GDAL_ERRORS as error:
            raise FrameError(
                f"{path.name} starts like a tif but its header cannot be read, so it is truncated or corrupt; "
                "copy it again from the scanner's disk and drop it again."
            ) from error
        with dataset:
            _reject_size(dataset, path, limits)
            min_is_white = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            _reject_pixel_type(dataset, path, band, min_is_white)
            bands, alpha_band = _bands(dataset, path, band)
            georeference = georeference_of(dataset, path)
            declared, nodata = _declared(dataset, bands, alpha_band, min_is_white)
            return Source(
                path=path, film_type=band, width=dataset.width, height=dataset.height, count=dataset.count,
                georeference=georeference, bands=bands, declared=declared, alpha_band=alpha_band,
                nodata=nodata, min_is_white=min_is_white,
            )  # fmt: skip


def _reject_no_tif(path: Path, limits: Limits) -> None:
    size = path.stat().st_size
    if size == 0:
        raise FrameError(f"{path.name} is empty (zero bytes); copy it again from the scanner's disk and drop it again.")
    if size > limits.max_bytes:
        raise FrameError(
            f"{path.name} has {size:,} bytes and the limit is {limits.max_bytes:,}; store it compressed or in parts, "
            "or ask the operator to raise the limit."
        )
    with path.open("rb") as file:
        if file.read(4) not in _TIFF_MAGIC:
            raise FrameError(f"{path.name} is not a tif, whatever its name says; export it as GeoTIFF and drop that.")


def _reject_size(dataset: DatasetReader, path: Path, limits: Limits) -> None:
    pixels = dataset.width * dataset.height
    if pixels > limits.max_pixels:
        raise FrameError(
            f"{path.name} has {dataset.width:,} x {dataset.height:,} = {pixels:,} pixels and the limit is "
            f"{limits.max_pixels:,}; cut it into parts, or ask the operator to raise the limit."
        )


def _reject_pixel_type(dataset: DatasetReader, path: Path, band: FilmType, min_is_white: bool) -> None:
    if set(dataset.dtypes) != {"uint8"}:
        raise FrameError(
            f"{path.name} has pixels of type {dataset.dtypes[0]} and a frame has 8 bits a band (uint8); convert it with "
            "gdal_translate -ot Byte -scale and drop the result."
        )
    if nbits := dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"):
        raise FrameError(
            f"{path.name} has {nbits} bit(s) a pixel and a frame has 8; convert it with gdal_translate -co NBITS=8 "
            f"-scale 0 {2 ** int(nbits) - 1} 0 255 and drop the result."
        )
    # GDAL shows a MINISWHITE image as one with a palette too.
    if dataset.colorinterp[0] == ColorInterp.palette and not min_is_white:
        raise FrameError(
            f"{path.name} has a colour palette and a frame has {_NEEDED[band]}; convert it with "
            f"gdal_translate -expand {'gray' if band == 'bw' else 'rgb'} and drop the result."
        )


def _bands(dataset: DatasetReader, path: Path, band: FilmType) -> tuple[tuple[int, ...], int | None]:
    """The photograph's bands, and the band that is tagged alpha (bw: the second, nc: the fourth), if any."""
    wanted = (1,) if band == "bw" else (1, 2, 3)
    count = dataset.count
    extra_is_alpha = count == len(wanted) + 1 and dataset.colorinterp[-1] == ColorInterp.alpha
    if count == len(wanted) or extra_is_alpha:
        return wanted, count if extra_is_alpha else None
    if band == "nc" and count == 4:
        return wanted, None
    if band == "bw":
        keep = "keep its first band with gdal_translate -b 1"
        advice = f"drop it under nc/ instead if it is in colour, or {keep} if it is not" if count in (3, 4) else keep
    elif count <= 2:
        advice = "drop it under bw/ instead"
    else:
        advice = "keep red, green and blue with gdal_translate -b 1 -b 2 -b 3"
    raise FrameError(f"{path.name} has {count} band(s) and a frame under {band}/ has {_NEEDED[band]}; {advice}.")


def _declared(
    dataset: DatasetReader, bands: tuple[int, ...], alpha_band: int | None, min_is_white: bool
) -> tuple[Declared, tuple[int, ...] | None]:
    """Where the file says which pixels are valid, and its nodata values as `Source.read` shows them."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return "mask", None
    if alpha_band is not None:
        return "alpha", None
    # GDAL drops a nodata tag that uint8 cannot hold (256, -9999, nan) on reading; 0.5 it keeps.
    values = [dataset.nodatavals[band - 1] for band in bands]
    if any(value is None or value != int(value) for value in values):
        return "nothing", None
    return "nodata", tuple(255 - int(value) if min_is_white else int(value) for value in values)
