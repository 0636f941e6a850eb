"""The statewide files, joined from the footprints of each collection (`footprints`) without reading frames from the database.

When one collection changes, all parts are copied, but no rows are rebuilt. Parts are read a few at a time and sorted by the
collections' names, so that the same parts always produce the same files.
"""

import io
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ls4_assets.db import export_state
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import FOOTPRINTS_GEOJSON, FOOTPRINTS_PARQUET, CollectionExport
from ls4_assets.domain.names import Collection
from ls4_assets.errors import NotFoundError
from ls4_assets.publishing.footprints import GEOJSON_FOOTER, SEPARATOR, extract_features, geojson_header
from resources.archive import Archive
from resources.scratch import scratch_folder
from resources.storage import Storage

# Parts to download ahead of the one being written.
_PREFETCH = 16
# Readers skip row groups by their bounding box, and read the others completely.
_ROW_GROUP_ROWS = 50_000


@dataclass(frozen=True)
class StatewideExport:
    """Result of a build. `missing`: collections whose parts were not in the bucket; ls4 rebuilds them automatically."""

    collections: int
    frames: int
    missing: tuple[Collection, ...]
    sizes: dict[str, int]
    seconds: float


def compile_statewide(archive: Archive) -> StatewideExport:
    """Rebuild both files."""
    started = time.monotonic()
    with archive.database.begin() as connection:
        export_state.begin_statewide_build(connection)
        inputs_digest, collections = export_state.compute_inputs_digest(connection), export_state.list_exported(connection)
    # Create the storage client in this thread, before the threads that share it start.
    archive.storage.head(export_keys.ROOT_CATALOG_KEY)
    sizes, missing = {}, set()
    with scratch_folder("ls4-statewide-", archive.settings.work_dir) as folder:
        for key, part, join in (
            (export_keys.COMPILED_GEOJSON_KEY, FOOTPRINTS_GEOJSON, _join_geojson),
            (export_keys.COMPILED_PARQUET_KEY, FOOTPRINTS_PARQUET, _join_parquet),
        ):
            path = folder / f"compiled{Path(key).suffix}"
            parts = _PartReader(archive.storage, collections, part)
            frames = join(parts, path)
            missing |= set(parts.missing)
            if path.exists():
                sizes[key] = archive.storage.upload(path, key).size
                path.unlink()
            else:
                # A GeoParquet file needs at least one frame to define its columns.
                archive.storage.delete(key)
    seconds = round(time.monotonic() - started, 3)
    with archive.database.begin() as connection:
        for collection in missing:
            export_state.update_state(connection, collection, revision=0)
        export_state.end_statewide_build(connection, inputs_digest, seconds)
    return StatewideExport(len(collections) - len(missing), frames, tuple(sorted(missing)), sizes, seconds)


class _PartReader:
    """Iterates over the collections' parts in order and prefetches them. Afterwards `missing` has those that did not exist."""

    def __init__(self, storage: Storage, collections: Sequence[Collection], part: CollectionExport) -> None:
        self._storage, self._collections, self._part = storage, collections, part
        self.missing: list[Collection] = []

    def __iter__(self) -> Iterator[bytes]:
        with ThreadPoolExecutor(_PREFETCH) as pool:
            downloads: deque[tuple[Collection, Future[bytes]]] = deque()
            for collection in self._collections:
                downloads.append((collection, pool.submit(self._storage.read, self._part.key_of(collection))))
                if len(downloads) == _PREFETCH:
                    yield from self._next(downloads)
            while downloads:
                yield from self._next(downloads)

    def _next(self, downloads: deque[tuple[Collection, Future[bytes]]]) -> Iterator[bytes]:
        collection, part = downloads.popleft()
        try:
            yield part.result()
        except NotFoundError:
            self.missing.append(collection)


def _join_geojson(parts: _PartReader, path: Path) -> int:
    """Write the joined file. Returns the number of features."""
    count = 0
    with path.open("wb") as file:
        file.write(geojson_header(path.stem))
        for part in parts:
            features = extract_features(part)
            file.write(SEPARATOR if count else b"")
            file.write(features)
            count += features.count(b"\n") + 1
        file.write(GEOJSON_FOOTER)
    return count


def _join_parquet(parts: _PartReader, path: Path) -> int:
    """Write the joined file. Returns the number of rows.

    Small parts share row groups. Parts are sorted by name, and collections of the same county are close to each other.
    """
    from pyarrow import concat_tables, parquet

    count, geo, writer = 0, None, None
    pending: list[Any] = []
    for part in parts:
        table = parquet.read_table(io.BytesIO(part))
        geo = _merge_geo_metadata(geo, json.loads(table.schema.metadata[b"geo"]))
        table = table.replace_schema_metadata(None)
        writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
        pending.append(table.cast(writer.schema))
        count += table.num_rows
        if sum(table.num_rows for table in pending) >= _ROW_GROUP_ROWS:
            writer.write_table(concat_tables(pending))
            pending.clear()
    if writer:
        if pending:
            writer.write_table(concat_tables(pending))
        writer.add_key_value_metadata({"geo": json.dumps(geo)})
        writer.close()
    return count


def _merge_geo_metadata(merged: dict[str, Any] | None, part: dict[str, Any]) -> dict[str, Any]:
    """GeoParquet metadata with the bounding box and geometry types of all parts so far."""
    if merged is None:
        return part
    merged_column, part_column = merged["columns"]["geometry"], part["columns"]["geometry"]
    sides = zip((min, min, max, max), merged_column["bbox"], part_column["bbox"], strict=True)
    merged_column["bbox"] = [outermost(side, part_side) for outermost, side, part_side in sides]
    merged_column["geometry_types"] = sorted({*merged_column["geometry_types"], *part_column["geometry_types"]})
    return merged
