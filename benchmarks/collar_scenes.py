"""Scans with a known collar for `benchmarks.collars`: synthetic, and real photographs that are rotated into a collar here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]
Valid = NDArray[np.bool_]
Fill = Callable[[tuple[int, int]], NDArray[np.float64]]

HEIGHT, WIDTH = 900, 1200


@dataclass(frozen=True)
class Scene:
    """`pixels` of shape (bands, rows, columns), and which of them are photograph. `options` are GDAL's creation options."""

    group: str
    name: str
    pixels: Pixels
    valid: Valid
    options: dict[str, object] = field(default_factory=dict)


def iter_scenes(cases: Path | None, data: Path | None) -> Iterator[Scene]:
    """Yield all scenes; those of `cases` (scan and truth mask) and `data` (real imagery) only where these folders exist."""
    if cases is not None and cases.is_dir():
        yield from _read_cases(cases)
    yield from _collars()
    yield from _disturbed_collars()
    yield from _photographs_to_keep()
    if data is not None and data.is_dir():
        yield from _rotated_imagery(data)


def _read_cases(folder: Path) -> Iterator[Scene]:
    for path in sorted(folder.glob("out/bw/*.tif")):
        with rasterio.open(path) as scan, rasterio.open(folder / "truth" / f"bw-{path.name}") as truth:
            options = {"compress": "JPEG", "jpeg_quality": 75} if scan.compression else {}
            yield Scene("cases", f"reported scan {path.stem.rpartition('-')[2]}", scan.read(), truth.read(4) > 127, options)


