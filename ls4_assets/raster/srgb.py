"""Encode colors as 8-bit sRGB, which every map and viewer takes an image without a profile for."""

import numpy as np
from numpy.typing import NDArray

# D50 to D65 with Bradford's method (Lindbloom, "RGB/XYZ Matrices").
_XYZ_TO_LINEAR = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]], np.float32
)


def encode(linear: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return linear values, 0 to 1, with the curve of IEC 61966-2-1; values outside are clipped."""
    clipped = linear.clip(0, 1)
    curve = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    encoded: NDArray[np.uint8] = np.rint(curve * 255).astype(np.uint8)
    return encoded


def encode_xyz(xyz: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return sRGB of CIE XYZ relative to D50, both of shape (3, rows, columns)."""
    return encode(np.tensordot(_XYZ_TO_LINEAR, xyz.astype(np.float32), axes=1))
