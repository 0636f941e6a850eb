"""The files of a collection's exports (`domain.exports`): which frames each of them has, and how it is written and uploaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ls4_assets.domain.exports import EXPORTS, ExportName
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.domain.rights import Rights
from ls4_assets.publishing import footprints, mosaic_index
from ls4_assets.publishing.rows import IndexedFrame, exported_frames
from ls4_assets.publishing.stac import Document
from resources.archive import Archive
from resources.scratch import scratch_folder


@dataclass(frozen=True)
class ExportContent:
    """What the files of a collection are made of. items, document: the STAC items of all frames, and the STAC collection."""

    collection: Collection
    frames: Sequence[IndexedFrame]
    items: Sequence[Document]
    document: Document
    public_url: str
    rights: Rights


def put_files(archive: Archive, content: ExportContent) -> list[str]:
    """Write all files, then upload them and delete those without frames. Returns the keys of the uploaded files."""
    files: dict[str, Path] = {}
    without_frames = []
    with scratch_folder("ls4-exports-", archive.settings.work_dir) as folder:
        for export in EXPORTS:
            for film_type in export.variants(FILM_TYPES):
                key = export.key_of(content.collection, film_type)
                if frames := exported_frames(export, film_type, content.frames):
                    files[key] = folder / f"{export.asset_name(film_type)}{Path(key).suffix}"
                    WRITERS[export.name](content, frames, files[key])
                else:
                    without_frames.append(key)
        for key in without_frames:
            archive.storage.delete(key)
        for key, path in files.items():
            archive.storage.upload(path, key)
    return list(files)


def _write_items(content: ExportContent, frames: Sequence[IndexedFrame], path: Path) -> None:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    # Up to ten thousand item links are left out, because the rows are the items.
    metadata = content.document | {"links": [link for link in content.document["links"] if link["rel"] != "item"]}
    to_parquet(parse_stac_items_to_arrow(content.items), path, collections={metadata["id"]: metadata}, compression="zstd")


def _write_geojson(content: ExportContent, frames: Sequence[IndexedFrame], path: Path) -> None:
    footprints.write_geojson(content.collection, frames, content.public_url, path)


def _write_parquet(content: ExportContent, frames: Sequence[IndexedFrame], path: Path) -> None:
    footprints.write_parquet(content.collection, frames, content.public_url, path, content.rights.metadata())


def _write_mosaic(content: ExportContent, frames: Sequence[IndexedFrame], path: Path) -> None:
    mosaic_index.write_mosaic_index(content.collection, frames, content.public_url, path)


# The functions that write the files. They get the frames of the file, at least one.
WRITERS: dict[ExportName, Callable[[ExportContent, Sequence[IndexedFrame], Path], None]] = {
    "items": _write_items,
    "footprints_geojson": _write_geojson,
    "footprints_parquet": _write_parquet,
    "mosaic": _write_mosaic,
}
