"""Read a scan as its values are stored, strip by strip, with where they are valid by what the file declares.

Only scans that have to be converted are read through here (`convert`); plain scans are read through `source` and `mask`.
"""

import shutil
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.raster import alpha
from ls4_assets.raster.source import Source, translate_read_errors
from ls4_assets.raster.stretch import find_plausible
from ls4_assets.raster.tiff_directories import PHOTOMETRIC
from ls4_assets.raster.windows import iter_strips

Raw = NDArray[Any]
Valid = NDArray[np.bool_]

_PHOTOMETRIC_RGB = 2
_MAX_OVER_ALPHA_SHARE = 0.01
_ALPHA_TOLERANCE = 8
"""Colors that exceed their alpha by more, in more pixels than that share, are not multiplied by it, whatever the tag says."""


@contextmanager
def open_raw(source: Source, folder: Path) -> Iterator[DatasetReader]:
    """Open the photograph as it is stored. GDAL itself converts CIELab of 8 bits, wrongly, so the copy is tagged as RGB."""
    page = source.page
    if source.format.kind != "cielab" or page is None:
        with source.open() as dataset:
            yield dataset
        return
    copy = folder / f"raw-{source.path.name}"
    shutil.copyfile(source.path, copy)
    mask = source.path.with_name(f"{source.path.name}.msk")
    if mask.is_file():
        shutil.copyfile(mask, copy.with_name(f"{copy.name}.msk"))
    with copy.open("r+b") as file:
        file.seek(page.directory.positions[PHOTOMETRIC])
        file.write(struct.pack(f"{page.directory.order}H", _PHOTOMETRIC_RGB))
    with translate_read_errors(source):
        dataset = rasterio.open(replace(page, path=copy).gdal_name, driver="GTiff")
    with dataset:
        yield dataset


class RawScan:
    """The stored values of a scan, strip by strip, and where they are valid by what the file declares."""

    def __init__(self, source: Source, dataset: DatasetReader, stack: ExitStack) -> None:
        self.source, self.dataset = source, dataset
        self.dtype = np.dtype(dataset.dtypes[0])
        bits = source.format.bits
        is_integer = np.issubdtype(self.dtype, np.integer)
        self.opaque = float(2**bits - 1 if bits else np.iinfo(self.dtype).max) if is_integer else 1.0
        self.has_implausible = False
        self._page_mask = self._open_page_mask(stack)
        self.uses_alpha = source.declared_mask == "alpha" and self._is_alpha_a_mask()
        self.divides_by_alpha = self.uses_alpha and source.format.is_premultiplied and self._is_premultiplied()

    @property
    def declares_validity(self) -> bool:
        source = self.source
        return source.declared_mask == "mask" or self._page_mask is not None or self.uses_alpha or source.raw_nodata is not None

    def strips(self) -> Iterator[Window]:
        # Four times: the conversion needs copies of wider types.
        row_values = self.source.count * self.dtype.itemsize * 4
        return iter_strips(self.source.width, self.source.height, row_values, self.dataset.block_shapes[0][0])

    def read(self, window: Window) -> tuple[Raw, Valid]:
        """Return the values of the photograph's bands and where they are valid."""
        source = self.source
        bands = [*source.bands, source.alpha_band] if self.uses_alpha and source.alpha_band else [*source.bands]
        with translate_read_errors(source):
            values: Raw = self.dataset.read(bands, window=window)
            valid = self._read_declared(values, window)
        if self.uses_alpha:
            opacity, values = values[-1], values[:-1]
            valid = valid & (opacity.astype(np.float64) * 2 > self.opaque)
            if self.divides_by_alpha:
                values = self._divide(values, opacity)
        plausible = find_plausible(values)
        self.has_implausible |= not plausible.all()
        return values, valid & plausible

    def _read_declared(self, values: Raw, window: Window) -> Valid:
        source = self.source
        if self._page_mask is not None:
            return np.asarray(self._page_mask.read(1, window=window) > 0)
        if source.declared_mask == "mask":
            return np.asarray(self.dataset.read_masks(1, window=window) > 0)
        if self.uses_alpha or source.raw_nodata is None:
            return np.ones(values.shape[1:], bool)
        nodata = np.array(source.raw_nodata, np.float64)[:, None, None]
        # nan as nodata differs from itself; `find_plausible` excludes it.
        return np.asarray((values != nodata.astype(self.dtype if np.isfinite(nodata).all() else np.float64)).any(axis=0))

    def _open_page_mask(self, stack: ExitStack) -> DatasetReader | None:
        """Open the mask of a page that is not the first: GDAL pairs only the first with its mask."""
        page = self.source.page
        if page is None or page.is_first:
            return None
        beside = page.path.with_name(f"{page.path.name}.msk")
        name = str(beside) if beside.is_file() else page.mask_gdal_name
        if name is None:
            return None
        with translate_read_errors(self.source):
            mask: DatasetReader = stack.enter_context(rasterio.open(name, driver="GTiff"))
        return mask if (mask.width, mask.height) == (self.source.width, self.source.height) else None

    def _is_alpha_a_mask(self) -> bool:
        strips = (self._read_band(self.source.alpha_band, window) for window in self.strips())
        counts = alpha.count_alpha(strips, self.opaque)
        return alpha.is_mask(counts, self.source.path.name, may_be_infrared=len(self.source.bands) > 1)

    def _read_band(self, band: int | None, window: Window) -> Raw:
        with translate_read_errors(self.source):
            values: Raw = self.dataset.read(band, window=window)
        return values

    def _is_premultiplied(self) -> bool:
        """True when no color exceeds its alpha: some programs tag alpha as premultiplied and do not multiply."""
        over = visible = 0
        for window in self.strips():
            with translate_read_errors(self.source):
                colors = self.dataset.read(list(self.source.bands), window=window).max(axis=0).astype(np.float64)
                opacity = self.dataset.read(self.source.alpha_band, window=window).astype(np.float64)
            over += int(np.count_nonzero((colors > opacity + _ALPHA_TOLERANCE * self.opaque / 255) & (opacity > 0)))
            visible += int(np.count_nonzero(opacity))
        return over <= _MAX_OVER_ALPHA_SHARE * visible

    def _divide(self, values: Raw, opacity: Raw) -> Raw:
        full = values.astype(np.float64) * (self.opaque / np.maximum(opacity.astype(np.float64), 1e-9))
        if np.issubdtype(self.dtype, np.integer):
            full = np.rint(full.clip(0, self.opaque))
        divided: Raw = full.astype(self.dtype)
        return divided
