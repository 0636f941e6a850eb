"""The statewide files, put together from the collections' parts: no frame is read from the database, nothing is parsed twice.

One changed collection costs the copying of all parts, not the making of all rows. Parts are read a few at a time, in the order of
the collections' names, so that two compilations of the same parts are equal.
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
from ls4_assets.domain.names import Collection
from ls4_assets.errors import NotFoundError
from ls4_assets.publishing.footprints import SEPARATOR, features_of, head, tail
from resources.archive import Archive
from resources.scratch import scratch_folder
from resources.storage import Storage

# Parts that are read ahead of the one that is being written.
_AHEAD = 16
# A reader takes a row group whole, or leaves it out by its box.
_ROW_GROUP = 50_000


@dataclass(frozen=True)
class Compiled:
    """`missing`: collections whose parts were not in the bucket. They are left out, and made anew by themselves."""

    collections: int
    frames: int
    missing: tuple[Collection, ...]
    sizes: dict[str, int]
    seconds: float


def compile_statewide(archive: Archive) -> Compiled:
    """Write both files anew."""
    started = time.monotonic()
    with archive.database.begin() as connection:
        export_state.begin_statewide_build(connection)
        inputs_digest, collections = export_state.digest(connection), export_state.exported(connection)
    # The bucket's client is made here, by one thread.
    archive.storage.head(export_keys.ROOT_CATALOG_KEY)
    sizes, missing = {}, set()
    with scratch_folder("ls4-statewide-", archive.settings.work_dir) as folder:
        for key, suffix, join in (
            (export_keys.COMPILED_GEOJSON_KEY, ".geojson", _join_geojson),
            (export_keys.COMPILED_PARQUET_KEY, ".parquet", _join_parquet),
        ):
            path = folder / f"compiled{suffix}"
            parts = _Parts(archive.storage, collections, suffix)
            frames = join(parts, path)
            missing |= set(parts.missing)
            if path.exists():
                sizes[key] = archive.storage.upload(path, key).size
                path.unlink()
            else:
                # An archive without a frame: a GeoParquet file has no columns then.
                archive.storage.delete(key)
    seconds = round(time.monotonic() - started, 3)
    with archive.database.begin() as connection:
        for lost in missing:
            export_state.note(connection, lost, revision=0)
        export_state.end_statewide_build(connection, inputs_digest, seconds)
    return Compiled(len(collections) - len(missing), frames, tuple(sorted(missing)), sizes, seconds)


class _Parts:
    """The parts of the collections in order, read ahead; those that were not there are in `missing` afterwards."""

    def __init__(self, storage: Storage, collections: Sequence[Collection], suffix: str) -> None:
        self._storage, self._collections, self._suffix = storage, collections, suffix
        self.missing: list[Collection] = []

    def __iter__(self) -> Iterator[bytes]:
        with ThreadPoolExecutor(_AHEAD) as pool:
            ahead: deque[tuple[Collection, Future[bytes]]] = deque()
            for of in self._collections:
                ahead.append((of, pool.submit(self._storage.read, export_keys.footprints_key(of, self._suffix))))
                if len(ahead) == _AHEAD:
                    yield from self._next(ahead)
            while ahead:
                yield from self._next(ahead)

    def _next(self, ahead: deque[tuple[Collection, Future[bytes]]]) -> Iterator[bytes]:
        of, part = ahead.popleft()
        try:
            yield part.result()
        except NotFoundError:
            self.missing.append(of)


def _join_geojson(parts: _Parts, path: Path) -> int:
    """Returns how many features."""
    count = 0
    with path.open("wb") as file:
        file.write(head(path.stem))
        for part in parts:
            features = features_of(part)
            file.write(SEPARATOR if count else b"")
            file.write(features)
            count += features.count(b"\n") + 1
        file.write(tail())
    return count


def _join_parquet(parts: _Parts, path: Path) -> int:
    """Returns how many rows. Small parts share row groups; neighbours by name are mostly neighbours on the ground."""
    from pyarrow import concat_tables, parquet

    count, geo, writer = 0, None, None
    waiting: list[Any] = []
    for part in parts:
        table = parquet.read_table(io.BytesIO(part))
        geo = _widened(geo, json.loads(table.schema.metadata[b"geo"]))
        table = table.replace_schema_metadata(None)
        writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
        waiting.append(table.cast(writer.schema))
        count += table.num_rows
        if sum(one.num_rows for one in waiting) >= _ROW_GROUP:
            writer.write_table(concat_tables(waiting))
            waiting.clear()
    if writer:
        if waiting:
            writer.write_table(concat_tables(waiting))
        writer.add_key_value_metadata({"geo": json.dumps(geo)})
        writer.close()
    return count


def _widened(geo: dict[str, Any] | None, by: dict[str, Any]) -> dict[str, Any]:
    """The metadata of GeoParquet with what only the whole knows: its box, and the types of its geometries."""
    if geo is None:
        return by
    whole, part = geo["columns"]["geometry"], by["columns"]["geometry"]
    sides = zip((min, min, max, max), whole["bbox"], part["bbox"], strict=True)
    whole["bbox"] = [wider(ours, theirs) for wider, ours, theirs in sides]
    whole["geometry_types"] = sorted({*whole["geometry_types"], *part["geometry_types"]})
    return geo
