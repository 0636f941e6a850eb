"""Inspect a dropped tif, and decide whether it can become a frame, before reading any of its pixels.

Each rejection is one sentence of what is wrong and what to do. Defects that only show in the pixels (a truncated strip, no
valid pixel) are found by the steps that read them, through `Source.read` and `translate_read_errors`. `georeference` reads the
CRS and the geotransform, `mask` decides which pixels are valid.
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

from ls4_assets.domain.film_types import FILM_TYPES, FilmType, join_or
from ls4_assets.domain.printable import printable
from ls4_assets.errors import FrameError
from ls4_assets.raster.crs_files import CRS_ADVICE, reject_sidecar_files
from ls4_assets.raster.datums import DatumRules
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env, is_out_of_memory
from ls4_assets.raster.georeference import Georeference, read_georeference
from ls4_assets.raster.tiff_structure import reject_unbounded

MaskDeclaration = Literal["mask", "alpha", "nodata", "nothing"]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Limits:
    """Maximum size of a frame: pixels of the image (width x height), and bytes of the dropped file."""

    max_pixels: int = 1_000_000_000
    max_bytes: int = 8_000_000_000


@dataclass(frozen=True)
class Source:
    """An inspected tif that can become a frame.

    bands: 1-based numbers of the bands that hold the photograph.
    declared_mask: where the file itself declares its valid pixels; an alpha band is only a candidate until `mask` has checked
        its values.
    nodata: one value per band, as `read` returns them.
    min_is_white: the file stores black as 255; `read` inverts it.
    """

    path: Path
    film_type: FilmType
    width: int
    height: int
    count: int
    georeference: Georeference
    bands: tuple[int, ...]
    declared_mask: MaskDeclaration
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
        """Open the dataset. Errors inside the block are not translated: the disk being written to may be full."""
        with translate_read_errors(self.path):
            dataset = rasterio.open(self.path, driver="GTiff")
        with dataset:
            yield dataset

    def read(self, dataset: DatasetReader, window: Window) -> NDArray[np.uint8]:
        """Return the photograph's pixels with black as 0, shape (bands, rows, columns)."""
        with translate_read_errors(self.path):
            pixels = cast(NDArray[np.uint8], dataset.read(list(self.bands), window=window))
        return 255 - pixels if self.min_is_white else pixels


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Raise GDAL's errors as a FrameError, except lack of memory. Wrap only code that reads the source at `path`."""
    try:
        yield
    except GDAL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise FrameError(
            f"{path.name} is truncated or corrupt; copy it again from the scanner's disk and drop it again."
        ) from error


@contextmanager
def _translate_metadata_errors(path: Path) -> Iterator[None]:
    """Raise GDAL's errors as a FrameError. GDAL reads a sidecar when it is first needed, so any access may raise them."""
    try:
        yield
    except GDAL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = printable(str(error))[:200]
        raise FrameError(f"{path.name} has a CRS or a sidecar that cannot be used ({reason}); {CRS_ADVICE}.") from error


def open_source(path: Path, film_type: FilmType, limits: Limits, rules: DatumRules | None = None) -> Source:
    """Inspect a georeferenced tif, whose sidecars are beside it, without reading a pixel. `rules`: for its datum.

    Raises FrameError when it cannot become a frame of `film_type`.
    """
    _reject_bad_file(path, limits)
    with gdal_env(pam=True):
        try:
            dataset = rasterio.open(path, driver="GTiff")
        except GDAL_ERRORS as error:
            raise FrameError(
                f"{path.name} starts like a tif but its header cannot be read, so it is truncated or corrupt; "
                "copy it again from the scanner's disk and drop it again."
            ) from error
        with dataset, _translate_metadata_errors(path):
            _reject_oversize(dataset, path, limits)
            min_is_white = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            _reject_pixel_type(dataset, path, film_type, min_is_white)
            bands, alpha_band = _select_bands(dataset, path, film_type)
            georeference = read_georeference(dataset, path, rules)
            declared_mask, nodata = _read_declared_mask(dataset, bands, alpha_band, min_is_white)
            return Source(
                path=path, film_type=film_type, width=dataset.width, height=dataset.height, count=dataset.count,
                georeference=georeference, bands=bands, declared_mask=declared_mask, alpha_band=alpha_band,
                nodata=nodata, min_is_white=min_is_white,
            )  # fmt: skip


