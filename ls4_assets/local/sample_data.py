"""The sample data: two small collections of synthetic aerial photographs, as staff would drop them.

Each photograph shows the synthetic terrain of its county (``synthetic_terrain.py``) from a flight line, with overlap, a small
crab angle, vignetting and film grain. It is then georeferenced in one of the ways that a real archive mixes: various CRSs,
collars that are declared as nodata, masked or just black, world files, rotated geotransforms. File names follow the archive's
grammar. The ungeoreferenced raw scans are included, so that every download link works. Writing the files is in
``sample_files.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject
from rasterio.warp import transform as transform_points
from scipy import ndimage

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.local.sample_files import Image, format_world_file, write_label, write_sidecar, write_tif
from ls4_assets.local.synthetic_terrain import TerrainSpec, render_terrain

UTM = CRS.from_epsg(26914)  # zone 14, which contains both counties; the terrain is laid out in it
WEB_MERCATOR = CRS.from_epsg(3857)
BORDER_PX = 70  # film around the picture of a raw scan


@dataclass(frozen=True)
class Exposure:
    """One photograph: its position, and the form of its georeferenced tif.

    ``east`` and ``north``: offset of its center from the terrain's center in meters; ``crab``: degrees clockwise. ``collar``:
    what marks the pixels outside the photograph: "black" (nothing; they are 0), "nodata" (0 is declared as nodata), "mask" (an
    internal mask), "worldfile" (black, with the georeference in sidecars) or "none" (a rotated geotransform leaves no collar).
    """

    name: str
    east: float
    north: float
    crab: float
    epsg: int
    collar: str


@dataclass(frozen=True)
class SampleCollection:
    """One county and survey: its terrain around ``center`` (UTM), and its square photographs.

    ``prefix`` is the beginning of its keys; the first segment is the film type.
    """

    prefix: str
    terrain: TerrainSpec
    center: tuple[float, float]
    pixel_meters: float
    side_px: int
    exposures: tuple[Exposure, ...]

    @property
    def bands(self) -> int:
        return FILM_TYPES[self.prefix.partition("/")[0]].bands


TRAVIS = SampleCollection(
    "bw/Travis/USDA_1958",
    TerrainSpec(3000, 4300, 1958, "prairie", -14, 24, 0.0, (0.62, 0.30)),
    (640_300.0, 3_352_600.0), 1.6, 1500,
    (
        Exposure("02-08-58_6-104", -2040, 790, 2.4, 26914, "black"),
        Exposure("02-08-58_6-105", -1010, 830, -1.8, 2277, "nodata"),
        Exposure("02-08-58_6-106", 30, 800, 3.1, 3857, "mask"),
        Exposure("02-08-58_6-107", 1060, 770, 1.2, 26914, "worldfile"),
        Exposure("02-08-58_6-108", 2070, 820, -2.6, 2277, "black"),
        Exposure("02-08-58_6-121", -1900, -830, -3.0, 4326, "mask"),
        Exposure("02-08-58_6-122", -620, -800, 5.5, 26914, "none"),
        Exposure("02-08-58_6-123", 680, -840, 1.9, 3857, "black"),
        Exposure("02-08-58_6-124", 1950, -800, -1.4, 26914, "nodata"),
    ),
)  # fmt: skip
BASTROP = SampleCollection(
    "nc/Bastrop/TxDOT_1996",
    TerrainSpec(2700, 3300, 1996, "loam", 27, 42, 0.9, (0.30, 0.33)),
    (661_800.0, 3_331_400.0), 1.2, 1400,
    (
        Exposure("03-14-96_2-11", -1080, 660, -2.2, 26914, "nodata"),
        Exposure("03-14-96_2-12", -20, 700, 1.7, 32139, "black"),
        Exposure("03-14-96_2-13", 1060, 650, 2.8, 3857, "mask"),
        Exposure("03-14-96_2-24", -1040, -690, 2.1, 2277, "black"),
        Exposure("03-14-96_2-25", 30, -660, -4.5, 26914, "none"),
        Exposure("03-14-96_2-26", 1090, -700, 1.3, 4326, "worldfile"),
    ),
)  # fmt: skip


def write_sample_data(folder: Path, seed: int = 1) -> list[tuple[str, Path]]:
    """Write the sample data under ``folder`` with the archive's layout; returns (key, path) of every file.

    A raw scan comes before its frame and a world file before its tif, so that copying in this order never shows a frame without
    them. ``seed`` varies film grain and exposure; the terrain stays the same.
    """
    rng = np.random.default_rng(seed)
    written: list[str] = []
    for sample in (TRAVIS, BASTROP):
        film = _film(sample, render_terrain(sample.terrain))
        photographs = [(exposure, _photograph(sample, exposure, film, rng)) for exposure in sample.exposures]
        for exposure, photograph in photographs:
            written += _write_frame(folder, sample, exposure, photograph)
        if sample is TRAVIS:
            written += _write_index(folder, sample, photographs)
            written += _write_mosaic(folder, sample, photographs)
    return [(key, folder / key) for key in written]


def sample_views() -> dict[str, tuple[float, float, float, float]]:
    """By collection name, a square that its imagery covers: left, bottom, right, top in EPSG:3857."""
    views = {}
    for sample, half, types in ((TRAVIS, 1500, ("frames", "index", "mosaic")), (BASTROP, 1100, ("frames",))):
        east, north = sample.center
        corner, opposite = (east - half, north - half), (east + half, north + half)
        (left, right), (bottom, top) = transform_points(UTM, WEB_MERCATOR, *zip(corner, opposite, strict=True))
        for type_ in types:
            name = "_".join([*sample.prefix.split("/")[1:], type_])
            views[name] = (left, bottom, right, top)
    return views


def _film(sample: SampleCollection, terrain: Image) -> NDArray[np.float32]:
    """The terrain as the collection's film records it: panchromatic with high contrast, or color."""
    if sample.bands == 3:
        return terrain.astype(np.float32)
    gray = np.tensordot(np.array([0.42, 0.38, 0.20], np.float32), terrain.astype(np.float32), 1)[None]
    return 128 + 1.22 * (gray - 112)


