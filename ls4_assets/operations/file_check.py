"""`ls4 check`: what the archive would say about scans on this disk, without an archive.

Each file is processed like a dropped one, by the same functions and in the same kind of pool, in a folder that is then removed.
A scan without a georeference gets a provisional one, so that everything else is checked. `file_report` has the report.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import rasterio

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.key_parser import parse_collection_path
from ls4_assets.domain.names import Collection, Frame, check_file_name
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.sidecars import frame_stem, is_tif, sidecar_kind
from ls4_assets.errors import FrameError, InvalidNameError, MissingGeoreferenceError
from ls4_assets.operations.doctor import archive_area
from ls4_assets.operations.file_report import FileReport, describe_result
from ls4_assets.processing.admission import out_of_memory_error, reject_oversized_blocks, reject_oversized_sidecar
from ls4_assets.processing.header_limit import limit_header_time
from ls4_assets.processing.lost_workers import explain_time_limit
from ls4_assets.processing.pool import run_tasks
from ls4_assets.processing.position_options import position_options
from ls4_assets.processing.quality import check_result
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env, is_out_of_memory
from ls4_assets.raster.position import WEB_MERCATOR
from ls4_assets.raster.preview import write_preview
from ls4_assets.raster.source import Limits, open_source
from ls4_assets.settings import FileCheckSettings
from resources.scratch import scratch_folder

_PREFIX = "ls4-check-"
_ANYWHERE = "the region of the archive"
# One meter a pixel, somewhere in Africa: no check depends on it.
_PROVISIONAL_WORLD_FILE = "1\n0\n0\n-1\n3000000.5\n999999.5\n"
# As if they had been dropped after everything else, so that they count.
_PROVISIONAL_GENERATIONS = {".tfw": 1, ".prj": 1}


@dataclass(frozen=True)
class CheckTask:
    """A file to check, for a collection if one is given. `preview`: the picture to write; None: none."""

    path: Path
    settings: FileCheckSettings
    collection: Collection | None
    film_type: FilmType | None
    is_georeference_required: bool
    preview: Path | None
    scratch: Path


def find_tifs(paths: Iterable[Path]) -> list[Path]:
    """Return the files among `paths`, and all tifs in the folders among them, sorted and each once."""
    found: dict[Path, None] = {}
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file() and is_tif(file.name)) if path.is_dir() else [path]
        found |= dict.fromkeys(files)
    return [*found]


def check_files(
    paths: Sequence[Path],
    settings: FileCheckSettings,
    *,
    collection_path: str | None = None,
    is_georeference_required: bool = True,
    previews: Path | None = None,
) -> Iterator[FileReport]:
    """Yield a report for each file, in the order of completion. Raises InvalidNameError for an invalid collection.

    `is_georeference_required`: whether a missing georeference is a rejection. `previews`: the folder for small pictures.
    """
    collection, film_type = None, None
    if collection_path:
        collection, film_type = parse_collection_path(collection_path, settings.archive_description.naming)
    pictures = _name_pictures(paths, previews) if previews else {}
    with scratch_folder(_PREFIX, settings.work_dir) as scratch:
        tasks = [
            CheckTask(path, settings, collection, film_type, is_georeference_required, pictures.get(path), scratch)
            for path in paths
        ]
        for task, outcome in run_tasks(check_file, tasks, settings):
            yield outcome if isinstance(outcome, FileReport) else _report_lost(task, outcome)


def check_file(task: CheckTask) -> FileReport:
    """Check one file, in a worker of the pool. A fault of the file is in the report; any other exception is a defect."""
    report = FileReport(str(task.path), warnings=_check_name(task))
    with tempfile.TemporaryDirectory(dir=task.scratch) as folder:
        try:
            return _inspect(task, report, Path(folder))
        except FrameError as error:
            return replace(report, rejections=(str(error),))
        except Exception as error:
            if is_out_of_memory(error):
                return replace(report, rejections=(str(out_of_memory_error(task.path.name, task.settings.worker_memory_mb)),))
            raise


def _inspect(task: CheckTask, report: FileReport, folder: Path) -> FileReport:
    settings, limits = task.settings, Limits(task.settings.max_pixels, task.settings.max_source_bytes)
    tif = _link_source(task.path, folder / "source", settings.max_source_bytes)
    film_type = task.film_type or _guess_film_type(tif)
    position = position_options(settings, settings.profiles[film_type], {})
    missing = ""
    with limit_header_time():
        try:
            source = open_source(tif, film_type, limits, position)
        except MissingGeoreferenceError as error:
            missing = str(error)
            _add_provisional_georeference(tif)
            position = replace(position, generations=_PROVISIONAL_GENERATIONS)
            source = open_source(tif, film_type, limits, position)
        reject_oversized_blocks(source, settings.worker_memory_mb)
    result = process(tif, folder, tif.stem, film_type, settings.profiles[film_type], limits, position=position)
    if task.preview:
        write_preview(product_path(folder, tif.stem, "cog"), task.preview)
    errors = _check_products(task, result, is_placed=not missing)
    rejections = (*([missing] if missing and task.is_georeference_required else []), *errors)
    warnings = (*report.warnings, *([missing] if missing and not task.is_georeference_required else []))
    transformation = result.transformation
    if not missing and transformation and transformation.is_insufficient(settings.datum_accuracy_m):
        grids = ", ".join(transformation.missing_grids)
        warnings += (f"It was placed with {transformation}; with {grids} it would be more accurate (see `ls4 doctor`).",)
    facts = describe_result(source, result, is_placed=not missing)
    return replace(report, rejections=rejections, warnings=warnings, facts=facts)


def _check_products(task: CheckTask, result: FrameResult, *, is_placed: bool) -> tuple[str, ...]:
    """The errors of the products, each a sentence."""
    bounds = task.settings.archive_description.region_bounds
    shard = task.collection.shard if task.collection else _ANYWHERE
    if not is_placed:
        bounds = RegionBounds()
    elif task.collection is None:
        bounds = RegionBounds(extent=archive_area(bounds))
    findings = check_result(shard, result, bounds, result.valid_share)
    return tuple(f"{task.path.name} failed validation: {finding.error}." for finding in findings if finding.error)


def _link_source(path: Path, folder: Path, max_source_bytes: int) -> Path:
    """Link the tif and its sidecars into `folder`, with plain suffixes, as a worker downloads them; returns the tif."""
    folder.mkdir()
    stem = frame_stem(path.name) or path.stem
    for file in path.parent.iterdir():
        kind = sidecar_kind(file.name)
        if file.name == path.name or kind is None or frame_stem(file.name) != stem:
            continue
        reject_oversized_sidecar(path.name, file.name, file.stat().st_size, max_source_bytes)
        (folder / f"{stem}{kind.suffix}").symlink_to(file.resolve())
    (folder / f"{stem}.tif").symlink_to(path.resolve())
    return folder / f"{stem}.tif"


def _guess_film_type(tif: Path) -> FilmType:
    """The film type whose number of bands the file has, with or without alpha; the first for a file that cannot be read."""
    try:
        with gdal_env(pam=True), rasterio.open(tif, driver="GTiff") as dataset:
            count = dataset.count
    except GDAL_ERRORS:
        count = 0
    exact = [name for name, spec in FILM_TYPES.items() if spec.bands == count]
    with_alpha = [name for name, spec in FILM_TYPES.items() if spec.bands + 1 == count]
    return (*exact, *with_alpha, *FILM_TYPES)[0]


def _add_provisional_georeference(tif: Path) -> None:
    """Put a world file and a .prj beside the linked tif, in place of those that it has."""
    for suffix, content in ((".tfw", _PROVISIONAL_WORLD_FILE), (".prj", WEB_MERCATOR.to_wkt())):
        for sidecar in (tif.with_suffix(suffix), tif.with_suffix(suffix.upper())):
            sidecar.unlink(missing_ok=True)
        tif.with_suffix(suffix).write_text(content)


def _check_name(task: CheckTask) -> tuple[str, ...]:
    """A warning when the archive would reject the name of the file: it can be renamed after the check."""
    naming = task.settings.archive_description.naming
    collection, film_type = parse_collection_path(naming.example, naming)
    stem = frame_stem(task.path.name) or task.path.stem
    try:
        check_file_name(Frame(task.collection or collection, task.film_type or film_type, stem), naming)
    except InvalidNameError as error:
        return (str(error),)
    return ()


def _report_lost(task: CheckTask, error: BaseException) -> FileReport:
    """The report of a file whose worker returned none."""
    name = task.path.name
    reason = explain_time_limit(name, error, task.settings.frame_timeout_seconds)
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return FileReport(str(task.path), rejections=(reason or f"{name} could not be checked ({cause}); report this as a defect.",))


def _name_pictures(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The picture of each file: its name, and a number where files of several folders share it."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[Path, Path] = {}
    for path in paths:
        number, picture = 1, folder / f"{path.stem}.png"
        while picture in pictures.values():
            number += 1
            picture = folder / f"{path.stem}-{number}.png"
        pictures[path] = picture
    return pictures
