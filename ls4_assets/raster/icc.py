"""Convert 8-bit gray and RGB from an embedded ICC profile to sRGB.

ICC.1:2022: a profile of curves and a matrix (8.3.3 and 8.4.3), such as Adobe RGB, ProPhoto RGB, gray gamma 1.8 and dot gain. The
products have no profile, so without this their colors would be wrong. A profile of tables, as of some scanners, is left out.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls4_assets.raster.srgb import encode, encode_xyz

MAX_BYTES = 1_000_000
_SPACES = {1: b"GRAY", 3: b"RGB "}
_MAX_GRAY_DIFFERENCE = 10
"""Gray gamma 2.2 differs from the curve of sRGB by at most so many levels, in the shadows: such a scan keeps its values."""
_MAX_COLOR_DIFFERENCE = 4


@dataclass(frozen=True)
class IccTransform:
    """curves: linear value of each stored value, shape (bands, 256). matrix: linear RGB to XYZ relative to D50, None for gray."""

    name: str
    curves: NDArray[np.float32]
    matrix: NDArray[np.float32] | None

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return gray or RGB of shape (bands, rows, columns) in sRGB."""
        if self.matrix is None:
            return encode(self.curves[0])[pixels]
        linear = np.stack([curve[band] for curve, band in zip(self.curves, pixels, strict=True)])
        return encode_xyz(np.tensordot(self.matrix, linear, axes=1))

    @property
    def changes_pixels(self) -> bool:
        """False for sRGB itself, and for gray gamma 2.2."""
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        if self.matrix is None:
            grays = np.arange(256, dtype=np.uint8)[None, None]
            return int(np.abs(self.apply(grays).astype(int) - grays).max()) > _MAX_GRAY_DIFFERENCE
        grid = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 1, -1)
        return int(np.abs(self.apply(grid).astype(int) - grid).max()) > _MAX_COLOR_DIFFERENCE


def read_icc(profile: bytes, bands: int) -> IccTransform | None:
    """Return the transform of a profile; None when it is none of curves and a matrix, or belongs to other pixels."""
    try:
        if profile[36:40] != b"acsp" or profile[16:20] != _SPACES.get(bands) or profile[20:24] not in (b"XYZ ", b"Lab "):
            return None
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(min(count, 100))]
        tags = {name: profile[offset : offset + size] for name, offset, size in entries}
        names = (b"kTRC",) if bands == 1 else (b"rTRC", b"gTRC", b"bTRC")
        curves = np.stack([_read_curve(tags[name]) for name in names])
        matrix = None
        if bands == 3:
            columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
            matrix = np.array(columns, np.float32).T / np.float32(65536)
        return IccTransform(_read_name(tags.get(b"desc", b"")), curves, matrix)
    except (KeyError, ValueError, struct.error):
        return None


def _read_curve(tag: bytes) -> NDArray[np.float32]:
    """Return the linear value of 0 to 255 by a curve of type curv or para; raises ValueError for any other."""
    x = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.array(struct.unpack_from(f">{count}H", tag, 12), np.float64)
        if count == 0:
            return x.astype(np.float32)
        if count == 1:
            return np.asarray(x ** (values[0] / 256), np.float32)
        return np.asarray(np.interp(x, np.linspace(0, 1, count), values / 65535), np.float32)
    if tag[:4] != b"para":
        raise ValueError("neither a curve nor its parameters")
    (kind,) = struct.unpack_from(">H", tag, 8)
    numbers = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[min(kind, 4)]}i", tag, 12)]
    g, a, b, c, d, e, f = _complete(kind, numbers)
    with np.errstate(invalid="ignore"):
        curve = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    if not np.isfinite(curve).all():
        raise ValueError("a curve that is not finite")
    return np.asarray(curve.clip(0, 1), np.float32)


def _complete(kind: int, numbers: list[float]) -> tuple[float, ...]:
    """Return g, a, b, c, d, e, f of the curve (a x + b)^g + e from d, and c x + f below: ICC.1:2022, table 68."""
    g, a, b, *rest = [*numbers, 1.0, 0.0][: max(3, len(numbers))]
    threshold = -b / a if a else 0.0
    if kind == 0:
        return g, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind == 1:
        return g, a, b, 0.0, threshold, 0.0, 0.0
    if kind == 2:
        return g, a, b, 0.0, threshold, rest[0], rest[0]
    c, d, e, f = [*rest, 0.0, 0.0][:4]
    return g, a, b, c, d, e, f


def _read_name(tag: bytes) -> str:
    """Return the profile's description, in ASCII."""
    if tag[:4] == b"desc":
        (size,) = struct.unpack_from(">I", tag, 8)
        return tag[12 : 12 + size].split(b"\0")[0].decode("ascii", "replace")[:80]
    if tag[:4] == b"mluc":
        size, offset = struct.unpack_from(">II", tag, 20)
        return tag[offset : offset + size].decode("utf-16-be", "replace")[:80]
    return "without a name"
