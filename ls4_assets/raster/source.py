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

from ls4_assets.domain.film_types import FILM_TYPES, FilmType, FilmTypeSpec, join_or
from ls4_assets.domain.printable import printable
from ls4_assets.errors import FrameError
from ls4_assets.raster.codecs import explain_codec
from ls4_assets.raster.crs_files import CRS_ADVICE, reject_sidecar_files
from ls4_assets.raster.damage import collect_findings, describe_damage, is_about_writing
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env, is_out_of_memory
from ls4_assets.raster.georeference import Georeference
from ls4_assets.raster.pages import Page, choose_page, locate_page
from ls4_assets.raster.pixel_format import PixelFormat, read_pixel_format
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.tiff_structure import reject_unbounded

MaskDeclaration = Literal["mask", "alpha", "nodata", "implausible", "nothing"]

MIN_SIDE_PX = 2
# GDAL's "RFC 15: Band masks": without it, the file is not used.
_MASK_FLAGS = "INTERNAL_MASK_FLAGS_1"
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
        its values. "implausible": only the mask of a converted scan's values that no sensor gives, beside which a collar may be.
    nodata: one value per band, as `read` returns them; raw_nodata: as they are stored.
    min_is_white: the file stores black as 255; `read` inverts it.
    page: the image of the file that is the photograph; None when only GDAL can read the file's directories.
    format: how its pixels are stored. `convert` turns what is not plain 8-bit gray or RGB into it, before anything else reads it.
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
    raw_nodata: tuple[float, ...] | None
    page: Page | None
    format: PixelFormat

    @property
    def needs_conversion(self) -> bool:
        return self.format.needs_conversion or (self.page is not None and not self.page.is_first)

    @property
    def gdal_name(self) -> str:
        return self.page.gdal_name if self.page else str(self.path)

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
        with translate_read_errors(self, counts_warnings=False):
            dataset = rasterio.open(self.gdal_name, driver="GTiff")
        with dataset:
            yield dataset

    def read(self, dataset: DatasetReader, window: Window) -> NDArray[np.uint8]:
        """Return the photograph's pixels with black as 0, shape (bands, rows, columns)."""
        with translate_read_errors(self):
            pixels = cast(NDArray[np.uint8], dataset.read(list(self.bands), window=window))
        return 255 - pixels if self.min_is_white else pixels


@contextmanager
def translate_read_errors(source: Source, *, counts_warnings: bool = True) -> Iterator[None]:
    """Raise GDAL's errors, and its warnings about pixels, as a FrameError that says where the damage is. Lack of memory or of
    disk is not translated.

    Wrap only code that reads `source`. Without `counts_warnings`, as where it is only opened, warnings are ignored.
    """
    try:
        with collect_findings() as findings:
            yield
    except GDAL_ERRORS as error:
        if is_out_of_memory(error) or is_about_writing(error):
            raise
        raise describe_damage(source.path, source.gdal_name, str(error.__cause__ or error)) from error
    if findings and counts_warnings:
        raise describe_damage(source.path, source.gdal_name, findings[0])


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


def open_source(path: Path, film_type: FilmType, limits: Limits, position: PositionOptions | None = None) -> Source:
    """Inspect a georeferenced tif, whose sidecars are beside it, without reading a pixel.

    Raises FrameError when it cannot become a frame of `film_type`.
    """
    _reject_bad_file(path, limits)
    with gdal_env(pam=True):
        page = choose_page(path)
        with _open_dataset(path, page) as dataset, _translate_metadata_errors(path):
            _reject_size(dataset, path, limits)
            _reject_foreign_mask(dataset, path)
            pixel_format = read_pixel_format(dataset, page, path)
            bands, alpha_band = _select_bands(dataset, path, film_type, pixel_format)
            georeference = locate_page(page, dataset, path, position or PositionOptions())
            declared_mask, raw_nodata = _read_declared_mask(dataset, bands, alpha_band, pixel_format)
            return Source(
                path=path, film_type=film_type, width=dataset.width, height=dataset.height, count=dataset.count,
                georeference=georeference, bands=bands, declared_mask=declared_mask, alpha_band=alpha_band,
                nodata=_as_read(raw_nodata, pixel_format), min_is_white=pixel_format.min_is_white, raw_nodata=raw_nodata,
                page=page, format=pixel_format,
            )  # fmt: skip


@contextmanager
def _open_dataset(path: Path, page: Page | None) -> Iterator[DatasetReader]:
    try:
        dataset = rasterio.open(page.gdal_name if page else path, driver="GTiff")
    except GDAL_ERRORS as error:
        reason = " ".join(str(each) for each in (error, error.__cause__) if each)
        raise FrameError(
            explain_codec(path, page.directory if page else None, reason)
            or f"{path.name} starts like a tif but its header cannot be read, so it is truncated or corrupt; "
            "copy it again from the scanner's disk and drop it again."
        ) from error
    with dataset:
        yield dataset


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


