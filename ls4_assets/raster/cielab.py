"""Convert CIE L*a*b* pixels to sRGB.

TIFF 6.0, section 23, and Adobe's TIFF technical notes (ICCLab): L* is unsigned, a* and b* are signed (CIELab) or offset by half
the range (ICCLab), and the white point is D50. CIE 15:2004, 8.2.1, for L*a*b* to XYZ.
"""

import numpy as np
from numpy.typing import NDArray

from ls4_assets.raster.srgb import encode_xyz

CIELAB, ICCLAB = 8, 9

_D50 = np.array([0.96422, 1.0, 0.82521])
_EPSILON = 6 / 29


def are_offset(chroma: NDArray[np.unsignedinteger]) -> bool:
    """True when stored a* and b* are offset by half their range, although they are signed according to the tag.

    Some programs write the one and tag the other. Most of a photograph is close to gray in the right reading, and in colors that
    no film has in the wrong one.
    """
    half = 1 << (8 * chroma.dtype.itemsize - 1)
    signed = chroma.view(f"i{chroma.dtype.itemsize}").astype(np.int64)
    return bool(np.abs(chroma.astype(np.int64) - half).mean() < np.abs(signed).mean())


def to_srgb(pixels: NDArray[np.unsignedinteger], *, is_offset: bool) -> NDArray[np.uint8]:
    """Return sRGB of stored L*, a*, b* of 8 or 16 bits, both of shape (3, rows, columns)."""
    bits = 8 * pixels.dtype.itemsize
    lightness = pixels[0].astype(np.float32) * np.float32(100 / (2**bits - 1))
    chroma = pixels[1:]
    if is_offset:
        signed = chroma.astype(np.float32) - np.float32(2 ** (bits - 1))
    else:
        signed = np.ascontiguousarray(chroma).view(f"i{pixels.dtype.itemsize}").astype(np.float32)
    signed /= np.float32(2 ** (bits - 8))
    y = (lightness + 16) / 116
    f = np.stack([y + signed[0] / 500, y, y - signed[1] / 200])
    xyz = np.where(f > _EPSILON, f**3, 3 * _EPSILON**2 * (f - 4 / 29)) * _D50[:, None, None]
    return encode_xyz(xyz)
