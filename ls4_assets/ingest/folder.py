"""`ls4 ingest`: copies a folder of tifs into a collection of the archive. The sensors take it from there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ls4_assets.domain.key_parser import parse_collection_path, parse_georef_key
from ls4_assets.domain.names import Naming
from ls4_assets.domain.products import GEOREF
from ls4_assets.domain.sidecars import TIF_SPELLINGS, frame_stem, is_tif
from ls4_assets.errors import InvalidNameError
from resources.storage import Storage


@dataclass
class IngestReport:
    """File names, by what happened to each; in `rejected`, a sentence for each file. `skipped` are neither tifs nor sidecars.

    `tif_keys`: object keys of the tifs that are in the archive now; of these `changed_keys` got a new tif or sidecar.
    """

    uploaded: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    tif_keys: list[str] = field(default_factory=list)
    changed_keys: list[str] = field(default_factory=list)


def ingest_folder(
    folder: Path,
    collection_path: str,
    storage: Storage,
    naming: Naming,
    *,
    replace: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> IngestReport:
    """Upload every tif directly in `folder` that has a valid name, with its sidecars, and sidecars of tifs in the archive.

    Sidecars go first, so that a tif always finds its world file. A file that is in the archive with different content is
    overwritten only with `replace`; a sidecar without its tif is then written even if it has the same content, because dropping
    it again says that it is right. `on_progress` gets the number of finished files, and of all.

    Raises InvalidNameError when `collection_path` is not valid.
    """
    collection, film_type = parse_collection_path(collection_path, naming)
    report = IngestReport()
    georef = f"{collection.folder(film_type)}/{GEOREF}"
    files = sorted(path for path in folder.iterdir() if path.is_file() and frame_stem(path.name))
    report.skipped = sorted(path.name for path in folder.iterdir() if path not in files and not path.name.startswith("."))
    valid_stems = _find_valid_stems(files, georef, naming, report)
    archived_stems = _find_archived_stems(files, georef, storage, report)
    selected = [path for path in files if frame_stem(path.name) in valid_stems | archived_stems]
    changed_stems = set()
    on_progress(0, len(selected))
    for number, path in enumerate(sorted(selected, key=lambda path: (is_tif(path.name), path.name)), start=1):
        key = f"{georef}/{path.name}"
        is_dropped_again = replace and frame_stem(path.name) in archived_stems
        if _is_stored(storage, key, path) and not is_dropped_again:
            report.unchanged.append(path.name)
        elif storage.head(key) and not replace:
            report.rejected.append(
                f"{path.name} is already in the archive with different content; use --replace to overwrite that file."
            )
        else:
            storage.upload(path, key)
            report.uploaded.append(path.name)
            changed_stems.add(frame_stem(path.name))
        on_progress(number, len(selected))
    stored = {*report.uploaded, *report.unchanged}
    report.tif_keys = [f"{georef}/{path.name}" for path in selected if is_tif(path.name) and path.name in stored]
    report.changed_keys = [key for key in report.tif_keys if frame_stem(key.rpartition("/")[2]) in changed_stems]
    return report


def _find_valid_stems(files: list[Path], georef: str, naming: Naming, report: IngestReport) -> set[str | None]:
    """Stems of the tifs that may be uploaded; the others are added to the report's rejections."""
    stems: set[str | None] = set()
    for path in (path for path in files if is_tif(path.name)):
        try:
            parse_georef_key(f"{georef}/{path.name}", naming)
        except InvalidNameError as rejection:
            report.rejected.append(str(rejection))
            continue
        if path.stat().st_size:
            stems.add(frame_stem(path.name))
        else:
            report.rejected.append(f"{path.name} is empty (zero bytes); copy it again from the scanner's disk.")
    return stems


def _find_archived_stems(files: list[Path], georef: str, storage: Storage, report: IngestReport) -> set[str | None]:
    """Stems of sidecars whose tif is only in the archive; a sidecar whose tif is nowhere is added to the report's rejections."""
    stems: set[str | None] = set()
    with_tif = {frame_stem(path.name) for path in files if is_tif(path.name)}
    for path in (path for path in files if frame_stem(path.name) not in with_tif):
        stem = frame_stem(path.name)
        if any(storage.head(f"{georef}/{stem}{suffix}") for suffix in TIF_SPELLINGS):
            stems.add(stem)
        else:
            report.rejected.append(f"{path.name} has no tif in this folder or in the archive; put {stem}.tif beside it.")
    return stems


def _is_stored(storage: Storage, key: str, path: Path) -> bool:
    """Whether the archive has the same bytes; uploading them again would only cause another read of the file."""
    stored = storage.head(key)
    return stored is not None and stored.size == path.stat().st_size and storage.read(key) == path.read_bytes()
