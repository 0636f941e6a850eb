"""Find which pixels of a scan are photograph and which are collar.

The first of these rules that applies decides:
1. a mask, internal or in a `.msk` file;
2. an alpha band, when nearly all of its values are 0 or 255 (otherwise it is near infrared, wrongly tagged alpha);
3. a nodata tag: a pixel is invalid where all of its bands hold nodata;
4. nothing declared: search for a collar, the flat border around a photograph (`collar`). True black and white inside the
   photograph are kept.

Images are read in strips: memory grows with the rows of the image, not with its pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.raster.collar import find_collar
from ls4_assets.raster.source import Source, translate_read_errors
from ls4_assets.raster.windows import iter_strips

Rule = Literal["mask", "alpha", "nodata", "collar"]
Valid = NDArray[np.bool_]

_MAX_PARTIAL_ALPHA_SHARE = 0.05
"""A band with a larger share of values other than 0 and 255 is not an alpha band. (Soft edges stay far below.)"""


@dataclass(frozen=True)
class Mask:
    """The valid pixels of a source: `read(dataset, window)` returns True for valid, shape (rows, columns)."""

    rule: Rule
    read: Callable[[DatasetReader, Window], Valid]


def find_mask(source: Source, dataset: DatasetReader, *, detect_collar: bool) -> Mask | None:
    """Return the mask of an open source by the rules above; None when every pixel is valid.

    `detect_collar` enables rule 4. Raises FrameError when the file is truncated or has no valid pixel.
    """
    if source.declared_mask == "mask":
        return Mask("mask", lambda data, window: _read_mask_band(source, data, window))
    if source.alpha_band is not None and _is_true_alpha(source, dataset, source.alpha_band):
        alpha = source.alpha_band
        return Mask("alpha", lambda data, window: _read_band(source, data, alpha, window) > 127)
    if source.nodata is not None:
        values = np.array(source.nodata, dtype=np.uint8)[:, None, None]
        return Mask("nodata", lambda data, window: (source.read(data, window) != values).any(axis=0))
    collar = find_collar(source, dataset) if detect_collar else None
    return Mask("collar", lambda _, window: collar.valid(window)) if collar else None


def _iter_source_strips(source: Source, dataset: DatasetReader) -> Iterator[Window]:
    return iter_strips(source.width, source.height, source.count, dataset.block_shapes[0][0])


def _read_band(source: Source, dataset: DatasetReader, band: int, window: Window) -> NDArray[np.uint8]:
    with translate_read_errors(source.path):
        pixels: NDArray[np.uint8] = dataset.read(band, window=window)
    return pixels


def _read_mask_band(source: Source, dataset: DatasetReader, window: Window) -> Valid:
    with translate_read_errors(source.path):
        valid: Valid = dataset.read_masks(1, window=window) > 0
    return valid


def _is_true_alpha(source: Source, dataset: DatasetReader, alpha: int) -> bool:
    max_partial = _MAX_PARTIAL_ALPHA_SHARE * source.width * source.height
    partial = 0
    for window in _iter_source_strips(source, dataset):
        # In uint8, 0 - 1 is 255 and 255 - 1 is 254: exactly the values 1 to 254 end up below 254.
        partial += int(np.count_nonzero(_read_band(source, dataset, alpha, window) - np.uint8(1) < 254))
        if partial > max_partial:
            return False
    return True
