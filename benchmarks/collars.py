"""Measure the recognition of collars: `python -m benchmarks.collars [--cases FOLDER] [--data FOLDER] [--all] [--speed]`

Compares the mask of each scene (`benchmarks.collar_scenes`) with its truth. Precision is the share of the masked pixels that are
collar, recall the share of the collar that is masked. Both ignore pixels within 1 px of the true edge. The table has the worst
scene of each group; `--all` has all scenes.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage

from benchmarks.collar_scenes import Scene, Valid, iter_scenes
from benchmarks.photographs import write_photograph
from ls4_assets.domain.film_types import FilmType
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.mask import find_mask
from ls4_assets.raster.source import Limits, open_source

_SPEED_SIDE_PX = 7200


@dataclass(frozen=True)
class Figures:
    """lost: photograph that is masked, left: collar that is not masked, in pixels more than 1 px from the true edge."""

    name: str
    precision: float
    recall: float
    lost: int
    left: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collars", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, metavar="FOLDER", help="scans out/bw/*.tif with RGBA truths truth/bw-*.tif")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="real imagery, to be rotated")
    parser.add_argument("--all", action="store_true", help="one line for each scene")
    parser.add_argument("--speed", action="store_true", help=f"only time the recognition on {_SPEED_SIDE_PX} px frames")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ls4-collars-") as folder:
        path = Path(folder) / "scan.tif"
        if arguments.speed:
            _measure_speed(path)
            return
        groups: dict[str, list[Figures]] = defaultdict(list)
        for scene in iter_scenes(arguments.cases, arguments.data):
            groups[scene.name if scene.group == "cases" else scene.group].append(measure(scene, path))
    for line in _format(groups, arguments.all):
        print(line)


def measure(scene: Scene, path: Path) -> Figures:
    """Write the scene to `path`, and compare its mask with the truth."""
    write(scene, path)
    valid = read_mask(path, "bw" if len(scene.pixels) == 1 else "nc", scene.valid.shape)
    is_sure = ~_near_edge(scene.valid)
    masked, collar = ~valid & is_sure, ~scene.valid & is_sure
    hit = int((masked & collar).sum())
    return Figures(
        scene.name,
        hit / masked.sum() if masked.any() else 1.0,
        hit / collar.sum() if collar.any() else 1.0,
        int((masked & ~collar).sum()),
        int((collar & ~masked).sum()),
    )


def write(scene: Scene, path: Path) -> None:
    bands, height, width = scene.pixels.shape
    photometric = {} if bands == 1 else {"photometric": "YCBCR" if scene.options else "RGB", "interleave": "pixel"}
    with gdal_env(), rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype="uint8", crs="EPSG:3857",
        transform=Affine(1, 0, -10_880_000, 0, -1, 3_540_000), **photometric, **scene.options,
    ) as target:  # fmt: skip
        target.write(scene.pixels)


def read_mask(path: Path, film_type: FilmType, shape: tuple[int, ...]) -> Valid:
    source = open_source(path, film_type, Limits())
    with gdal_env(pam=True), source.open() as dataset:
        mask = find_mask(source, dataset, detect_collar=True)
        return mask.read(dataset, Window(0, 0, source.width, source.height)) if mask else np.ones(shape, bool)


def _near_edge(valid: Valid) -> Valid:
    square = np.ones((3, 3), bool)
    edge: Valid = ndimage.binary_dilation(valid, square) & ~ndimage.binary_erosion(valid, square, border_value=1)
    return edge


def _format(groups: dict[str, list[Figures]], show_all: bool) -> Iterable[str]:
    yield "| scenes | number | precision | recall | photograph lost, px | collar left, px |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, figures in groups.items():
        rows = [(f"{name}: {each.name}", [each]) for each in figures] if show_all else [(name, figures)]
        for label, part in rows:
            worst = [min(each.precision for each in part), min(each.recall for each in part)]
            pixels = [max(each.lost for each in part), max(each.left for each in part)]
            yield f"| {label} | {len(part)} | {worst[0]:.4f} | {worst[1]:.4f} | {pixels[0]:,} | {pixels[1]:,} |"


def _measure_speed(path: Path) -> None:
    print(f"bw, {_SPEED_SIDE_PX} x {_SPEED_SIDE_PX} px: CPU seconds to find the mask, best of 3")
    write_photograph(path, _SPEED_SIDE_PX, 1, collar=True)
    with rasterio.open(path) as scan:
        pixels, truth, profile = scan.read(), scan.read_masks(1) > 0, scan.profile
    scanner_noise = np.random.default_rng(1).integers(0, 4, pixels.shape, dtype=np.uint8)
    fills = {
        "no collar": pixels[:, ::-1, ::-1].clip(90) + scanner_noise * np.uint8(20),
        "black": np.uint8(0), "noise 0-3": scanner_noise, "gray 128": np.uint8(128),
    }  # fmt: skip
    for codec in ("uncompressed, strips", "DEFLATE, tiles"):
        layout = {"compress": "DEFLATE", "tiled": True, "blockxsize": 512, "blockysize": 512} if codec[0] == "D" else {}
        for name, fill in fills.items():
            with gdal_env(), rasterio.open(path, "w", **{**profile, "tiled": False, "compress": None, **layout}) as target:
                target.write(np.where(truth, pixels, fill))
            print(f"  {codec:20} {name:10} {min(_time(path) for _ in range(3)):6.2f} s")


def _time(path: Path) -> float:
    source = open_source(path, "bw", Limits())
    start = time.process_time()
    with gdal_env(pam=True), source.open() as dataset:
        find_mask(source, dataset, detect_collar=True)
    return time.process_time() - start


if __name__ == "__main__":
    main()
