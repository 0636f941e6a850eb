"""The one linear stretch that turns the values of a 16-bit or float scan into 8 bits, the same for all of its bands.

The range that becomes 0 to 255 is, by the first rule that applies:
1. the tags SMinSampleValue and SMaxSampleValue, or MinSampleValue and MaxSampleValue, unless more than 1 % of the valid values
   are outside, or the tags only repeat the range of the type, or almost all values are in the lowest quarter of it;
2. the bits that the file says are used of each value (NBITS);
3. 0 to 255, for integers that use exactly 8 bits: an 8-bit scan that was stored wider;
4. the 0.1 and the 99.9 percentile of the valid values, so that a speck of dust or a dead pixel does not make the scan dark.
Statistics in an .aux.xml are not used: a GIS writes them when somebody opens a scan, and scans of one roll would then differ.

Not valid are pixels that a mask, alpha or nodata excludes, values that are not finite or that no sensor gives (1e30 and more),
and the value that at least two corners of the image share: a collar. Values outside the range become 0 or 255.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.1, 99.9)
MAX_SAMPLE_PIXELS = 4_000_000
"""The percentiles are those of at most so many pixels, evenly spread: memory does not grow with the image."""
MAX_OUTSIDE_SHARE = 0.01
MIN_USED_SHARE = 0.25
"""A declared range of which the brightest values use less would make the photograph nearly black."""
MAX_PLAUSIBLE = 1e30
"""Larger floats are GDAL's and other programs' customary nodata values, such as -3.4e38."""


@dataclass(frozen=True)
class Stretch:
    """The values that become black and white, and the rule that gave them, for people."""

    low: float
    high: float
    rule: str

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return 8-bit pixels; values that are not finite become 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (pixels.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        stretched: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return stretched


def find_plausible(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where every band has a value that a scan can have; shape (rows, columns)."""
    if not np.issubdtype(pixels.dtype, np.floating):
        return np.ones(pixels.shape[1:], bool)
    # A comparison with nan is False.
    plausible: NDArray[np.bool_] = (np.abs(pixels) < MAX_PLAUSIBLE).all(axis=0)
    return plausible


def sample_step(width: int, height: int) -> int:
    """Return n when every n-th pixel of every n-th row is in the sample."""
    return max(1, int(np.ceil(np.sqrt(width * height / MAX_SAMPLE_PIXELS))))


def _is_plausible_range(values: NDArray[Any], low: float, high: float) -> bool:
    """Return whether the valid values use a declared range: a scanner that writes the range of the type says nothing."""
    if low >= high or np.count_nonzero((values < low) | (values > high)) / values.size > MAX_OUTSIDE_SHARE:
        return False
    if np.issubdtype(values.dtype, np.integer):
        limits = np.iinfo(values.dtype)
        if low <= limits.min and high >= limits.max:
            return False
    brightest = float(np.percentile(values, PERCENTILES[1], method="nearest"))
    return brightest >= low + MIN_USED_SHARE * (high - low)


def choose_stretch(values: NDArray[Any], declared: Iterable[tuple[float, float]], used_bits: int | None) -> Stretch:
    """Return the stretch by the rules above.

    values: the valid values of all bands, or a sample of them; not empty. declared: ranges by tags, the first is preferred.
    """
    for low, high in declared:
        if _is_plausible_range(values, low, high):
            return Stretch(low, high, "the file's own tags")
    if used_bits:
        return Stretch(0.0, float(2**used_bits - 1), f"the {used_bits} bits that the file says are used")
    smallest, largest = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer) and smallest >= 0 and 128 <= largest <= 255:
        return Stretch(0.0, 255.0, "8-bit values, unchanged")
    low, high = (float(value) for value in np.percentile(values, PERCENTILES, method="nearest"))
    if low == high:
        low, high = smallest, largest
    if low == high:
        # One value only: it stays what it is of the range of its type.
        limits = np.iinfo(values.dtype) if np.issubdtype(values.dtype, np.integer) else None
        low, high = (float(limits.min), float(limits.max)) if limits else (min(0.0, low), max(1.0, high))
        return Stretch(low, high, "the range of the type, because all values are the same")
    return Stretch(low, high, f"the {PERCENTILES[0]} and {PERCENTILES[1]} percentiles of the valid pixels")
