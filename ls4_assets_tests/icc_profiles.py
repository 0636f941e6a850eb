"""Minimal ICC profiles for the tests, and the sRGB of pixels by Pillow's LittleCMS."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from ls4_assets_tests.rasters import Pixels

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def curve(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256)) + b"\0\0"


def parametric_curve(gamma: float) -> bytes:
    return struct.pack(">4sIHHi", b"para", 0, 0, 0, round(gamma * 65536))


def table_curve(gamma: float) -> bytes:
    values = np.rint(np.linspace(0, 1, 256) ** gamma * 65535).astype(">u2").tobytes()
    return struct.pack(">4sII", b"curv", 0, 256) + values


def xyz(values: tuple[float, float, float]) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(value * 65536) for value in values))


def profile(curves: bytes, primaries: tuple[tuple[float, float, float], ...] | None) -> bytes:
    """A display profile; gray without `primaries`."""
    text = b"a test profile\0"
    description = struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    if primaries is None:
        tags[b"kTRC"] = curves
    else:
        for letter, values in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags |= {letter + b"XYZ": xyz(values), letter + b"TRC": curves}
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += padded
    header = bytearray(128)
    struct.pack_into(">I", header, 0, offset + len(body))
    struct.pack_into(">I4s4s4s", header, 8, 0x02400000, b"mntr", b"GRAY" if primaries is None else b"RGB ", b"XYZ ")
    struct.pack_into(">4s", header, 36, b"acsp")
    struct.pack_into(">3i", header, 68, *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


def to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """Gray or RGB of shape (bands, rows, columns) in sRGB. LittleCMS makes gray by way of RGB."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    converted = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), outputMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    assert converted is not None
    return np.moveaxis(np.asarray(converted), -1, 0)[: len(pixels)]
