"""Convert a scan that is not plain 8-bit gray or RGB: write its photograph once as an uncompressed 8-bit tif.

Every later step, with and without reprojection, reads that intermediate file as it would read a plain scan. The dropped file is
never changed. `pixel_format` says what is stored, `stretch`, `cielab` and `alpha` hold the rules, `pages` chooses the image.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.printable import printable
from ls4_assets.errors import FrameError
from ls4_assets.raster import cielab
from ls4_assets.raster.damage import reject_unwritten
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.pixel_format import PixelFormat, reduce_palette
from ls4_assets.raster.raw_scan import Raw, RawScan, open_raw
from ls4_assets.raster.source import MaskDeclaration, Source
from ls4_assets.raster.stretch import Stretch, choose_stretch, sample_step
from ls4_assets.raster.tiff_directories import MAX_SAMPLE, MIN_SAMPLE, S_MAX_SAMPLE, S_MIN_SAMPLE

Decode = Callable[[Raw], NDArray[np.uint8]]


@dataclass(frozen=True)
class Conversion:
    """What was done to the pixels of a scan, for people; `stretch` only for 16-bit and float scans."""

    description: str
    stretch: Stretch | None = None


@contextmanager
def converted(source: Source, out: Path) -> Iterator[tuple[Source, Conversion | None]]:
    """Yield a plain source with the photograph of `source`, and what was done; `source` itself when it is plain.

    The intermediate file is beside `out` until the block ends. Raises FrameError when the pixels do not fit the film type, or are
    damaged.
    """
    if not source.needs_conversion:
        yield source, None
        return
    # In a folder of its own, so that it has the name that messages are about.
    folder = out.parent / f".converted-{out.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            raw = RawScan(source, stack.enter_context(open_raw(source, folder)), stack)
            plain = folder / source.path.name
            declared_mask, conversion = _write_plain(raw, plain)
        bands = tuple(range(1, FILM_TYPES[source.film_type].bands + 1))
        yield (
            replace(
                source, path=plain, page=None, count=len(bands), bands=bands, alpha_band=None, nodata=None, raw_nodata=None,
                declared_mask=declared_mask, min_is_white=False, format=PixelFormat("plain", "uint8", False),
            ),
            conversion,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_plain(raw: RawScan, path: Path) -> tuple[MaskDeclaration, Conversion]:
    """Write the converted photograph to `path`. Returns what its mask means, and what was done."""
    source = raw.source
    if source.page is not None:
        read_valid = (lambda window: raw.read(window)[1]) if raw.declares_validity else None
        reject_unwritten(source.page, read_valid)
    decode, conversion = _DECODERS[source.format.kind](raw)
    # Single values that no sensor gives say nothing about a collar.
    declared: MaskDeclaration = "mask" if raw.declares_validity else "implausible" if raw.has_implausible else "nothing"
    options = {
        "driver": "GTiff", "dtype": "uint8", "width": source.width, "height": source.height,
        "count": FILM_TYPES[source.film_type].bands, "interleave": "band", "tiled": True, "blockxsize": 512, "blockysize": 512,
        "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with gdal_env(), rasterio.open(path, "w", **options) as target:
        for window in raw.strips():
            values, valid = raw.read(window)
            target.write(decode(values), window=window)
            if declared != "nothing":
                target.write_mask(valid.astype(np.uint8) * np.uint8(255), window=window)
    return declared, conversion


def _lookup(table: NDArray[np.uint8]) -> Decode:
    """Decode by a table of shape (values,), or (bands, values) for a palette."""

    def decode(values: Raw) -> NDArray[np.uint8]:
        index = values.view(f"u{values.dtype.itemsize}")
        decoded: NDArray[np.uint8] = table[:, index[0]] if table.ndim == 2 else table[index]
        return decoded

    return decode


def _decode_plain(raw: RawScan) -> tuple[Decode, Conversion]:
    source, icc = raw.source, raw.source.format.icc
    levels = np.arange(256, dtype=np.uint8)
    invert = _lookup(levels[::-1].copy() if source.min_is_white else levels)
    steps = ["8-bit", "divided by its premultiplied alpha" if raw.divides_by_alpha else ""]
    if icc is None or len(icc.curves) != len(source.bands):
        return invert, Conversion(_with_page(raw, ", ".join(filter(None, steps))))
    description = ", ".join(filter(None, [*steps, f"converted from the ICC profile {printable(icc.name)} to sRGB"]))
    return lambda values: icc.apply(invert(values)), Conversion(_with_page(raw, description))


def _decode_few_bits(raw: RawScan) -> tuple[Decode, Conversion]:
    bits = raw.source.format.bits or 1
    levels = np.rint(np.arange(256).clip(0, 2**bits - 1) * (255 / (2**bits - 1))).astype(np.uint8)
    if raw.source.min_is_white:
        levels = 255 - levels
    return _lookup(levels), Conversion(_with_page(raw, f"{bits}-bit, 0 to {2**bits - 1} became 0 to 255"))


def _decode_palette(raw: RawScan) -> tuple[Decode, Conversion]:
    source, palette = raw.source, raw.source.format.palette
    assert palette is not None
    used = np.zeros(palette.shape[1], bool)
    for window in raw.strips():
        values, valid = raw.read(window)
        used[np.unique(values[0][valid])] = True
    table = reduce_palette(palette, used, source.film_type, source.path.name)
    colors = "gray" if len(table) == 1 else "color"
    return _lookup(table), Conversion(_with_page(raw, f"{colors} palette of {int(used.sum())} used values, expanded"))


def _decode_cielab(raw: RawScan) -> tuple[Decode, Conversion]:
    is_offset = raw.source.format.is_offset_lab or cielab.are_offset(_sample(raw)[1:])
    return lambda values: cielab.to_srgb(values, is_offset=is_offset), Conversion(
        _with_page(raw, "CIE L*a*b*, converted to sRGB")
    )


def _decode_wide(raw: RawScan) -> tuple[Decode, Conversion]:
    source = raw.source
    sample = _sample(raw)
    if sample.size == 0:
        raise FrameError(
            f"{source.path.name} has no valid pixel: all of it is masked or nodata; check the scan and its nodata value, and "
            "drop it again."
        )
    stretch = choose_stretch(sample, _declared_ranges(source), source.format.bits)
    description = f"{raw.dtype.name}, {stretch.low:g} to {stretch.high:g} became 0 to 255 (by {stretch.rule})"
    return _apply(stretch, raw), Conversion(_with_page(raw, description), stretch)


def _apply(stretch: Stretch, raw: RawScan) -> Decode:
    flip = raw.source.min_is_white
    if raw.dtype.itemsize <= 2 and np.issubdtype(raw.dtype, np.integer):
        every_value = np.arange(1 << (8 * raw.dtype.itemsize), dtype=f"u{raw.dtype.itemsize}").view(raw.dtype)
        table = stretch.apply(every_value)
        return _lookup(255 - table if flip else table)
    return lambda values: 255 - stretch.apply(values) if flip else stretch.apply(values)


def _declared_ranges(source: Source) -> list[tuple[float, float]]:
    """Return the ranges of values that the file's tags declare."""
    if source.page is None:
        return []
    values = source.page.directory.values
    pairs = ((S_MIN_SAMPLE, S_MAX_SAMPLE), (MIN_SAMPLE, MAX_SAMPLE))
    return [(float(min(values[low])), float(max(values[high]))) for low, high in pairs if low in values and high in values]