def _placement(sample: SampleCollection, exposure: Exposure) -> Affine:
    """The transform from a photograph's pixels to UTM."""
    to_center = Affine.translation(sample.center[0] + exposure.east, sample.center[1] + exposure.north)
    size = Affine.scale(sample.pixel_meters, -sample.pixel_meters)
    return to_center * Affine.rotation(-exposure.crab) * size * Affine.translation(-sample.side_px / 2, -sample.side_px / 2)


def _photograph(sample: SampleCollection, exposure: Exposure, film: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """The photograph as the camera records it: (bands, side_px, side_px)."""
    corner = Affine.translation(
        sample.center[0] - sample.pixel_meters * sample.terrain.width / 2,
        sample.center[1] + sample.pixel_meters * sample.terrain.height / 2,
    ) @ Affine.scale(sample.pixel_meters, -sample.pixel_meters)
    to_terrain = ~corner @ _placement(sample, exposure)
    matrix = [[to_terrain.e, to_terrain.d], [to_terrain.b, to_terrain.a]]  # rows first
    side = sample.side_px
    offset = (to_terrain.f, to_terrain.c)
    picture = np.stack([ndimage.affine_transform(band, matrix, offset, (side, side), order=1, mode="nearest") for band in film])
    away = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    vignette = 1 - 0.10 * (away[:, None] + away[None]) / 2
    grain = rng.standard_normal((side, side), dtype=np.float32) * (5.5 if sample.bands == 1 else 3.5)
    exposed = picture * vignette * rng.uniform(0.97, 1.03) + ndimage.gaussian_filter(grain, 0.5)
    # 0 is reserved for collars, so that the imagery does not depend on how its collar is marked
    return np.asarray(np.clip(exposed, 4, 252), dtype=np.uint8)


def _write_frame(folder: Path, sample: SampleCollection, exposure: Exposure, photograph: Image) -> Iterator[str]:
    """The raw scan and the georeferenced tif of one photograph, with its sidecars."""
    yield write_tif(folder, f"{sample.prefix}/frames/scanned/{exposure.name}.tif", _scan(photograph))
    key = f"{sample.prefix}/frames/georef/{exposure.name}.tif"
    placement, crs = _placement(sample, exposure), CRS.from_epsg(exposure.epsg)
    if exposure.collar == "none":
        yield write_tif(folder, key, photograph, placement, UTM)
        return
    image, inside, transform = _rectify(photograph, placement, crs)
    if exposure.collar == "worldfile":
        yield write_sidecar(folder, key.replace(".tif", ".tfw"), format_world_file(transform))
        yield write_sidecar(folder, key.replace(".tif", ".prj"), crs.to_wkt(version="WKT1_ESRI"))
        yield write_tif(folder, key, image)
    elif exposure.collar == "mask":
        yield write_tif(folder, key, image, transform, crs, mask=inside)
    else:
        yield write_tif(folder, key, image, transform, crs, nodata=0 if exposure.collar == "nodata" else None)


def _rectify(photograph: Image, placement: Affine, crs: CRS) -> tuple[Image, NDArray[np.bool_], Affine]:
    """The photograph on a north-up grid of ``crs``: image (collar 0), valid pixels, geotransform."""
    bands, rows, columns = photograph.shape
    corners = [placement @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
    east, north = zip(*corners, strict=True)
    pixel_meters = abs(placement.determinant) ** 0.5
    transform, width, height = calculate_default_transform(
        UTM, crs, round((max(east) - min(east)) / pixel_meters), round((max(north) - min(north)) / pixel_meters),
        left=min(east), bottom=min(north), right=max(east), top=max(north),
    )  # fmt: skip
    image = np.zeros((bands, height, width), np.uint8)
    inside = np.zeros((height, width), np.uint8)
    placed = {"src_transform": placement, "src_crs": UTM, "dst_transform": transform, "dst_crs": crs}
    reproject(photograph, image, resampling=Resampling.bilinear, **placed)
    reproject(np.full((rows, columns), 255, np.uint8), inside, resampling=Resampling.nearest, **placed)
    return image, inside > 0, transform


def _scan(photograph: Image) -> Image:
    """The film as a raw scan: an unexposed border, and a fiducial mark in the middle of each side."""
    bands, side, _ = photograph.shape
    full_side = side + 2 * BORDER_PX
    scan = np.full((bands, full_side, full_side), 18, np.uint8)
    scan[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = photograph
    down, across = np.ogrid[:full_side, :full_side]
    for row, column in ((BORDER_PX // 2, full_side // 2), (full_side // 2, BORDER_PX // 2)):
        for y, x in ((row, column), (full_side - row, full_side - column)):
            scan[:, np.hypot(down - y, across - x) < 14] = 235
            scan[:, np.hypot(down - y, across - x) < 4] = 18
    return scan


def _write_index(folder: Path, sample: SampleCollection, photographs: list[tuple[Exposure, Image]]) -> Iterator[str]:
    """The index sheet: the numbered prints, laid over each other on a board and photographed."""
    step = 5
    small_pixel_meters = sample.pixel_meters * step
    board = np.full((1, 3300 // step + 60, 4600 // step + 60), 206, np.uint8)
    rows, columns = board.shape[1:]
    for exposure, photograph in photographs:
        size = sample.side_px // step
        blocks = photograph[0, : size * step, : size * step].reshape(size, step, size, step)
        small = blocks.mean((1, 3)).astype(np.uint8)
        small[[0, -1]] = 240
        small[:, [0, -1]] = 240
        write_label(small, exposure.name.split("_")[1])
        top = round(rows / 2 - exposure.north / small_pixel_meters - size / 2)
        left = round(columns / 2 + exposure.east / small_pixel_meters - size / 2)
        board[0, top : top + size, left : left + size] = small
    board = np.kron(board, np.ones((1, 2, 2), np.uint8))
    pixel = small_pixel_meters / 2
    corner = (sample.center[0] - pixel * board.shape[2] / 2, sample.center[1] + pixel * board.shape[1] / 2)
    placement = Affine.translation(*corner) @ Affine.scale(pixel, -pixel)
    name = "USDA_1958_1_400dpi.tif"
    yield write_tif(folder, f"{sample.prefix}/index/scanned/{name}", board)
    yield write_tif(folder, f"{sample.prefix}/index/georef/{name}", board, placement, UTM)


def _write_mosaic(folder: Path, sample: SampleCollection, photographs: list[tuple[Exposure, Image]]) -> Iterator[str]:
    """All photographs in one tif of EPSG:3857 with an internal mask, at half their resolution."""
    crs = WEB_MERCATOR
    half_width, half_height = 3300, 2100
    transform, width, height = calculate_default_transform(
        UTM, crs, int(half_width / sample.pixel_meters), int(half_height / sample.pixel_meters),
        left=sample.center[0] - half_width, bottom=sample.center[1] - half_height,
        right=sample.center[0] + half_width, top=sample.center[1] + half_height,
    )  # fmt: skip
    mosaic = np.zeros((1, height, width), np.uint8)
    for exposure, photograph in photographs:
        reproject(
            photograph, mosaic, src_transform=_placement(sample, exposure), src_crs=UTM, dst_transform=transform,
            dst_crs=crs, resampling=Resampling.bilinear, init_dest_nodata=False,
        )  # fmt: skip
    key = f"{sample.prefix}/mosaic/georef/mosaic01.tif"
    yield write_tif(folder, key, mosaic, transform, crs, mask=mosaic[0] > 0)
