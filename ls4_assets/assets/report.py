"""The report on one collection: what an operator asks of it, read from Postgres by its own rows alone.

`ls4 status NAME` prints it, and each rebuild shows it in the Dagster UI on the collection's tile index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy import BigInteger, Connection, Row, Select, func, or_, select

from ls4_assets.assets.markdown import table
from ls4_assets.db.schema import WAITING, SourceState, frame, source
from ls4_assets.domain.names import FILM_TYPES, STEPS, Collection

# More of a kind are counted, and left to `ls4 status NAME --json`.
MOST_LISTED = 50


@dataclass(frozen=True)
class LastBatch:
    """The run that last made frames of the collection. Rates are of the time between its first and its last frame; None for one
    frame alone."""

    run: str
    frames: int
    seconds_per_frame: float | None
    frames_per_minute: float | None


@dataclass(frozen=True)
class Report:
    """`sources` counts tifs by state; `failed` and `rejected` have reasons by key, `MOST_LISTED` at most; `bytes` are by what
    they are of: georef, deflate, overviews, cog."""

    sources: Mapping[str, int]
    failed: Mapping[str, str]
    rejected: Mapping[str, str]
    rejected_count: int
    bytes: Mapping[str, int]
    changed_at: datetime | None
    last_batch: LastBatch | None

    @property
    def waiting(self) -> int:
        return sum(self.sources.get(state, 0) for state in WAITING)


def collect_report(connection: Connection, of: Collection) -> Report:
    """Read it: a few milliseconds, and 50 at 10,000 frames."""
    states = {row.state: row for row in connection.execute(_sources(of))}
    runs = connection.execute(_products(of)).all()
    rejected = connection.execute(_rejected(of)).all()
    sizes: dict[str, int] = {step: sum(int(getattr(run, step) or 0) for run in runs) for step in STEPS}
    return Report(
        sources={state: row.n for state, row in states.items()},
        failed={row.key: row.reason for row in connection.execute(_failed(of))},
        rejected={row.key: row.reason for row in rejected},
        rejected_count=rejected[0].all if rejected else 0,
        bytes={"georef": sum(int(row.size) for row in states.values()), **sizes},
        changed_at=runs[0].last if runs else None,
        last_batch=next((_last_batch(run) for run in runs if run.run), None),
    )


def report_metadata(connection: Connection, of: Collection) -> dict[str, dg.MetadataValue]:
    """The report as the Dagster UI shows it."""
    report = collect_report(connection, of)
    found: dict[str, dg.MetadataValue] = {
        "waiting": dg.MetadataValue.int(report.waiting),
        "failed": dg.MetadataValue.int(report.sources.get(SourceState.FAILED, 0)),
        "rejected_names": dg.MetadataValue.int(report.rejected_count),
    }
    for what, listed in (("failed_frames", report.failed), ("rejected_files", report.rejected)):
        if listed:
            found[what] = dg.MetadataValue.md(table(["file", "reason"], listed.items()))
    found |= {f"bytes_{what}": dg.MetadataValue.int(size) for what, size in report.bytes.items()}
    if report.changed_at:
        found["last_change"] = dg.MetadataValue.timestamp(report.changed_at)
    if batch := report.last_batch:
        found["last_run"] = dg.MetadataValue.dagster_run(batch.run)
        found["last_run_frames"] = dg.MetadataValue.int(batch.frames)
        if batch.frames_per_minute and batch.seconds_per_frame:
            found["frames_per_minute"] = dg.MetadataValue.float(batch.frames_per_minute)
            found["seconds_per_frame"] = dg.MetadataValue.float(batch.seconds_per_frame)
    return found


def _sources(of: Collection) -> Select[Any]:
    live = source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED])
    counted = select(source.c.state, func.count().label("n"), func.sum(source.c.size).label("size"))
    return counted.where(source.c.collection == of.name, live).group_by(source.c.state)


def _failed(of: Collection) -> Select[Any]:
    mine = (source.c.collection == of.name, source.c.state == SourceState.FAILED)
    return select(source.c.key, source.c.reason).where(*mine).order_by(source.c.key).limit(MOST_LISTED)


def _rejected(of: Collection) -> Select[Any]:
    """A file with a wrong name belongs to no collection, but lies in the folders of this one."""
    inside = or_(*(source.c.key.startswith(f"{of.folder(film_type)}/", autoescape=True) for film_type in FILM_TYPES))
    listed = select(source.c.key, source.c.reason, func.count().over().label("all"))
    return listed.where(source.c.state == SourceState.REJECTED, inside).order_by(source.c.key).limit(MOST_LISTED)


def _products(of: Collection) -> Select[Any]:
    """The frames by the run that made their COG, the newest first."""
    run = frame.c.products["cog"]["made_by"].astext.label("run")
    sizes = [func.sum(frame.c.products[step]["size"].astext.cast(BigInteger)).label(step) for step in STEPS]
    last = func.max(frame.c.updated_at).label("last")
    each = select(run, func.count().label("frames"), func.min(frame.c.updated_at).label("first"), last, *sizes)
    return each.where(frame.c.collection == of.name, ~frame.c.deleted).group_by(run).order_by(last.desc())


def _last_batch(run: Row[Any]) -> LastBatch:
    seconds = (run.last - run.first).total_seconds()
    if run.frames == 1 or not seconds:
        return LastBatch(run.run, run.frames, None, None)
    return LastBatch(run.run, run.frames, round(seconds / (run.frames - 1), 2), round(60 * (run.frames - 1) / seconds, 1))
