"""The sample survey: two small collections of synthesised aerial photographs, as staff would drop them.

Each photograph is taken of the ground of its county (``ground.py``) along a flight line, with overlap, a
little crab of the aeroplane, vignetting and film grain, and is then georeferenced in one of the ways that a
real archive mixes: other CRSs, collars that are declared, masked or just black, world files, rotated
geotransforms. Files are named and filed by the archive's grammar, the ungeoreferenced raw scans included, so
that every download link leads somewhere.
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

from ls4_assets.local.sample_files import Image, label, sidecar, world_file, write_tif
from ls4_assets.local.synthetic_terrain import Plan, make_ground

UTM = CRS.from_epsg(26914)  # both counties lie in zone 14; the ground is laid out in it
WEB_MERCATOR = CRS.from_epsg(3857)
BORDER = 70  # pixels of film around the picture of a raw scan


@dataclass(frozen=True)
class Exposure:
    """One photograph: where it was taken, and how its georeferenced tif is made.

    ``east`` and ``north``: metres of its centre from the ground's centre; ``crab``: degrees clockwise.
    ``collar``: what tells the pixels outside the photograph: "black" (nothing does), "nodata" (0 is
    declared), "mask" (an internal mask), "worldfile" (black, and the georeference is in sidecars) or "none"
    (a rotated geotransform leaves no collar).
    """

    name: str
    east: float
    north: float
    crab: float
    epsg: int
    collar: str


@dataclass(frozen=True)
class County:
    """One collection: its ground around UTM ``centre``, and photographs of ``side`` pixels of ``metres``."""

    collection: str
    plan: Plan
    centre: tuple[float, float]
    metres: float
    side: int
    exposures: tuple[Exposure, ...]

    @property
    def bands(self) -> int:
        return 1 if self.collection.startswith("bw/") else 3


TRAVIS = County(
    "bw/Travis/USDA_1958",
    Plan(3000, 4300, 1958, "prairie", -14, 24, 0.0, (0.62, 0.30)),
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
BASTROP = County(
    "nc/Bastrop/TxDOT_1996",
    Plan(2700, 3300, 1996, "loam", 27, 42, 0.9, (0.30, 0.33)),
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


def make_survey(folder: Path, seed: int = 1) -> list[tuple[str, Path]]:
    """Write the sample survey under ``folder``, laid out like the archive; returns (key, path) of every file.

    The raw scans come first, a world file before the tif that it belongs to: copied in this order, nothing is
    seen half. ``seed`` varies the film's grain and exposure; the ground stays the same.
    """
    rng = np.random.default_rng(seed)
    written: list[str] = []
    for county in (TRAVIS, BASTROP):
        ground = _film(county, make_ground(county.plan))
        photographs = [(shot, _photograph(county, shot, ground, rng)) for shot in county.exposures]
        for shot, photograph in photographs:
            written += _write_frame(folder, county, shot, photograph)
        if county is TRAVIS:
            written += _write_index(folder, county, photographs)
            written += _write_mosaic(folder, county, photographs)
    return [(key, folder / key) for key in written]


def sample_views() -> dict[str, tuple[float, float, float, float]]:
    """A square that its imagery covers, by collection name: left, bottom, right, top (EPSG:3857)."""
    views = {}
    for county, half, types in ((TRAVIS, 1500, ("frames", "index", "mosaic")), (BASTROP, 1100, ("frames",))):
        east, north = county.centre
        corner, opposite = (east - half, north - half), (east + half, north + half)
        (left, right), (bottom, top) = transform_points(UTM, WEB_MERCATOR, *zip(corner, opposite, strict=True))
        for type_ in types:
            name = "_".join([*county.collection.split("/")[1:], type_])
            views[name] = (left, bottom, right, top)
    return views


def _film(county: County, ground: Image) -> NDArray[np.float32]:
    """The ground as the collection's film sees it: panchromatic with hard contrast, or colour."""
    if county.bands == 3:
        return ground.astype(np.float32)
    grey = np.tensordot(np.array([0.42, 0.38, 0.20], np.float32), ground.astype(np.float32), 1)[None]
    return 128 + 1.22 * (grey - 112)


def _placement(county: County, shot: Exposure) -> Affine:
    """Pixel to UTM of a photograph."""
    to_centre = Affine.translation(county.centre[0] + shot.east, county.centre[1] + shot.north)
    size = Affine.scale(county.metres, -county.metres)
    return to_centre * Affine.rotation(-shot.crab) * size * Affine.translation(-county.side / 2, -county.side / 2)


