"""The report on one collection, from the collection's own rows in Postgres. The status of the archive is in `operations.status`.

`ls4 status NAME` prints it, and every rebuild shows it as metadata of the collection's tile index in the Dagster UI.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy import BigInteger, Connection, Select, func, or_, select

from ls4_assets.assets.markdown import entries
from ls4_assets.db.schema import PENDING_STATES, SourceState, frame, source
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import STEPS

# `ls4 status NAME --json` lists all.
MAX_LISTED = 50


@dataclass(frozen=True)
class LastBatch:
    """The run that last built frames of the collection, and how many of them.

    It has no rate: a rebuild changes the times of the rows too, so they do not say how long a frame took.
    """

    run: str
    frames: int


@dataclass(frozen=True)
class CollectionReport:
    """Counts, sizes and problems of one collection.

    sources: number of tifs by state. failed, rejected: reasons by key, at most MAX_LISTED. bytes: sizes by kind of object
    (georef, deflate, overviews, cog).
    """

    sources: Mapping[str, int]
    failed: Mapping[str, str]
    rejected: Mapping[str, str]
    rejected_count: int
    bytes: Mapping[str, int]
    changed_at: datetime | None
    last_batch: LastBatch | None

    @property
    def waiting(self) -> int:
        return sum(self.sources.get(state, 0) for state in PENDING_STATES)


def collect_report(connection: Connection, collection: Collection) -> CollectionReport:
    """Report on a collection. The queries take a few milliseconds, or 50 for 10,000 frames."""
    states = {row.state: row for row in connection.execute(_sources(collection))}
    runs = connection.execute(_products(collection)).all()
    rejected = connection.execute(_rejected(collection)).all()
    sizes: dict[str, int] = {step: sum(int(getattr(run, step) or 0) for run in runs) for step in STEPS}
    return CollectionReport(
        sources={state: row.count_ for state, row in states.items()},
        failed={row.key: row.reason for row in connection.execute(_failed(collection))},
        rejected={row.key: row.reason for row in rejected},
        rejected_count=rejected[0].total if rejected else 0,
        bytes={"georef": sum(int(row.bytes) for row in states.values()), **sizes},
        changed_at=runs[0].last if runs else None,
        last_batch=next((LastBatch(run.run, run.frames) for run in runs if run.run), None),
    )


def report_metadata(connection: Connection, collection: Collection) -> dict[str, dg.MetadataValue]:
    """Metadata for the Dagster UI."""
    report = collect_report(connection, collection)
    metadata: dict[str, dg.MetadataValue] = {
        "waiting": dg.MetadataValue.int(report.waiting),
        "failed": dg.MetadataValue.int(report.sources.get(SourceState.FAILED, 0)),
        "rejected": dg.MetadataValue.int(report.rejected_count),
    }
    for label, reasons in (("failed_frames", report.failed), ("rejected_files", report.rejected)):
        if reasons:
            metadata[label] = dg.MetadataValue.md(entries(reasons.items()))
    metadata |= {f"bytes_{kind}": dg.MetadataValue.int(size) for kind, size in report.bytes.items()}
    if report.changed_at:
        metadata["last_change"] = dg.MetadataValue.timestamp(report.changed_at)
    if batch := report.last_batch:
        metadata["last_run"] = dg.MetadataValue.dagster_run(batch.run)
        metadata["last_run_frames"] = dg.MetadataValue.int(batch.frames)
    return metadata


def _sources(collection: Collection) -> Select[Any]:
    """Number and bytes of the collection's tifs by state."""
    live = source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED])
    columns = (source.c.state, func.count().label("count_"), func.sum(source.c.size).label("bytes"))
    return select(*columns).where(source.c.collection == collection.name, live).group_by(source.c.state)


def _failed(collection: Collection) -> Select[Any]:
    conditions = (source.c.collection == collection.name, source.c.state == SourceState.FAILED)
    return select(source.c.key, source.c.reason).where(*conditions).order_by(source.c.key).limit(MAX_LISTED)


def _rejected(collection: Collection) -> Select[Any]:
    """Rejected files in the collection's folders; `total` counts all of them. They have no collection in the database."""
    in_folders = or_(*(source.c.key.startswith(f"{collection.folder(film_type)}/", autoescape=True) for film_type in FILM_TYPES))
    rows = select(source.c.key, source.c.reason, func.count().over().label("total"))
    return rows.where(source.c.state == SourceState.REJECTED, in_folders).order_by(source.c.key).limit(MAX_LISTED)


def _products(collection: Collection) -> Select[Any]:
    """Frames grouped by the run that built their COG, the newest run first, with the bytes of each product."""
    run = frame.c.products["cog"]["made_by"].astext.label("run")
    sizes = [func.sum(frame.c.products[step]["size"].astext.cast(BigInteger)).label(step) for step in STEPS]
    last = func.max(frame.c.updated_at).label("last")
    rows = select(run, func.count().label("frames"), last, *sizes)
    return rows.where(frame.c.collection == collection.name, ~frame.c.deleted).group_by(run).order_by(last.desc())
