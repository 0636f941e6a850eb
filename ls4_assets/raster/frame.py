"""One frame through the steps that are asked for, in a directory of its own; what a worker process runs.

workdir/deflate/<stem>.tif       deflate tif
workdir/deflate/<stem>.tif.ovr   its overviews
workdir/cog/<stem>.tif           COG

Between steps that are asked for together the pixels are kept uncompressed as well (workdir/pixels/, removed at the end):
decoding them again would cost an eighth of the CPU.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import rasterio

from ls4_assets.domain.names import STEPS, FilmType, Step
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.cog import HowMade, write_cog
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.fidelity import Fidelity, Sample, compare, read_samples, valid_share
from ls4_assets.raster.footprint import footprint
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.memory import peak_rss_mb, reset_peak
from ls4_assets.raster.overviews import overviews_path, write_overviews
from ls4_assets.raster.source import Limits, Source, open_source
from ls4_assets.raster.thumbnail import thumbnail
from ls4_assets.raster.validate import check_cog

KEEP_AT_MOST = 1_000_000_000
"""Bytes of pixels above which they are not kept: the disk would have to be written, and not only the page cache."""


@dataclass(frozen=True)
class FrameResult:
    """What became of a frame; picklable. Fields of steps that were not asked for are None or absent from the dicts.

    `width`, `height`, `transform`: of the products, pixels in EPSG:3857. `sizes` (bytes), `seconds`, `peak_mb` (of the
    process, while the step ran) and `profile_hash` are by step. `valid_share`: valid pixels of all pixels of
    the products, 0 to 1, as the scan says and `cog_valid_share` as the COG does. `cog_findings` are what is wrong with the COG
    (nothing, mostly), `fidelity` whether its pixels are the scan's. `footprint_wkb`: MultiPolygon in EPSG:3857.
    `thumbnail`: WebP.
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
    valid_share: float | None = None
    cog_made: HowMade | None = None
    cog_sha256: str | None = None
    cog_findings: tuple[str, ...] = ()
    cog_valid_share: float | None = None
    fidelity: Fidelity | None = None
    footprint_wkb: bytes | None = field(default=None, repr=False)
    thumbnail: bytes | None = field(default=None, repr=False)


def product_path(workdir: Path, stem: str, step: Step) -> Path:
    """Where the product of `step` lies in `workdir`."""
    if step == "cog":
        return workdir / "cog" / f"{stem}.tif"
    deflate_tif = workdir / "deflate" / f"{stem}.tif"
    return deflate_tif if step == "deflate" else overviews_path(deflate_tif)


def process(
    source_path: Path | None,
    workdir: Path,
    stem: str,
    film_type: FilmType,
    profile: FrameProfile,
    limits: Limits,
    steps: Sequence[Step] = STEPS,
    source_sha256: str = "",
) -> FrameResult:
    """Do `steps` for one frame, in their order; the products of earlier steps must lie in `workdir` already.

    `source_path` is read by the step "deflate" only. Raises FrameFault when the frame is at fault, ValueError
    when a product that a step builds on is missing. Whether the COG may be served is the caller's to decide, by what the result
    says of it.
    """
    wanted = [step for step in STEPS if step in steps]
    _reject_missing_upstream(workdir, stem, wanted)
    deflate_tif, cog_tif = product_path(workdir, stem, "deflate"), product_path(workdir, stem, "cog")
    seconds: dict[Step, float] = {}
    peak_mb: dict[Step, float] = {}
    facts: dict[str, object] = {}
    kept: Path | None = None
    samples: Sequence[Sample] = ()

    def deflate() -> None:
        nonlocal kept, samples
        if source_path is None:
            raise ValueError("The step deflate needs a source; give its path.")
        source = open_source(source_path, film_type, limits)
        if len(wanted) > 1 and source.width * source.height * profile.bands <= KEEP_AT_MOST:
            kept = workdir / "pixels" / f"{stem}.tif"
        written = write_deflate(source, deflate_tif, profile, limits=limits, source_sha256=source_sha256, keep=kept)
        samples = written.samples
        facts.update(_source_facts(source), valid_share=written.valid_share)

    def cog() -> None:
        how = write_cog(deflate_tif, cog_tif, profile, pixels=kept)
        compared = compare(cog_tif, samples or read_samples(deflate_tif, profile.blocksize, source_sha256), profile)
        with cog_tif.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        facts.update(cog_made=how, cog_findings=tuple(check_cog(cog_tif, profile, deflate_tif)), fidelity=compared)
        facts.update(
            cog_sha256=sha256,
            cog_valid_share=valid_share(cog_tif),
            footprint_wkb=footprint(cog_tif).wkb,
            thumbnail=thumbnail(cog_tif),
        )

    work: dict[Step, Callable[[], object]] = {
        "deflate": deflate,
        "overviews": lambda: write_overviews(deflate_tif, profile, pixels=kept),
        "cog": cog,
    }
    try:
        for step in wanted:
            with _measured(step, seconds, peak_mb):
                work[step]()
    finally:
        if kept is not None:
            kept.unlink(missing_ok=True)
    with gdal_env(), rasterio.open(cog_tif if "cog" in wanted else deflate_tif) as product:
        width, height, levels = product.width, product.height, tuple(product.overviews(1))
        transform = tuple(product.transform)[:6]
    return FrameResult(
        film_type=film_type, width=width, height=height, transform=transform, overview_levels=levels,
        sizes={step: product_path(workdir, stem, step).stat().st_size for step in wanted},
        seconds=seconds, peak_mb=peak_mb, profile_hash={step: profile.hash(step) for step in wanted},
        **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def _reject_missing_upstream(workdir: Path, stem: str, wanted: Sequence[Step]) -> None:
    if not wanted:
        raise ValueError(f"No step is asked for; name some of {', '.join(STEPS)}.")
    for step in STEPS[: STEPS.index(wanted[-1])]:
        if step not in wanted and not product_path(workdir, stem, step).exists():
            raise ValueError(f"{product_path(workdir, stem, step)} is missing; fetch it before asking for {wanted[-1]}.")


def _source_facts(source: Source) -> dict[str, object]:
    return {
        "source_width": source.width,
        "source_height": source.height,
        "source_crs": source.crs_label,
        "warped": source.needs_warp,
    }


@contextmanager
def _measured(step: Step, seconds: dict[Step, float], peak_mb: dict[Step, float]) -> Iterator[None]:
    reset_peak()
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
    peak_mb[step] = round(peak_rss_mb(), 1)
