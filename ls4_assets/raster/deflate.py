"""Write the deflate tif of a frame: EPSG:3857, tiled, lossless, with an internal mask where a pixel may be invalid.

Without reprojection every valid pixel keeps its exact value, including true black and true white. Masked pixels are written as
0: they then take almost no space, and cannot be recovered by mistake.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.errors import FrameError
from ls4_assets.raster.convert import Conversion, converted
from ls4_assets.raster.damage import reject_corrupt_streams, reject_unwritten
from ls4_assets.raster.fidelity import Sample, choose_sample_windows, cut_samples
from ls4_assets.raster.gdal_env import atomic_write, gdal_env
from ls4_assets.raster.mask import Mask, Rule, find_mask
from ls4_assets.raster.position import WEB_MERCATOR
from ls4_assets.raster.source import Limits, Source, translate_read_errors
from ls4_assets.raster.windows import iter_chunks

SOFTWARE = "ls4"

# Band by band, which is how the later steps read it.
_UNCOMPRESSED: dict[str, object] = {"interleave": "band"}

Pixels = NDArray[np.uint8]
ReadChunk = Callable[[Window], tuple[Pixels, NDArray[np.bool_] | None]]


@dataclass(frozen=True)
class DeflateResult:
    """The share of valid pixels, 0 to 1, sample blocks of the source, with which to compare the COG, and how the source was
    converted; None when its pixels were kept as they are. mask_rule, mask_share: the rule of `mask` that excluded pixels of the
    scan, None without one, and the share of the scan that it excluded."""

    valid_share: float
    samples: tuple[Sample, ...]
    conversion: Conversion | None = None
    mask_rule: Rule | None = None
    mask_share: float = 0.0


def write_deflate(
    source: Source,
    out: Path,
    profile: FrameProfile,
    *,
    limits: Limits | None = None,
    source_sha256: str = "",
    keep: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> DeflateResult:
    """Write the deflate tif of `source` to `out`.

    `keep`: also write the pixels uncompressed to this path, so that later steps read them without decoding.
    `tags`: additional tags, which the COG inherits. They are not part of a profile: only files that are written get them.
    Raises FrameError when the source is truncated, has no valid pixel, or exceeds `limits` after reprojection.
    """
    with gdal_env(pam=True), ExitStack() as stack:
        reject_corrupt_streams(source.page)
        source, conversion = stack.enter_context(converted(source, out))
        dataset = stack.enter_context(source.open())
        mask = find_mask(source, dataset, detect_collar=profile.detect_collar)
        is_declared = mask is not None and mask.rule != "collar"
        reject_unwritten(source.page, (lambda window: mask.read(dataset, window)) if mask and is_declared else None)
        if source.needs_warp:
            warped, scan_valid = stack.enter_context(_open_warped(source, dataset, mask, profile, out))
            _reject_oversize(warped, source, limits or Limits())
            shape, transform, read = warped.shape, warped.transform, _warped_reader(warped, source)
        else:
            shape, transform, scan_valid = dataset.shape, source.transform, None
            read = _plain_reader(dataset, source, mask)
        valid, samples = _write(read, [out, keep] if keep else [out], shape, transform, profile, source_sha256, tags or {})
        if not valid:
            out.unlink()
            raise FrameError(
                f"{source.path.name} has no valid pixel: all of it is masked or nodata; check the scan and its "
                "nodata value, and drop it again."
            )
        mask_share = 1 - (valid if scan_valid is None else scan_valid) / (source.width * source.height)
        rule = mask.rule if mask else None
        return DeflateResult(valid / int(shape[0] * shape[1]), tuple(samples), conversion, rule, mask_share)


def _write(
    read: ReadChunk,
    paths: list[Path],
    shape: tuple[int, int],
    transform: Affine,
    profile: FrameProfile,
    source_sha256: str,
    additional_tags: Mapping[str, str],
) -> tuple[int, list[Sample]]:
    """Write the deflate tif to the first of `paths` and its uncompressed copy to the second, if any.

    Returns the number of valid pixels, and the samples.
    """
    options = _creation_options(profile, shape, transform)
    tags = {"TIFFTAG_SOFTWARE": SOFTWARE, "LS4_PROFILE": profile.hash("deflate"), **additional_tags}
    if source_sha256:
        tags["LS4_SOURCE"] = source_sha256
    with ExitStack() as stack:
        parts = [stack.enter_context(atomic_write(path)) for path in paths]
        stack.enter_context(gdal_env())
        targets = []
        for part, codec in zip(parts, (_codec(profile), _UNCOMPRESSED), strict=False):
            targets.append(stack.enter_context(rasterio.open(part, "w", **options, **codec)))
            targets[-1].update_tags(**tags)
        return _copy_chunks(read, targets, profile.blocksize, source_sha256)


def _creation_options(profile: FrameProfile, shape: tuple[int, int], transform: Affine) -> dict[str, object]:
    return {
        "driver": "GTiff", "crs": WEB_MERCATOR, "transform": transform, "dtype": "uint8",
        "height": shape[0], "width": shape[1], "count": profile.bands,
        "photometric": "MINISBLACK" if profile.bands == 1 else "RGB",
        "tiled": True, "blockxsize": profile.blocksize, "blockysize": profile.blocksize,
        # GDAL estimates the uncompressed size, which may exceed 4 GB when the compressed size does not.
        "bigtiff": "IF_SAFER",
    }  # fmt: skip


def _codec(profile: FrameProfile) -> dict[str, object]:
    return {"compress": "DEFLATE", "predictor": 2, "zlevel": profile.deflate_zlevel, "interleave": "pixel"}


def _copy_chunks(read: ReadChunk, targets: list[DatasetWriter], blocksize: int, seed: str) -> tuple[int, list[Sample]]:
    """Write all chunks, each of whole tiles, so that no tile is compressed twice.

    Returns the number of valid pixels, and the samples.
    """
    valid_pixels, samples = 0, []
    selected = choose_sample_windows(targets[0].width, targets[0].height, blocksize, seed)
    for window in iter_chunks(targets[0].width, targets[0].height, blocksize):
        pixels, valid = read(window)
        samples += cut_samples(window, pixels, valid, selected)
        if valid is None:
            valid_pixels += pixels.shape[1] * pixels.shape[2]
        else:
            valid_pixels += int(np.count_nonzero(valid))
            pixels *= valid
        for target in targets:
            if valid is not None:
                target.write_mask(valid.astype(np.uint8) * np.uint8(255), window=window)
            target.write(pixels, window=window)
    return valid_pixels, samples


def _plain_reader(dataset: DatasetReader, source: Source, mask: Mask | None) -> ReadChunk:
    return lambda window: (source.read(dataset, window), mask.read(dataset, window) if mask else None)


def _warped_reader(warped: WarpedVRT, source: Source) -> ReadChunk:
    def read(window: Window) -> tuple[Pixels, NDArray[np.bool_]]:
        with translate_read_errors(source):
            pixels: Pixels = warped.read(window=window)
        return pixels[:-1], pixels[-1] > 127

    return read


def _reject_oversize(warped: WarpedVRT, source: Source, limits: Limits) -> None:
    if warped.width * warped.height > limits.max_pixels:
        raise FrameError(
            f"{source.path.name} becomes {warped.width:,} x {warped.height:,} pixels in EPSG:3857 and the limit is "
            f"{limits.max_pixels:,} pixels; check that its world file belongs to {source.crs_label} and drop it again."
        )


@contextmanager
def _open_warped(
    source: Source, dataset: DatasetReader, mask: Mask | None, profile: FrameProfile, out: Path
) -> Iterator[tuple[WarpedVRT, int]]:
    """Yield the source in EPSG:3857, north up, read on demand with alpha as last band, and the source's number of valid pixels.

    The warper must use one mask for all bands, so that no value bleeds in from the collar and black is not taken for nodata.
    The source is therefore wrapped in a VRT that has exactly the photograph's bands, and the mask as its mask band.
    """
    mask_file = out.with_name(f".mask-{out.stem}.tif")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        valid = source.width * source.height
        if mask is not None:
            valid = _write_mask(source, dataset, mask, mask_file)
        xml = _build_vrt(source, dataset.block_shapes[0], mask_file if mask else None)
        with translate_read_errors(source), rasterio.open(xml, driver="VRT") as unwarped:
            warped = WarpedVRT(
                unwarped,
                crs=WEB_MERCATOR,
                resampling=Resampling[profile.resampling],
                add_alpha=True,
                warp_mem_limit=64,
                **source.georeference.warp_options,
            )
        with warped:
            yield warped, valid
    finally:
        mask_file.unlink(missing_ok=True)


def _write_mask(source: Source, dataset: DatasetReader, mask: Mask, path: Path) -> int:
    """Write the mask to `path`. Returns the number of valid pixels."""
    options = {
        "driver": "GTiff", "width": source.width, "height": source.height, "count": 1, "dtype": "uint8",
        "crs": source.crs, "transform": source.transform,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "zlevel": 1,
    }  # fmt: skip
    count = 0
    with gdal_env(), rasterio.open(path, "w", **options) as target:
        for window in iter_chunks(source.width, source.height, 512):
            valid = mask.read(dataset, window)
            count += int(np.count_nonzero(valid))
            target.write(valid.astype(np.uint8) * np.uint8(255), 1, window=window)
    return count


def _build_vrt(source: Source, block_shape: tuple[int, int], mask_file: Path | None) -> str:
    """VRT XML (gdal.org/drivers/raster/vrt.html) with the photograph's bands of the source and its mask."""
    colors = [color.title() for color in FILM_TYPES[source.film_type].color_interpretation]
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}" blockXSize="{block_shape[1]}" blockYSize="{block_shape[0]}">'
        f"<ColorInterp>{color}</ColorInterp>{_vrt_source(source.path, band, source.min_is_white)}</VRTRasterBand>"
        for number, (band, color) in enumerate(zip(source.bands, colors, strict=True), start=1)
    )
    mask = ""
    if mask_file is not None:
        mask = f'<MaskBand><VRTRasterBand dataType="Byte">{_vrt_source(mask_file, 1, False)}</VRTRasterBand></MaskBand>'
    return (
        f'<VRTDataset rasterXSize="{source.width}" rasterYSize="{source.height}">'
        f"{_vrt_georeference(source)}{bands}{mask}</VRTDataset>"
    )


def _vrt_georeference(source: Source) -> str:
    if fit := source.georeference.control_points:
        return fit.vrt_xml()
    numbers = ", ".join(repr(float(number)) for number in source.transform.to_gdal())
    return f"<SRS>{escape(source.crs.to_wkt())}</SRS><GeoTransform>{numbers}</GeoTransform>"


def _vrt_source(path: Path, band: int, is_inverted: bool) -> str:
    kind, lut = ("ComplexSource", "<LUT>0:255,255:0</LUT>") if is_inverted else ("SimpleSource", "")
    return (
        f'<{kind}><SourceFilename relativeToVRT="0">{escape(str(path.resolve()))}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>{lut}</{kind}>"
    )
