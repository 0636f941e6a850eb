"""Putting a folder of tifs into the archive under their collection, as `ls4 ingest` does."""

from dataclasses import dataclass, field
from pathlib import Path

from ls4_assets.domain.names import Shards, frame_stem, is_tif, parse_collection_path, parse_georef_key
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.listing import GEOREF
from resources.storage import Storage


@dataclass
class Report:
    """Names of the files that were put or were there already; a sentence for each that was rejected; what was no scan at all."""

    put: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def ingest_folder(folder: Path, collection_path: str, storage: Storage, shards: Shards, *, replace: bool = False) -> Report:
    """Put every tif directly in `folder` whose name follows the grammar, with its sidecars.

    Sidecars go first: a tif that needs its world file finds it. A file of the archive with other content is replaced only when
    `replace` says so. Raises NameRejected when the collection itself is no good.
    """
    collection, film_type = parse_collection_path(collection_path, shards)
    report = Report()
    georef = f"{collection.folder(film_type)}/{GEOREF}"
    files = sorted(path for path in folder.iterdir() if path.is_file() and frame_stem(path.name))
    report.skipped = sorted(path.name for path in folder.iterdir() if path not in files and not path.name.startswith("."))
    good = _good_stems(files, georef, shards, report)
    wanted = [path for path in files if frame_stem(path.name) in good]
    for path in sorted(wanted, key=lambda path: (is_tif(path.name), path.name)):
        key = f"{georef}/{path.name}"
        if _is_there(storage, key, path):
            report.unchanged.append(path.name)
        elif storage.head(key) and not replace:
            report.rejected.append(
                f"{path.name} is in the archive already with other content; ingest with --replace to put this one in its place."
            )
        else:
            storage.upload(path, key)
            report.put.append(path.name)
    return report


def _good_stems(files: list[Path], georef: str, shards: Shards, report: Report) -> set[str | None]:
    """Stems of the tifs that may be put; the others are told of in the report."""
    good: set[str | None] = set()
    for path in (path for path in files if is_tif(path.name)):
        try:
            parse_georef_key(f"{georef}/{path.name}", shards)
        except InvalidNameError as rejection:
            report.rejected.append(str(rejection))
            continue
        if path.stat().st_size:
            good.add(frame_stem(path.name))
        else:
            report.rejected.append(f"{path.name} is empty (zero bytes); copy it again from the scanner's disk.")
    return good


def _is_there(storage: Storage, key: str, path: Path) -> bool:
    """The same bytes put again would be read once more for nothing."""
    stored = storage.head(key)
    return stored is not None and stored.size == path.stat().st_size and storage.read(key) == path.read_bytes()