def _sample(raw: RawScan) -> Raw:
    """Return valid values of all bands, shape (bands, pixels): evenly spread, without the value of a collar."""
    source = raw.source
    step = sample_step(source.width, source.height)
    parts = []
    for window in raw.strips():
        values, valid = raw.read(window)
        first = -int(window.row_off) % step
        parts.append(values[:, first::step, ::step][:, valid[first::step, ::step]])
    sample: Raw = np.concatenate(parts, axis=1)
    collar = None if raw.declares_validity else _find_collar_value(raw)
    if collar is not None:
        photograph = sample[:, (sample != collar[:, None]).any(axis=0)]
        sample = photograph if photograph.size else sample
    return sample


def _find_collar_value(raw: RawScan) -> Raw | None:
    """Return the value, one of each band, that at least two corners of the image share."""
    width, height = raw.source.width, raw.source.height
    corners = [raw.read(Window(column, row, 1, 1))[0][:, 0, 0] for row in (0, height - 1) for column in (0, width - 1)]
    for index, corner in enumerate(corners):
        if any(np.array_equal(corner, other) for other in corners[index + 1 :]):
            return corner
    return None


def _with_page(raw: RawScan, description: str) -> str:
    page = raw.source.page
    return description if page is None or page.is_first else f"{description}; the photograph is not the first image of its file"


_DECODERS: dict[str, Callable[[RawScan], tuple[Decode, Conversion]]] = {
    "plain": _decode_plain,
    "few bits": _decode_few_bits,
    "palette": _decode_palette,
    "wide": _decode_wide,
    "cielab": _decode_cielab,
}