def _reject_size(dataset: DatasetReader, path: Path, limits: Limits) -> None:
    pixels = dataset.width * dataset.height
    if pixels > limits.max_pixels:
        raise FrameError(
            f"{path.name} has {dataset.width:,} x {dataset.height:,} = {pixels:,} pixels and the limit is "
            f"{limits.max_pixels:,}; cut it into parts, or ask the operator to raise the limit."
        )
    if min(dataset.width, dataset.height) < MIN_SIDE_PX:
        raise FrameError(
            f"{path.name} has {dataset.width:,} x {dataset.height:,} pixels, which is not a photograph; export the scan again "
            "and drop that."
        )


def _reject_foreign_mask(dataset: DatasetReader, path: Path) -> None:
    """Raise FrameError when the `.msk` beside the tif cannot be read, belongs to another image, or would be ignored by GDAL."""
    sidecar = path.with_name(f"{path.name}.msk")
    if not sidecar.is_file():
        return
    try:
        with rasterio.open(sidecar, driver="GTiff") as mask:
            size, is_mask = (mask.width, mask.height), _MASK_FLAGS in mask.tags()
    except GDAL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise FrameError(f"{path.name} has a mask {sidecar.name} that cannot be read; delete it or export it again.") from error
    if size != (dataset.width, dataset.height):
        raise FrameError(
            f"{sidecar.name} is a mask of {size[0]:,} x {size[1]:,} pixels and {path.name} has {dataset.width:,} x "
            f"{dataset.height:,}; export the mask again from this photograph and drop it, or delete it."
        )
    if not is_mask:
        raise FrameError(
            f"{sidecar.name} is not marked as a mask, so GDAL ignores it; mark it with gdal_translate -of GTiff -mo "
            f"{_MASK_FLAGS}=2 {sidecar.name} fixed.msk and drop fixed.msk as {sidecar.name}, or delete it."
        )


def _select_bands(
    dataset: DatasetReader, path: Path, film_type: FilmType, pixel_format: PixelFormat
) -> tuple[tuple[int, ...], int | None]:
    """Return the photograph's bands in the order of the film type's colors, and the band that is tagged alpha, if any."""
    spec, colors = FILM_TYPES[film_type], dataset.colorinterp
    count = 3 if pixel_format.kind == "cielab" else dataset.count
    if pixel_format.kind == "palette" and count == 1:
        return (1,), None
    alphas = [band for band, color in enumerate(colors[:count], start=1) if color == ColorInterp.alpha]
    alpha_band = alphas[0] if len(alphas) == 1 and count == spec.bands + 1 else None
    others = [band for band in range(1, count + 1) if band != alpha_band]
    if len(others) == spec.bands or (spec.ignores_fourth_band and count == 4):
        return _order_bands(others, dataset, spec), alpha_band
    raise FrameError(
        f"{path.name} has {count} band(s) and a frame under {film_type}/ needs {spec.required_bands}; "
        f"{_advise_on_bands(count, film_type)}."
    )


def _order_bands(bands: list[int], dataset: DatasetReader, spec: FilmTypeSpec) -> tuple[int, ...]:
    """Return the bands that the file names red, green and blue, in this order; the first bands when it does not name them."""
    names = {dataset.colorinterp[band - 1].name: band for band in reversed(bands)}
    if spec.bands > 1 and {*spec.color_interpretation} <= {*names}:
        return tuple(names[name] for name in spec.color_interpretation)
    return tuple(bands[: spec.bands])


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
    dataset: DatasetReader, bands: tuple[int, ...], alpha_band: int | None, pixel_format: PixelFormat
) -> tuple[MaskDeclaration, tuple[float, ...] | None]:
    """Return where the file declares its valid pixels, and its nodata values as they are stored."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return "mask", None
    if alpha_band is not None:
        return "alpha", None
    # GDAL ignores a nodata tag that uint8 cannot hold (256, -9999, nan), but not 0.5.
    values = [dataset.nodatavals[band - 1] for band in bands]
    if any(value is None or not _can_hold(pixel_format.dtype, value) for value in values):
        return "nothing", None
    return "nodata", tuple(float(value) for value in values)


def _can_hold(dtype: str, value: float) -> bool:
    if not np.issubdtype(np.dtype(dtype), np.integer):
        return True
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and value == int(value) and limits.min <= value <= limits.max


def _as_read(raw_nodata: tuple[float, ...] | None, pixel_format: PixelFormat) -> tuple[int, ...] | None:
    """Return nodata values as `Source.read` returns them; None for a source that has to be converted first."""
    if raw_nodata is None or pixel_format.needs_conversion:
        return None
    return tuple(255 - int(value) if pixel_format.min_is_white else int(value) for value in raw_nodata)
