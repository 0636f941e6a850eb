"""Fuzzing with mutated tifs: each is rejected in one sentence, or comes out exactly as GDAL reads it; none hangs or crashes.

A seed generates the mutations, so failures can be repeated.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.raster.damage import collect_findings
from ls4_assets.raster.frame import process
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import read, read_mask
from ls4_assets_tests.traits import TRAITS, Trait

MAX_SECONDS = 20
# A mutated header may declare a huge image; its size is checked before anything is read.
LIMITS = Limits(max_pixels=4_000_000)


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 600))] = rng.choice((0, 1, 2, 3, 4, 8, 16, 127, 255, rng.randrange(256)))


def zero_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 5000), len(data) - start)
    data[start : start + length] = bytes(length)


def noise_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 2000), len(data) - start)
    data[start : start + length] = rng.randbytes(length)


def cut_end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def drop_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 300)]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, flip_header, flip_header, zero_range, noise_range, cut_end, drop_range,
)  # fmt: skip


def fuzz(folder: Path, seed: int, count: int) -> None:
    rng = random.Random(seed)
    originals: dict[str, bytes] = {}
    outcomes = {"accepted": 0, "rejected": 0}
    for number in range(count):
        trait = rng.choice(TRAITS)
        if trait.id not in originals:
            (folder / "made").mkdir()
            trait.make(folder / "made" / "x.tif")
            originals[trait.id] = (folder / "made" / "x.tif").read_bytes()
            shutil.rmtree(folder / "made")
        data = bytearray(originals[trait.id])
        rng.choice(MUTATIONS)(data, rng)
        path = folder / f"{number}.tif"
        path.write_bytes(data)
        started = time.monotonic()
        outcomes[check(path, trait)] += 1
        assert time.monotonic() - started < MAX_SECONDS, (seed, number)
        for each in folder.glob(f"{number}.*"):
            each.unlink()
    assert min(outcomes.values()) > count / 20, "mutations must reach beyond the header"


def check(path: Path, trait: Trait) -> str:
    try:
        result = process(
            path, path.parent / "work", "x", trait.film_type, PROFILES[trait.film_type], LIMITS, steps=("deflate",)
        )  # fmt: skip
    except FrameError as error:
        message = str(error)
        assert message.endswith(".") and "; " in message and "\n" not in message, message
        return "rejected"
    source = open_source(path, trait.film_type, LIMITS)
    if not (result.warped or source.needs_conversion):
        with gdal_env(pam=True), source.open() as dataset, collect_findings() as findings:
            pixels = source.read(dataset, rasterio.windows.Window(0, 0, source.width, source.height))
        assert not findings
        valid = read_mask(path.parent / "work" / "deflate" / "x.tif")
        assert np.array_equal(read(path.parent / "work" / "deflate" / "x.tif")[:, valid], pixels[:, valid])
    return "accepted"


def test_two_hundred_mutated_tifs(tmp_path: Path) -> None:
    fuzz(tmp_path, seed=1, count=200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_two_thousand_mutated_tifs(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, seed, count=500)
