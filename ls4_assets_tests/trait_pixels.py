"""Files of the traits in `traits` that concern pixels and colors, with the photographs that must come out."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ls4_assets_tests.icc_profiles import to_srgb
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, photograph, write_tif

HEIGHT, WIDTH = 300, 400
Valid = NDArray[np.bool_]
Truth = tuple[Pixels, Valid | None]
TILED: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128}
GEOREFERENCE_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)


def scene(bands: int = 1) -> Pixels:
    """A photograph with true black, true white and all grays between."""
    pixels = photograph(HEIGHT, WIDTH, bands)
    pixels[:, 100:140, 50:90] = 0
    pixels[:, 100:140, 150:190] = 255
    return pixels


def collar() -> Valid:
    """Valid pixels of a scan with a straight collar on its left."""
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, :40] = False
    return valid


def georeference_tags(scale: float = 1.0) -> list[tuple[int, int, int, Any, bool]]:
    """Tags for tifffile that place an image at the default place; `scale`: meters of a pixel."""
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=2, height=2, count=1, dtype="uint8", crs="EPSG:3857",
            transform=Affine(scale, 0, WEST, 0, -scale, NORTH),
        ):  # fmt: skip
            pass
        with tifffile.TiffFile(memory) as tif:
            tags = [tag for tag in tif.pages.first.tags.values() if tag.code in GEOREFERENCE_TAGS]
            return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags]


def patch_tag(path: Path, tag: int, value: int, page: int = 0) -> None:
    """Overwrite the value of a tag of one image."""
    with tifffile.TiffFile(path) as tif:
        image = tif.pages.get(page)
        assert isinstance(image, tifffile.TiffPage)
        entry = image.tags[tag]
        order, form = tif.byteorder, {1: "B", 3: "H", 4: "I"}[int(entry.dtype)]
        place = entry.valueoffset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack(order + form, value))


def damage_block(path: Path, index: int, kind: str) -> None:
    """Overwrite a third of a strip or tile, with zeros or with noise."""
    with tifffile.TiffFile(path) as tif:
        offset, size = tif.pages.first.dataoffsets[index], tif.pages.first.databytecounts[index]
    length = 2 * size // 3 - size // 3
    noise = np.random.default_rng(3).integers(0, 256, length, dtype=np.uint8).tobytes()
    with path.open("r+b") as file:
        file.seek(offset + size // 3)
        file.write(bytes(length) if kind == "zeros" else noise)


def plain(bands: int = 1, **options: Any) -> Callable[[Path], Truth]:
    def make(path: Path) -> Truth:
        write_tif(path, scene(bands), **options)
        return scene(bands), None

    return make


def few_bits(bits: int, **options: Any) -> Callable[[Path], Truth]:
    def make(path: Path) -> Truth:
        top = 2**bits - 1
        values = (scene().astype(int) * (top + 1) // 256).astype(np.uint8)
        is_inverted = options.get("photometric") == "MINISWHITE"
        write_tif(path, top - values if is_inverted else values, nbits=bits, **options)
        return np.rint(values * (255 / top)).astype(np.uint8), None

    return make


def wide(
    dtype: str,
    scale: float = 16,
    *,
    offset: float = 0,
    collar_value: float | None = None,
    bands: int = 1,
    tags: Mapping[int, float] | None = None,
    is_inverted: bool = False,
    **options: Any,
) -> Callable[[Path], Truth]:
    """A scan of a wider type whose black is `offset` and whose white is `offset + 255 * scale`."""

    def make(path: Path) -> Truth:
        pixels = scene(bands)
        stored = 255 - pixels if is_inverted else pixels
        values = (stored.astype(np.float64) * scale + offset).astype(dtype)
        if collar_value is not None:
            values[:, ~collar()] = collar_value
        if tags:
            form = {"uint16": "H", "float32": "f"}[dtype]
            extra = [(tag, form, 1, value, True) for tag, value in tags.items()]
            tifffile.imwrite(path, values[0], photometric="minisblack", extratags=[*georeference_tags(), *extra])
        else:
            write_tif(path, values, **options)
        return pixels, None if collar_value is None else collar()

    return make


def palette(color: Callable[[int], tuple[int, int, int]], film_bands: int) -> Callable[[Path], Truth]:
    def make(path: Path) -> Truth:
        index = scene()
        write_tif(path, index, photometric="PALETTE")
        with rasterio.open(path, "r+") as target:
            target.write_colormap(1, {value: (*color(value), 255) for value in range(256)})
        table = np.array([color(value) for value in range(256)], np.uint8).T
        return table[:film_bands, index[0]], None

    return make


def gray_reversed(value: int) -> tuple[int, int, int]:
    return (255 - value,) * 3


def reddish(value: int) -> tuple[int, int, int]:
    return (value, value // 2, 255 - value)


def bgr(path: Path) -> Truth:
    write_tif(path, scene(3)[::-1])
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    return scene(3), None


def cmyk(path: Path) -> Truth:
    inks = np.concatenate([255 - scene(3), np.zeros((1, HEIGHT, WIDTH), np.uint8)])
    write_tif(path, inks, photometric="CMYK")
    return scene(3), None


def lab_values() -> tuple[NDArray[np.float64], Pixels]:
    """L*, a*, b* of muted colors, all of them in sRGB, and their sRGB by Pillow's LittleCMS."""
    from PIL import Image, ImageCms

    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    lab = np.stack([30 + 60 * x / WIDTH, 12 * np.sin(y / 40), 10 * np.cos(x / 50)])
    lab[:, 100:140, 50:90] = np.array([0, 0, 0])[:, None, None]
    lab[:, 100:140, 150:190] = np.array([100, 0, 0])[:, None, None]
    lab = np.rint(lab * np.array([2.55, 1, 1])[:, None, None]) / np.array([2.55, 1, 1])[:, None, None]
    stored = np.stack([np.rint(lab[0] * 2.55), lab[1] + 128, lab[2] + 128]).astype(np.uint8)
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    image = Image.frombytes("LAB", (WIDTH, HEIGHT), np.moveaxis(stored ^ _pillow_offset(), 0, -1).tobytes())
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return lab, np.moveaxis(np.asarray(converted), -1, 0)