def texture(height: int, width: int, bands: int = 1, seed: int = 5, low: float = 5, high: float = 250) -> Pixels:
    """Return a photograph: structures of all sizes and grain, with dark and bright parts."""
    rng = np.random.default_rng(seed)
    shared = sum(
        ndimage.zoom(rng.standard_normal((height // step + 2, width // step + 2)), step, order=1)[:height, :width] * step**0.6
        for step in (4, 16, 64, 256)
    )
    layers = []
    for band in range(bands):
        layer = 120 + (3.2 - 0.4 * band) * shared + rng.normal(0, 5, (height, width))
        layers.append(np.clip(layer, low, high))
    return np.stack(layers).astype(np.uint8)


def rectangle(degrees: float, share: float = 0.76) -> Valid:
    """Return True inside a rectangle, rotated about the center of the image."""
    height, width = HEIGHT, WIDTH
    y, x = np.mgrid[0:height, 0:width]
    across, down = x + 0.5 - width / 2, y + 0.5 - height / 2
    angle = np.radians(degrees)
    u, v = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    inside: Valid = (np.abs(u) < share * width / 2) & (np.abs(v) < share * height / 2)
    return inside


def constant(value: int) -> Fill:
    return lambda shape: np.full(shape, float(value))


def noise(low: int, high: int) -> Fill:
    """Each value from `low` to `high`, both included, with the same probability."""
    return lambda shape: np.random.default_rng(11).integers(low, high + 1, shape).astype(float)


def compose(photograph: Pixels, valid: Valid, fill: Fill) -> Pixels:
    return np.where(valid, photograph, fill(valid.shape)).astype(np.uint8)


def jpeg(quality: int) -> dict[str, object]:
    return {"compress": "JPEG", "jpeg_quality": quality}


_FILLS: dict[str, tuple[Fill, dict[str, object]]] = {
    "black": (constant(0), {}),
    "white": (constant(255), {}),
    "noise 0-3": (noise(0, 3), {}),
    "noise 0-5": (noise(0, 5), {}),
    "near-white 250-255": (noise(250, 255), {}),
    "gray 128": (constant(128), {}),
    "black, JPEG 50": (constant(0), jpeg(50)),
    "black, JPEG 75": (constant(0), jpeg(75)),
    "black, JPEG 95": (constant(0), jpeg(95)),
    "white, JPEG 75": (constant(255), jpeg(75)),
    "gray 128, JPEG 85": (constant(128), jpeg(85)),
}


def _collars() -> Iterator[Scene]:
    """Collars of all fills: rotated, and along one to four sides."""
    gray, color = texture(HEIGHT, WIDTH), texture(HEIGHT, WIDTH, 3)
    for name, (fill, options) in _FILLS.items():
        for degrees in (1, 3, 7, 15, 30, 45):
            valid = rectangle(degrees, 0.76 if degrees < 20 else 0.6)
            yield Scene("rotated 1-45°", f"{name}, {degrees}°", compose(gray, valid, fill), valid, options)
        valid = rectangle(7)
        yield Scene("color photograph", name, compose(color, valid, fill), valid, options)
        for tilt in (1.5, 4):
            valid = rectangle(tilt, 0.99)
            yield Scene("corners only", f"{name}, {tilt}°", compose(gray, valid, fill), valid, options)
        valid = _bowed()
        yield Scene("bowed and skewed", name, compose(gray, valid, fill), valid, options)
        for sides in range(1, 5):
            valid = np.zeros((HEIGHT, WIDTH), bool)
            bottom, top = HEIGHT - 53 * (sides > 1), 41 * (sides > 2)
            valid[top:bottom, 67 : WIDTH - 75 * (sides > 3)] = True
            yield Scene("1-4 sides", f"{name}, {sides} sides", compose(gray, valid, fill), valid, options)


def _bowed() -> Valid:
    """A photograph that a polynomial has rectified: its sides are neither straight nor perpendicular."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    left, right = 110 + 0.10 * y + 9 * ((y - 450) / 450) ** 2, 1010 + 0.08 * y - 7 * ((y - 450) / 450) ** 2
    top, bottom = 90 - 0.07 * (x - 600) + 8 * ((x - 600) / 600) ** 2, 810 - 0.09 * (x - 600) + 6 * ((x - 600) / 600) ** 2
    inside: Valid = (x > left) & (x < right) & (y > top) & (y < bottom)
    return inside


def _disturbed_collars() -> Iterator[Scene]:
    """Rotated collars with what scanners and films leave in them, or with a dark photograph."""
    gray, valid = texture(HEIGHT, WIDTH), rectangle(5)
    for fill_name, (fill, options) in _FILLS.items():
        if fill_name not in ("black", "noise 0-3", "black, JPEG 75", "white", "gray 128"):
            continue
        base = compose(gray, valid, fill)
        for name, disturb in _DISTURBANCES.items():
            pixels = base.copy()
            disturb(pixels[0], valid)
            yield Scene(name, fill_name, pixels, valid, options)


def _specks(pixels: Pixels, valid: Valid) -> None:
    for row, column in ((30, 1100), (850, 40), (20, 60), (14, 620)):
        pixels[row : row + 3, column : column + 3] = 190


def _dust_line(pixels: Pixels, valid: Valid) -> None:
    rows = np.arange(HEIGHT)
    pixels[rows, 600 + (20 * np.sin(rows / 150)).astype(int)] = 200


def _fiducial_tabs(pixels: Pixels, valid: Valid) -> None:
    """Bright marks that protrude from the photograph into the collar."""
    for row, column in ((450, WIDTH - 150), (HEIGHT - 118, 600)):
        pixels[row - 8 : row + 8, column - 12 : column + 12] = 210


def _fiducial_notches(pixels: Pixels, valid: Valid) -> None:
    """Notches of the collar's color in two sides of the photograph; what is in them is photograph here, on the safe side."""
    background = pixels[0, 0]
    for row, column in ((450, WIDTH - 155), (HEIGHT - 125, 600)):
        pixels[row - 15 : row + 15, column - 15 : column + 15] = background


def _writing(pixels: Pixels, valid: Valid) -> None:
    """A line of writing along the film's edge."""
    for number in range(14):
        pixels[40:56, 300 + 22 * number : 300 + 22 * number + 3] = 170


def _black_lake(pixels: Pixels, valid: Valid) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels[valid & (np.hypot(y - 620, x - 230) < 150)] = 0


def _dark_forest(pixels: Pixels, valid: Valid) -> None:
    forest = np.random.default_rng(3).gamma(2.0, 7.0, pixels.shape)
    region = valid & (np.mgrid[0:HEIGHT, 0:WIDTH][1] < 380 + 30 * np.sin(np.arange(HEIGHT) / 40)[:, None])
    pixels[region] = np.clip(forest, 0, 60)[region].astype(np.uint8)


_DISTURBANCES: dict[str, Callable[[Pixels, Valid], None]] = {
    "specks in the collar": _specks,
    "dust line across the scan": _dust_line,
    "fiducial marks in the collar": _fiducial_tabs,
    "fiducial notches in the photograph": _fiducial_notches,
    "writing on the film's edge": _writing,
    "black lake at the collar": _black_lake,
    "dark forest at the collar": _dark_forest,
}


def _photographs_to_keep() -> Iterator[Scene]:
    """Photographs without a collar, which have flat regions at two corners or more."""
    everything = np.ones((HEIGHT, WIDTH), bool)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    coast = 640 + 60 * np.sin(x / 170) + 20 * np.sin(x / 31)
    water = {
        "straight dam": y > 600,
        "sloping dam": y > 560 + 0.12 * x,
        "coast": y > coast,
        "cape, three corners": (y > coast) | (x > 900 + 50 * np.sin(y / 120) + 15 * np.sin(y / 23)),
        "narrow coast": y > coast + 180,
    }
    fills: dict[str, tuple[Fill, dict[str, object]]] = {
        "black water": (constant(0), {}),
        "night water 0-5": (noise(0, 5), {}),
        "black water, JPEG 75": (constant(0), jpeg(75)),
        "white snow": (constant(255), {}),
        "gray sea 126-130": (noise(126, 130), {}),
    }
    gray = texture(HEIGHT, WIDTH)
    for fill_name, (fill, options) in fills.items():
        for name, region in water.items():
            yield Scene(f"keep: {fill_name}", name, compose(gray, ~region, fill), everything, options)
    roofs = gray.copy()
    roofs[0, :90, :140] = roofs[0, -80:, -150:] = 255
    yield Scene("keep: others", "white roofs at two corners", roofs, everything)
    forest = np.clip(np.random.default_rng(3).gamma(2.0, 3.0, gray.shape), 0, 60).astype(np.uint8)
    yield Scene("keep: others", "dark forest", np.where(y > coast, forest, gray).astype(np.uint8), everything)
    vignette = gray * np.clip(1.5 - 1.2 * np.hypot((y - HEIGHT / 2) / HEIGHT, (x - WIDTH / 2) / WIDTH) ** 2 * 2.6, 0, 1)
    dark = np.maximum(vignette, noise(1, 6)(everything.shape))
    yield Scene("keep: others", "dark corners of the lens", dark.astype(np.uint8), everything)
    yield Scene("keep: others", "no flat corner", gray, everything)


_IMAGERY = {
    "NOAA aerial": "stac-utils+titiler-pgstac/20200307aC0853900w361030n.tif",
    "NAIP": "stactools-packages+naip/m_3211605_ne_11_060_20200415.tif",
    "USGS ortho": "cogeotiff+rio-tiler/201404_13SED190110_201404_0x1500m_CL_1.tif",
    "Landsat band": "stac-utils+stactools/LC08_L1TP_198029_20220331_20220406_02_T1_B2.TIF",
}


def _rotated_imagery(data: Path) -> Iterator[Scene]:
    for name, file in _IMAGERY.items():
        photograph = _read_middle(data / file)
        for degrees in (2.0, 12.0, 40.0):
            for fill_name in ("black", "noise 0-3", "black, JPEG 75", "near-white 250-255", "gray 128"):
                fill, options = _FILLS[fill_name]
                pixels, valid = _rotate(photograph, degrees)
                yield Scene(f"real, {name}", f"{degrees:g}°, {fill_name}", compose(pixels, valid, fill), valid, options)
    yield _film_scan(data / "friedrichknuth+hipp/T.tif")


def _read_middle(path: Path) -> Pixels:
    """Return the middle of an image, without its own collar, as 8 bits in one or three bands."""
    with rasterio.open(path) as dataset:
        bands = [1, 2, 3] if dataset.count >= 3 else [1]
        pixels = dataset.read(bands)
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels[pixels > 0], (0.5, 99.5))
        pixels = np.clip((pixels.astype(float) - low) / (high - low) * 254 + 1, 1, 255).astype(np.uint8)
    _, height, width = pixels.shape
    middle: Pixels = pixels[:, height // 5 : -height // 5, width // 5 : -width // 5]
    return middle


def _rotate(photograph: Pixels, degrees: float) -> tuple[Pixels, Valid]:
    """Rotate by nearest neighbor; the truth is the rotated rectangle of the photograph's pixels."""
    _, height, width = photograph.shape
    angle = np.radians(degrees)
    size = int(np.hypot(height, width) * 1.03)
    y, x = np.mgrid[0:size, 0:size] + 0.5 - size / 2
    u = np.floor(x * np.cos(angle) + y * np.sin(angle) + width / 2).astype(int)
    v = np.floor(y * np.cos(angle) - x * np.sin(angle) + height / 2).astype(int)
    valid = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixels: Pixels = photograph[:, np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return pixels, valid


def _film_scan(path: Path) -> Scene:
    """A film from its real edge: the scanned edge with its fiducial notch on two opposite sides. The border is 4 to 12.

    What is in the notches counts as photograph, on the safe side.
    """
    with rasterio.open(path) as dataset:
        notch = dataset.read(1)
    height, width, depth = 2400, 3000, len(notch)
    film = np.clip(texture(height, width)[0].astype(float) * 0.4 + 100, 60, 230).astype(np.uint8)
    # The edge of the photograph is in row 119 left of the notch, and in row 117 right of it.
    for first, last, edge in ((0, 1000, 119), (1000, 2000, 119), (2000, width, 117)):
        film[:edge, first:last] = np.tile(notch[:100], (2, 1))[:edge, : last - first]
    film[:depth, 1000:2000] = notch
    film[-depth:] = film[depth - 1 :: -1]
    side = np.tile(notch[:100].T, (3, 1))[:height, :90]
    film[:, :90], film[:, -90:] = side, side[:, ::-1]
    valid = np.zeros(film.shape, bool)
    valid[118:-118, 90:-90] = True
    return Scene("real, film edge with notches", "hipp", film[None], valid)
