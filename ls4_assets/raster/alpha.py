"""Decide whether a band that is tagged alpha is a mask, and not near infrared with the wrong tag.

A mask has feathered edges at most: most of what it shows is fully opaque. Near infrared has few values at the very top.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls4_assets.errors import FrameError

MAX_PARTIAL_SHARE = 0.05
"""A band with at most this share of values between transparent and opaque is a mask."""
MIN_OPAQUE_SHARE = 0.5
"""So is one of whose values above 0 at least this share is fully opaque."""
MAX_SATURATED_SHARE = 0.2
"""Near infrared has at most this share of values at the top; between the two it is unclear what the band is."""


@dataclass(frozen=True)
class AlphaCounts:
    """Pixels of a band: all, those above 0, and those that are fully opaque."""

    pixels: int
    visible: int
    opaque: int


def count_alpha(strips: Iterable[NDArray[Any]], opaque: float) -> AlphaCounts:
    """Count the pixels of a band; `opaque`: its value for fully opaque."""
    pixels = visible = full = 0
    for strip in strips:
        pixels += strip.size
        visible += int(np.count_nonzero(strip))
        full += int(np.count_nonzero(strip >= opaque))
    return AlphaCounts(pixels, visible, full)


def is_mask(counts: AlphaCounts, name: str, *, may_be_infrared: bool) -> bool:
    """Return whether the band is a mask; raises FrameError when that is unclear.

    name: of the file. may_be_infrared: the photograph is in color, so that the band may be a fourth color.
    """
    if counts.visible - counts.opaque <= MAX_PARTIAL_SHARE * counts.pixels:
        return True
    share = counts.opaque / counts.visible
    if share >= MIN_OPAQUE_SHARE:
        return True
    if share <= MAX_SATURATED_SHARE and may_be_infrared:
        return False
    bands = "-b 1 -b 2 -b 3" if may_be_infrared else "-b 1"
    raise FrameError(
        f"{name} has an alpha band of which only {share:.0%} is opaque, so it may not be a mask; export it again with an alpha "
        f"of 0 and 255, or keep the photograph alone with gdal_translate {bands} and drop the result."
    )
