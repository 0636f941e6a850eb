"""Run the requested steps of one frame in a working directory of its own:

workdir/deflate/<stem>.tif       deflate tif
workdir/deflate/<stem>.tif.ovr   its overviews
workdir/cog/<stem>.tif           COG
workdir/thumbnail/<stem>.webp    thumbnail

When several steps are requested, the pixels are also kept uncompressed between them (workdir/pixels/, removed at the end):
decoding them again would take an eighth of the CPU. `ls4_assets.processing.worker` fetches the source and publishes the products.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.products import STEPS, ProductName, Step, made_with, product_of, upstream_steps
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.cog import CogMethod, write_cog
from ls4_assets.raster.convert import Conversion
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.fidelity import Fidelity, Sample, compare_cog, measure_valid_share, read_samples
from ls4_assets.raster.footprint import trace_footprint
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.interior import trace_interior
from ls4_assets.raster.mask import Rule
from ls4_assets.raster.memory import peak_rss_mb, reset_peak
from ls4_assets.raster.overviews import write_overviews
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.source import Limits, Source, open_source
from ls4_assets.raster.thumbnail import render_thumbnail
from ls4_assets.raster.transformations import Transformation
from ls4_assets.raster.validate import check_cog

MAX_KEPT_BYTES = 1_000_000_000
"""Larger frames keep no uncompressed pixels: they would have to be written to the disk, not only to the page cache."""


@dataclass(frozen=True)
class FrameResult:
    """Measurements and metadata of a processed frame; picklable.

    Fields of steps that were not requested are None, or absent from the dicts.

    width, height, transform: of the products, in pixels and in EPSG:3857.
    sizes, seconds, peak_mb, profile_hash: by step; bytes of the product, and peak memory of the process during the step.
    georeference: where the scan's position came from (`Georeference.facts`).
    valid_share, cog_valid_share: share of valid pixels, 0 to 1, measured in the scan and in the COG.
    transformation: from the datum of the scan to that of the map.
    cog_findings: defects of the COG's structure, normally none.
    fidelity: comparison of the COG's pixels with the scan.
    footprint_wkb, interior_wkb: MultiPolygon in EPSG:3857 (`raster.footprint`, `raster.interior`); a frame may have no interior.
    conversion: how a scan that is not plain 8-bit gray or RGB was converted, None when its pixels were kept as they are.
    mask_rule, mask_share: the rule of `mask` that excluded pixels, None without one, and the share of the scan that it excluded.
    """

    film_type: FilmType
    width: int
    height: int
    transform: tuple[float, ...]
    overview_levels: tuple[int, ...]
    sizes: dict[Step, int]
    seconds: dict[Step, float]
    peak_mb: dict[Step, float]
    profile_hash: dict[Step, str]
    source_width: int | None = None
    source_height: int | None = None
    source_crs: str | None = None
    warped: bool | None = None
    georeference: dict[str, Any] | None = None
    transformation: Transformation | None = None
    valid_share: float | None = None
    cog_method: CogMethod | None = None
    cog_sha256: str | None = None
    cog_findings: tuple[str, ...] = ()
    cog_valid_share: float | None = None
    fidelity: Fidelity | None = None
    footprint_wkb: bytes | None = field(default=None, repr=False)
    interior_wkb: bytes | None = field(default=None, repr=False)
    conversion: Conversion | None = None
    mask_rule: Rule | None = None
    mask_share: float = 0.0


def product_path(workdir: Path, stem: str, product: ProductName) -> Path:
    """Return the path of the product in `workdir`."""
    return workdir / product_of(product).work_file.format(stem=stem)


@dataclass
class _FrameRun:
    """What the writers of one frame share. `kept`: its uncompressed pixels. `facts`: fields of the result."""

    source_path: Path | None
    workdir: Path
    stem: str
    film_type: FilmType
    profile: FrameProfile
    limits: Limits
    source_sha256: str
    requested: Sequence[Step]
    position: PositionOptions
    tags: Mapping[str, str]
    kept: Path | None = None
    samples: Sequence[Sample] = ()
    facts: dict[str, object] = field(default_factory=dict)

    def path(self, product: ProductName) -> Path:
        return product_path(self.workdir, self.stem, product)


def _write_deflate(run: _FrameRun) -> None:
    if run.source_path is None:
        raise ValueError("The step deflate needs a source; pass its path.")
    source = open_source(run.source_path, run.film_type, run.limits, run.position)
    if len(run.requested) > 1 and source.width * source.height * run.profile.bands <= MAX_KEPT_BYTES:
        run.kept = run.workdir / "pixels" / f"{run.stem}.tif"
    written = write_deflate(
        source,
        run.path("deflate"),
        run.profile,
        limits=run.limits,
        source_sha256=run.source_sha256,
        keep=run.kept,
        tags=run.tags,
    )
    run.samples = written.samples
    run.facts.update(_source_facts(source), valid_share=written.valid_share, conversion=written.conversion)
    run.facts.update(mask_rule=written.mask_rule, mask_share=written.mask_share)


def _write_overviews(run: _FrameRun) -> None:
    write_overviews(run.path("deflate"), run.profile, pixels=run.kept)


def _write_cog(run: _FrameRun) -> None:
    deflate_tif, cog_tif, profile = run.path("deflate"), run.path("cog"), run.profile
    method = write_cog(deflate_tif, cog_tif, profile, pixels=run.kept)
    fidelity = compare_cog(cog_tif, run.samples or read_samples(deflate_tif, profile.blocksize, run.source_sha256), profile)
    with cog_tif.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    run.facts.update(cog_method=method, cog_findings=tuple(check_cog(cog_tif, profile, deflate_tif)), fidelity=fidelity)
    run.facts.update(cog_sha256=sha256, cog_valid_share=measure_valid_share(cog_tif), footprint_wkb=trace_footprint(cog_tif).wkb)
    interior = trace_interior(cog_tif)
    run.facts.update(interior_wkb=interior.wkb if interior else None)


def _write_thumbnail(run: _FrameRun) -> None:
    path = run.path("thumbnail")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(render_thumbnail(run.path("cog")))


# The function that writes each product of `domain.products`.
WRITERS: dict[ProductName, Callable[[_FrameRun], None]] = {
    "deflate": _write_deflate,
    "overviews": _write_overviews,
    "cog": _write_cog,
    "thumbnail": _write_thumbnail,
}


def process(
    source_path: Path | None,
    workdir: Path,
    stem: str,
    film_type: FilmType,
    profile: FrameProfile,
    limits: Limits,
    steps: Sequence[Step] = STEPS,
    source_sha256: str = "",
    position: PositionOptions | None = None,
    tags: Mapping[str, str] | None = None,
) -> FrameResult:
    """Run `steps` for one frame in their order; the products of all earlier steps must already be in `workdir`.

    Only the step "deflate" reads `source_path` and writes `tags`, which the COG inherits. Raises FrameError when the content of
    the frame is at fault, ValueError when an input of a step is missing. The caller decides by the result whether the COG may be
    served.
    """
    requested = [step for step in STEPS if step in steps]
    _reject_missing_upstream(workdir, stem, requested)
    position = position or PositionOptions(gcp_transformation=profile.gcp_transformation)
    run = _FrameRun(source_path, workdir, stem, film_type, profile, limits, source_sha256, requested, position, tags or {})
    seconds: dict[Step, float] = {}
    peak_mb: dict[Step, float] = {}
    try:
        for step in requested:
            with _measure(step, seconds, peak_mb):
                WRITERS[step](run)
                for product in made_with(step):
                    WRITERS[product.name](run)
    finally:
        if run.kept is not None:
            run.kept.unlink(missing_ok=True)
    with gdal_env(), rasterio.open(run.path("cog" if "cog" in requested else "deflate")) as dataset:
        width, height, levels = dataset.width, dataset.height, tuple(dataset.overviews(1))
        transform = tuple(dataset.transform)[:6]
    return FrameResult(
        film_type=film_type, width=width, height=height, transform=transform, overview_levels=levels,
        sizes={step: run.path(step).stat().st_size for step in requested},
        seconds=seconds, peak_mb=peak_mb, profile_hash={step: profile.hash(step) for step in requested},
        **run.facts,  # type: ignore[arg-type]
    )  # fmt: skip


def _reject_missing_upstream(workdir: Path, stem: str, requested: Sequence[Step]) -> None:
    if not requested:
        raise ValueError(f"No step was requested; request at least one of {', '.join(STEPS)}.")
    for step in upstream_steps(requested[-1]):
        if step not in requested and not product_path(workdir, stem, step).exists():
            raise ValueError(f"{product_path(workdir, stem, step)} is missing; fetch it before requesting {requested[-1]}.")


def _source_facts(source: Source) -> dict[str, object]:
    return {
        "source_width": source.width,
        "source_height": source.height,
        "source_crs": source.crs_label,
        "warped": source.needs_warp,
        "georeference": source.georeference.facts(),
        "transformation": source.georeference.transformation,
    }


@contextmanager
def _measure(step: Step, seconds: dict[Step, float], peak_mb: dict[Step, float]) -> Iterator[None]:
    reset_peak()
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
    peak_mb[step] = round(peak_rss_mb(), 1)