def _reject_bad_file(path: Path, limits: Limits) -> None:
    size = path.stat().st_size
    if size == 0:
        raise FrameError(f"{path.name} is empty (zero bytes); copy it again from the scanner's disk and drop it again.")
    if size > limits.max_bytes:
        raise FrameError(
            f"{path.name} has {size:,} bytes and the limit is {limits.max_bytes:,}; compress or split it, "
            "or ask the operator to raise the limit."
        )
    with path.open("rb") as file:
        if file.read(4) not in _TIFF_MAGIC:
            raise FrameError(f"{path.name} is not a tif despite its name; export it as a GeoTIFF and drop that.")
    reject_unbounded(path)
    reject_sidecar_files(path)


def _reject_oversize(dataset: DatasetReader, path: Path, limits: Limits) -> None:
    pixels = dataset.width * dataset.height
    if pixels > limits.max_pixels:
        raise FrameError(
            f"{path.name} has {dataset.width:,} x {dataset.height:,} = {pixels:,} pixels and the limit is "
            f"{limits.max_pixels:,}; cut it into parts, or ask the operator to raise the limit."
        )


def _reject_pixel_type(dataset: DatasetReader, path: Path, film_type: FilmType, min_is_white: bool) -> None:
    if set(dataset.dtypes) != {"uint8"}:
        raise FrameError(
            f"{path.name} has pixels of type {dataset.dtypes[0]} and a frame needs 8 bits per band (uint8); convert it with "
            "gdal_translate -ot Byte -scale and drop the result."
        )
    if nbits := dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"):
        raise FrameError(
            f"{path.name} has {nbits} bit(s) per pixel and a frame needs 8; convert it with gdal_translate -co NBITS=8 "
            f"-scale 0 {2 ** int(nbits) - 1} 0 255 and drop the result."
        )
    # GDAL also reports a palette for a MINISWHITE image.
    if dataset.colorinterp[0] == ColorInterp.palette and not min_is_white:
        raise FrameError(
            f"{path.name} has a color palette and a frame needs {FILM_TYPES[film_type].required_bands}; convert it with "
            f"gdal_translate -expand {FILM_TYPES[film_type].palette_expansion} and drop the result."
        )


def _select_bands(dataset: DatasetReader, path: Path, film_type: FilmType) -> tuple[tuple[int, ...], int | None]:
    """Return the photograph's bands, and the band after them if it is tagged alpha."""
    spec, count = FILM_TYPES[film_type], dataset.count
    bands = tuple(range(1, spec.bands + 1))
    extra_is_alpha = count == len(bands) + 1 and dataset.colorinterp[-1] == ColorInterp.alpha
    if count == len(bands) or extra_is_alpha:
        return bands, count if extra_is_alpha else None
    if spec.ignores_fourth_band and count == 4:
        return bands, None
    raise FrameError(
        f"{path.name} has {count} band(s) and a frame under {film_type}/ needs {spec.required_bands}; "
        f"{_advise_on_bands(count, film_type)}."
    )


def _advise_on_bands(count: int, film_type: FilmType) -> str:
    """Return what to do with a file that has too many or too few bands: another folder, or fewer bands."""
    spec = FILM_TYPES[film_type]
    # With or without alpha.
    counts = {count, count - 1} - {spec.bands}
    fitting = {name: other for name, other in FILM_TYPES.items() if other.bands in counts}
    if not fitting:
        return spec.band_advice
    folders = join_or([f"under {name}/ if it is in {other.title}" for name, other in fitting.items()])
    return f"drop it {folders}" if count < spec.bands else f"drop it {folders}, or {spec.band_advice} if it is in {spec.title}"


def _read_declared_mask(
    dataset: DatasetReader, bands: tuple[int, ...], alpha_band: int | None, min_is_white: bool
) -> tuple[MaskDeclaration, tuple[int, ...] | None]:
    """Return where the file declares its valid pixels, and its nodata values as `Source.read` returns them."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return "mask", None
    if alpha_band is not None:
        return "alpha", None
    # GDAL ignores a nodata tag that uint8 cannot hold (256, -9999, nan), but not 0.5.
    values = [dataset.nodatavals[band - 1] for band in bands]
    if any(value is None or value != int(value) for value in values):
        return "nothing", None
    return "nodata", tuple(255 - int(value) if min_is_white else int(value) for value in values)
