"""Tests of scans that are converted to 8 bits: a declared range that says nothing, collars beside odd values, masks, proj.ini."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.proj_grids import write_grid
from ls4_assets_tests.rasters import photograph, read, read_mask, rotated_rectangle, write_tif
from ls4_assets_tests.trait_pixels import wide
from mapserver import proj_data


def deflate(path: Path) -> Path:
    process(path, path.parent / "work", path.stem, "bw", PROFILES["bw"], Limits(), steps=("deflate",))
    return path.parent / "work" / "deflate" / path.name


@pytest.mark.parametrize("highest", [65535, 40000])
def test_a_declared_range_that_the_scan_does_not_use_is_ignored(tmp_path: Path, highest: int) -> None:
    """A 16-bit scan of 0 to 4000, whose scanner wrote the range of the type into the tags, was done and nearly black."""
    path = tmp_path / "x.tif"
    wide("uint16", tags={280: 0, 281: highest})(path)
    assert np.ptp(read(deflate(path))) > 200


@pytest.mark.parametrize("odd", [np.nan, 3e38])
def test_a_black_collar_is_found_beside_one_odd_value(tmp_path: Path, odd: float) -> None:
    """One NaN pixel in a float scan was its mask, and the black collar was shown."""
    inside = rotated_rectangle(300, 400)
    pixels: Any = np.where(inside, photograph(300, 400) * 16.0, 0).astype(np.float32)
    pixels[0, 150, 200] = odd
    path = write_tif(tmp_path / "x.tif", pixels)
    valid = read_mask(deflate(path))
    assert not valid[150, 200]
    assert not valid[:5].any() and valid.mean() == pytest.approx(inside.mean(), abs=0.02)


def test_a_corrupt_mask_file_is_named(tmp_path: Path) -> None:
    """A corrupt x.tif.msk was rejected with a sentence about the CRS."""
    path = write_tif(tmp_path / "x.tif", photograph(300, 400))
    path.with_name("x.tif.msk").write_bytes(b"II*\0not a mask")
    with pytest.raises(FrameError) as caught:
        open_source(path, "bw", Limits())
    assert str(caught.value) == "x.tif has a mask x.tif.msk that cannot be read; delete it or export it again."


def test_damage_in_the_pixels_of_a_mask_file_is_named(tmp_path: Path) -> None:
    """A cut x.tif.msk was reported as damage of x.tif, and people copied the wrong file again."""
    path = write_tif(tmp_path / "x.tif", photograph(300, 400))
    mask = path.with_name("x.tif.msk")
    write_tif(mask, np.where(photograph(300, 400) > 100, 255, 0).astype(np.uint8), compress="lzw")
    with rasterio.open(mask, "r+") as target:
        target.update_tags(INTERNAL_MASK_FLAGS_1=2)
    data = bytearray(mask.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    mask.write_bytes(data)
    with pytest.raises(FrameError) as caught:
        deflate(path)
    assert "x.tif has a mask x.tif.msk that is truncated or corrupt in rows" in str(caught.value)
    assert "delete it, or copy it again" in str(caught.value)
    mask.unlink()
    deflate(path)


def test_the_network_is_on_without_a_proj_ini_of_the_system(tmp_path: Path, monkeypatch: Any) -> None:
    """Where PROJ came without a proj.ini, the map server did not start: FileNotFoundError."""
    system = tmp_path / "system"
    write_grid(system)
    (system / "proj.db").write_text("of the library")
    monkeypatch.setattr(proj_data, "_SYSTEM", system)
    proj_data.write_proj_data(tmp_path / "out", None, True)
    assert (tmp_path / "out" / "proj.ini").read_text() == "[general]\nnetwork = on\n"