def _pillow_offset() -> NDArray[np.uint8]:
    """What distinguishes Pillow's storage of a* and b*, which has changed between versions, from an offset of 128."""
    from PIL import Image, ImageCms

    white = Image.new("RGB", (1, 1), (255, 255, 255))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(white, transform)
    assert converted is not None
    difference = 0 if abs(converted.tobytes()[1] - 128) < 3 else 128
    return np.array([0, difference, difference], np.uint8)[:, None, None]


def cielab(photometric: int, is_offset: bool, dtype: str = "uint8") -> Callable[[Path], Truth]:
    def make(path: Path) -> Truth:
        lab, srgb = lab_values()
        factor = 1 if dtype == "uint8" else 256
        top = 255 if dtype == "uint8" else 65535
        chroma = lab[1:] * factor + (128 * factor if is_offset else 0)
        wrapped = np.rint(chroma).astype(np.int64) % (256 * factor)
        stored = np.concatenate([np.rint(lab[:1] * top / 100).astype(dtype), wrapped.astype(dtype)])
        tifffile.imwrite(path, np.moveaxis(stored, 0, -1), photometric="rgb", extratags=georeference_tags())
        patch_tag(path, 262, photometric)
        return srgb, None

    return make


def with_profile(icc: bytes, bands: int, *, is_kept: bool = False) -> Callable[[Path], Truth]:
    """A scan with an embedded ICC profile. `is_kept`: its values must come out as they are."""

    def make(path: Path) -> Truth:
        # Muted colors: those outside sRGB are clipped differently by each program.
        pixels = (
            scene() if bands == 1 else np.clip(scene().astype(int) + np.array([[[8]], [[0]], [[-8]]]), 0, 255).astype(np.uint8)
        )
        image = pixels[0] if bands == 1 else np.moveaxis(pixels, 0, -1)
        photometric = "minisblack" if bands == 1 else "rgb"
        tifffile.imwrite(path, image, photometric=photometric, extratags=georeference_tags(), iccprofile=icc)
        return pixels if is_kept else to_srgb(pixels, icc), None

    return make
