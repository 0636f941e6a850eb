"""Find which pixels of a scan are photograph and which are collar.

The first of these rules that applies decides:
1. a mask, internal or in a `.msk` file;
2. an alpha band: a pixel is valid where it is at least half opaque. `alpha` recognizes near infrared that is wrongly tagged;
3. a nodata tag: a pixel is invalid where all of its bands hold nodata;
4. nothing declared, or only values excluded that no sensor gives: search for a collar, the flat border around a photograph
   (`collar`). True black and white inside the photograph are kept. Line work of pure black and white has no collar that could be
   recognized.

Images are read in strips: memory grows with the rows of the image, not with its pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.raster.alpha import count_alpha, is_mask
from ls4_assets.raster.collar import find_collar
from ls4_assets.raster.source import Source, translate_read_errors
from ls4_assets.raster.windows import iter_strips

Rule = Literal["mask", "alpha", "nodata", "collar"]
Valid = NDArray[np.bool_]


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
    collar = find_collar(source, dataset) if detect_collar and not _is_bilevel(source, dataset) else None
    if source.declared_mask == "implausible":
        if collar is None:
            return Mask("mask", lambda data, window: _read_mask_band(source, data, window))
        return Mask("collar", lambda data, window: collar.valid(window) & _read_mask_band(source, data, window))
    return Mask("collar", lambda _, window: collar.valid(window)) if collar else None


def _iter_source_strips(source: Source, dataset: DatasetReader) -> Iterator[Window]:
    return iter_strips(source.width, source.height, source.count, dataset.block_shapes[0][0])


def _read_band(source: Source, dataset: DatasetReader, band: int, window: Window) -> NDArray[np.uint8]:
    with translate_read_errors(source):
        pixels: NDArray[np.uint8] = dataset.read(band, window=window)
    return pixels


def _read_mask_band(source: Source, dataset: DatasetReader, window: Window) -> Valid:
    with translate_read_errors(source):
        valid: Valid = dataset.read_masks(1, window=window) > 0
    return valid


def _is_true_alpha(source: Source, dataset: DatasetReader, alpha: int) -> bool:
    strips = (_read_band(source, dataset, alpha, window) for window in _iter_source_strips(source, dataset))
    return is_mask(count_alpha(strips, 255), source.path.name, may_be_infrared=len(source.bands) > 1)


def _is_bilevel(source: Source, dataset: DatasetReader) -> bool:
    """True for a gray scan of nothing but black and white, such as line work: its black or white may reach the border."""
    if len(source.bands) > 1:
        return False
    found = np.zeros(2, bool)
    # The middle of a photograph has grays, so that hardly any scan is read whole.
    middle = Window(source.width // 2, source.height // 2, min(64, source.width // 2), min(64, source.height // 2))
    for window in (middle, *_iter_source_strips(source, dataset)):
        pixels = source.read(dataset, window)
        # In uint8, 0 - 1 is 255 and 255 - 1 is 254: exactly the values 1 to 254 end up below 254.
        if (pixels - np.uint8(1) < 254).any():
            return False
        found |= [bool((pixels == 0).any()), bool((pixels == 255).any())]
    return bool(found.all())