def _photograph(county: County, shot: Exposure, ground: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """What the camera took: (bands, side, side)."""
    corner = Affine.translation(
        county.centre[0] - county.metres * county.plan.width / 2,
        county.centre[1] + county.metres * county.plan.height / 2,
    ) @ Affine.scale(county.metres, -county.metres)
    to_ground = ~corner @ _placement(county, shot)
    matrix = [[to_ground.e, to_ground.d], [to_ground.b, to_ground.a]]  # rows first
    side = county.side
    offset = (to_ground.f, to_ground.c)
    picture = np.stack([ndimage.affine_transform(band, matrix, offset, (side, side), order=1, mode="nearest") for band in ground])
    away = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    vignette = 1 - 0.10 * (away[:, None] + away[None]) / 2
    grain = rng.standard_normal((side, side), dtype=np.float32) * (5.5 if county.bands == 1 else 3.5)
    exposed = picture * vignette * rng.uniform(0.97, 1.03) + ndimage.gaussian_filter(grain, 0.5)
    # 0 stays free for collars, so that no picture depends on how its collar is told
    return np.asarray(np.clip(exposed, 4, 252), dtype=np.uint8)


def _write_frame(folder: Path, county: County, shot: Exposure, photograph: Image) -> Iterator[str]:
    """The raw scan and the georeferenced tif of one photograph, with its sidecars."""
    yield write_tif(folder, f"{county.collection}/frames/scanned/{shot.name}.tif", _scan(photograph))
    key = f"{county.collection}/frames/georef/{shot.name}.tif"
    placement, crs = _placement(county, shot), CRS.from_epsg(shot.epsg)
    if shot.collar == "none":
        yield write_tif(folder, key, photograph, placement, UTM)
        return
    image, inside, transform = _rectify(photograph, placement, crs)
    if shot.collar == "worldfile":
        yield sidecar(folder, key.replace(".tif", ".tfw"), world_file(transform))
        yield sidecar(folder, key.replace(".tif", ".prj"), crs.to_wkt(version="WKT1_ESRI"))
        yield write_tif(folder, key, image)
    elif shot.collar == "mask":
        yield write_tif(folder, key, image, transform, crs, mask=inside)
    else:
        yield write_tif(folder, key, image, transform, crs, nodata=0 if shot.collar == "nodata" else None)


def _rectify(photograph: Image, placement: Affine, crs: CRS) -> tuple[Image, NDArray[np.bool_], Affine]:
    """The photograph on a north-up grid of ``crs``: image (collar 0), valid pixels, geotransform."""
    bands, rows, columns = photograph.shape
    corners = [placement @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
    east, north = zip(*corners, strict=True)
    metres = abs(placement.determinant) ** 0.5
    transform, width, height = calculate_default_transform(
        UTM, crs, round((max(east) - min(east)) / metres), round((max(north) - min(north)) / metres),
        left=min(east), bottom=min(north), right=max(east), top=max(north),
    )  # fmt: skip
    image = np.zeros((bands, height, width), np.uint8)
    inside = np.zeros((height, width), np.uint8)
    placed = {"src_transform": placement, "src_crs": UTM, "dst_transform": transform, "dst_crs": crs}
    reproject(photograph, image, resampling=Resampling.bilinear, **placed)
    reproject(np.full((rows, columns), 255, np.uint8), inside, resampling=Resampling.nearest, **placed)
    return image, inside > 0, transform


def _scan(photograph: Image) -> Image:
    """The film as the scanner saw it: unexposed border, and a fiducial mark in the middle of each side."""
    bands, side, _ = photograph.shape
    whole = side + 2 * BORDER
    scan = np.full((bands, whole, whole), 18, np.uint8)
    scan[:, BORDER:-BORDER, BORDER:-BORDER] = photograph
    down, across = np.ogrid[:whole, :whole]
    for row, column in ((BORDER // 2, whole // 2), (whole // 2, BORDER // 2)):
        for y, x in ((row, column), (whole - row, whole - column)):
            scan[:, np.hypot(down - y, across - x) < 14] = 235
            scan[:, np.hypot(down - y, across - x) < 4] = 18
    return scan


def _write_index(folder: Path, county: County, photographs: list[tuple[Exposure, Image]]) -> Iterator[str]:
    """The index sheet: the numbered prints laid over each other on a board, and photographed."""
    step = 5
    metres = county.metres * step
    board = np.full((1, 3300 // step + 60, 4600 // step + 60), 206, np.uint8)
    rows, columns = board.shape[1:]
    for shot, photograph in photographs:
        size = county.side // step
        blocks = photograph[0, : size * step, : size * step].reshape(size, step, size, step)
        small = blocks.mean((1, 3)).astype(np.uint8)
        small[[0, -1]] = 240
        small[:, [0, -1]] = 240
        label(small, shot.name.split("_")[1])
        top = round(rows / 2 - shot.north / metres - size / 2)
        left = round(columns / 2 + shot.east / metres - size / 2)
        board[0, top : top + size, left : left + size] = small
    board = np.kron(board, np.ones((1, 2, 2), np.uint8))
    pixel = metres / 2
    corner = (county.centre[0] - pixel * board.shape[2] / 2, county.centre[1] + pixel * board.shape[1] / 2)
    placement = Affine.translation(*corner) @ Affine.scale(pixel, -pixel)
    name = "USDA_1958_1_400dpi.tif"
    yield write_tif(folder, f"{county.collection}/index/scanned/{name}", board)
    yield write_tif(folder, f"{county.collection}/index/georef/{name}", board, placement, UTM)


def _write_mosaic(folder: Path, county: County, photographs: list[tuple[Exposure, Image]]) -> Iterator[str]:
    """All photographs in one tif of EPSG:3857 with an internal mask, at half their resolution."""
    crs = WEB_MERCATOR
    half_width, half_height = 3300, 2100
    transform, width, height = calculate_default_transform(
        UTM, crs, int(half_width / county.metres), int(half_height / county.metres),
        left=county.centre[0] - half_width, bottom=county.centre[1] - half_height,
        right=county.centre[0] + half_width, top=county.centre[1] + half_height,
    )  # fmt: skip
    mosaic = np.zeros((1, height, width), np.uint8)
    for shot, photograph in photographs:
        reproject(
            photograph, mosaic, src_transform=_placement(county, shot), src_crs=UTM, dst_transform=transform,
            dst_crs=crs, resampling=Resampling.bilinear, init_dest_nodata=False,
        )  # fmt: skip
    key = f"{county.collection}/mosaic/georef/mosaic01.tif"
    yield write_tif(folder, key, mosaic, transform, crs, mask=mosaic[0] > 0)
