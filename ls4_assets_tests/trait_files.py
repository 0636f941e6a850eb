"""Files of the traits in `traits` that concern masks, several images in a file, and damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.trait_pixels import (
    HEIGHT,
    TILED,
    WIDTH,
    Truth,
    Valid,
    collar,
    damage_block,
    georeference_tags,
    patch_tag,
    scene,
)


def with_alpha(
    bands: int, alpha: NDArray[np.uint8], *, premultiplied: bool = False, dtype: str = "uint8", first: bool = False
) -> Callable[[Path], Truth]:
    """A scan with an alpha band; under it is noise, which must not be visible."""

    def make(path: Path) -> Truth:
        pixels = scene(bands)
        noise = np.random.default_rng(5).integers(0, 256, pixels.shape, dtype=np.uint8)
        colors = np.where(alpha > 127, pixels, noise)
        if premultiplied:
            colors = np.rint(colors * (alpha / 255.0)).astype(np.uint8)
        layers = [alpha[None], colors] if first else [colors, alpha[None]]
        stored = np.concatenate(layers).astype(dtype) * (257 if dtype == "uint16" else 1)
        options: dict[str, Any] = {"photometric": "RGB" if bands == 3 else "MINISBLACK"}
        if not first:
            options["alpha"] = "PREMULTIPLIED" if premultiplied else "YES"
        write_tif(path, stored.astype(dtype), **options)
        if first:
            with rasterio.open(path, "r+") as target:
                colors_of = [ColorInterp.red, ColorInterp.green, ColorInterp.blue] if bands == 3 else [ColorInterp.gray]
                target.colorinterp = [ColorInterp.alpha, *colors_of]
        return pixels, alpha > 127

    return make


def hard_alpha() -> NDArray[np.uint8]:
    return collar().astype(np.uint8) * np.uint8(255)


def feathered_alpha() -> NDArray[np.uint8]:
    """16 % of the pixels are partly transparent."""
    return np.clip((np.arange(WIDTH) - 20) * 4, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)


def unclear_alpha() -> NDArray[np.uint8]:
    return np.clip(np.linspace(60, 350, WIDTH), 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)


def infrared_as_alpha(path: Path) -> Truth:
    write_tif(path, np.concatenate([scene(3), photograph(HEIGHT, WIDTH, seed=9)]), photometric="RGB", alpha="YES")
    return scene(3), None


def nodata(path: Path) -> Truth:
    pixels = np.where(collar(), np.maximum(scene(), 1), 0).astype(np.uint8)
    write_tif(path, pixels, nodata=0)
    return pixels, collar()


def internal_mask(path: Path) -> Truth:
    write_tif(path, scene(), mask=collar())
    return scene(), collar()


def msk(path: Path) -> Truth:
    write_tif(path, scene())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(collar())
    assert path.with_name(f"{path.name}.msk").exists()
    return scene(), collar()


def unmarked_msk(path: Path) -> None:
    """As programs write it that know nothing of GDAL's masks."""
    write_tif(path, scene())
    write_tif(path.with_name(f"{path.name}.msk"), collar()[None].astype(np.uint8) * np.uint8(255))


def foreign_msk(path: Path) -> None:
    msk(path)
    other = path.with_name("other.tif")
    write_tif(other, scene()[:, :100])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(other, "r+") as target:
        target.write_mask(np.ones((100, WIDTH), bool))
    other.with_name("other.tif.msk").replace(path.with_name(f"{path.name}.msk"))


def pages(*images: tuple[int, int, bool]) -> Callable[[Path], Truth]:
    """A tif of several copies of the scene, as (decimation, NewSubfileType, is georeferenced)."""

    def make(path: Path) -> Truth:
        with tifffile.TiffWriter(path) as writer:
            for step, kind, is_georeferenced in images:
                writer.write(
                    scene()[0, ::step, ::step],
                    subfiletype=kind,
                    photometric="minisblack",
                    extratags=georeference_tags(step) if is_georeferenced else (),
                )
        return scene(), None

    return make


def page_with_mask(path: Path) -> Truth:
    with tifffile.TiffWriter(path) as writer:
        tags = georeference_tags()
        writer.write(scene()[0, ::8, ::8], subfiletype=1, photometric="minisblack")
        writer.write(scene()[0], subfiletype=0, photometric="minisblack", extratags=tags)
        writer.write(hard_alpha(), subfiletype=2, photometric="minisblack")
    # tifffile writes masks of one bit only.
    patch_tag(path, 254, 4, page=2)
    return scene(), collar()


def sub_image(path: Path) -> Truth:
    """As DNG stores it: the photograph is a sub-image of its thumbnail."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(scene()[0, ::8, ::8], subfiletype=1, subifds=1, photometric="minisblack")
        writer.write(scene()[0], subfiletype=0, photometric="minisblack", extratags=georeference_tags())
    return scene(), None


def two_photographs(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for pixels in (scene()[0], scene()[0, ::-1]):
            writer.write(pixels, photometric="minisblack", extratags=georeference_tags())


def overviews(path: Path) -> Truth:
    write_tif(path, scene(), **TILED)
    with gdal_env(), rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4])
    return scene(), None


def damaged(kind: str, bits: int = 8, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if bits == 1:
            write_tif(path, (scene() > 127).astype(np.uint8), nbits=1, **TILED, **options)
        else:
            write_tif(path, scene(), **TILED, **options)
        damage_block(path, 5, kind)

    return make


def cut(path: Path) -> None:
    write_tif(path, scene(), **TILED, compress="LZW")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def unwritten(bottom_valid: Valid | None = None, **options: Any) -> Callable[[Path], Truth]:
    """A file whose lower tiles were never written."""

    def make(path: Path) -> Truth:
        defaults: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": HEIGHT, "width": WIDTH, "dtype": "uint8"}
        place = {"crs": "EPSG:3857", "transform": Affine(1, 0, WEST, 0, -1, NORTH)}
        upper = np.maximum(scene()[0, :128], 1)
        with gdal_env(), rasterio.open(path, "w", **defaults, **place, **TILED, sparse_ok=True, **options) as target:
            target.write(upper, 1, window=((0, 128), (0, WIDTH)))
            if bottom_valid is not None:
                target.write_mask(bottom_valid)
        expected = np.zeros((1, HEIGHT, WIDTH), np.uint8)
        expected[0, :128] = upper
        return expected, np.arange(HEIGHT)[:, None].repeat(WIDTH, 1) < 128

    return make


def rejected(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make(path)

    return write


def recoded(compression: int) -> Callable[[Path], None]:
    """A file tagged with a compression that this system may not have."""

    def make(path: Path) -> None:
        write_tif(path, scene(), compress="DEFLATE")
        patch_tag(path, 259, compression)

    return make


def retagged(photometric: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_tif(path, scene())
        patch_tag(path, 262, photometric)

    return make


def one_pixel(path: Path) -> None:
    write_tif(path, np.full((1, 1, 1), 7, np.uint8))
