"""Putting a folder of tifs into the archive under their collection, as `ls4 ingest` does."""

from dataclasses import dataclass, field
from pathlib import Path

from ls4_assets.errors import NameRefused
from ls4_assets.intake.listing import GEOREF
from ls4_assets.names import Shards, frame_stem, is_tif, parse_collection_path, parse_georef_key
from resources.storage import Storage


@dataclass
class Report:
    """`refused` has one sentence a file; the others of the folder were put."""

    put: int = 0
    unchanged: int = 0
    refused: list[str] = field(default_factory=list)


def ingest_folder(folder: Path, collection_path: str, storage: Storage, shards: Shards) -> Report:
    """Put every tif directly in `folder` whose name follows the grammar, with its sidecars.

    Sidecars go first: a tif that needs its world file finds it. Raises NameRefused when the collection itself is no good.
    """
    collection, band = parse_collection_path(collection_path, shards)
    report = Report()
    georef = f"{collection.folder(band)}/{GEOREF}"
    good: set[str] = set()
    files = sorted(path for path in folder.iterdir() if path.is_file() and frame_stem(path.name))
    for path in filter(lambda path: is_tif(path.name), files):
        try:
            parse_georef_key(f"{georef}/{path.name}", shards)
            good.add(frame_stem(path.name) or "")
        except NameRefused as refusal:
            report.refused.append(str(refusal))
    for path in sorted(
        (path for path in files if frame_stem(path.name) in good), key=lambda path: (is_tif(path.name), path.name)
    ):
        key = f"{georef}/{path.name}"
        if _is_there(storage, key, path):
            report.unchanged += 1
        else:
            storage.upload(path, key)
            report.put += 1
    return report


def _is_there(storage: Storage, key: str, path: Path) -> bool:
    """The same bytes put again would be read once more for nothing."""
    stored = storage.head(key)
    return stored is not None and stored.size == path.stat().st_size and storage.read(key) == path.read_bytes()
