"""Deletes old rows of Dagster's database that no page of the Dagster UI and no computation of staleness needs.

Dagster's open-source storage keeps every event for ever. This module keeps, however old:

- the newest event of each type of each partition of an asset, and the event that the staleness of a newer partition refers to;
- the newest evaluation and the newest completed evaluation of each check of each partition;
- the row, tags and log of every run that a kept event or evaluation belongs to, and of every run that has not ended;
- cursors, partitions, caches and ticks: Dagster deletes ticks itself (`retention` in dagster.yaml).

It deletes in short transactions and takes no lock that a run waits for. `sensors.prune` says when it runs.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import dagster as dg
from sqlalchemy import Connection, text

from ls4_assets.domain.chunks import chunks
from ls4_assets.runtime.dagster_names import FINISHED_STATUSES, INPUT_EVENT_POINTER_TAG

# Rows deleted in one transaction.
_CHUNK = 2000
_RUNS = 100

# A run whose events may be deleted if newer ones replace them. Events without a run have no row in `runs`.
_IS_OLD_RUN = """
    run_id NOT IN (
        SELECT run_id FROM runs
        WHERE status != ALL(:finished) OR coalesce(end_time, extract(epoch FROM update_timestamp)) >= :before
    )"""
_SUPERSEDED_EVENTS = """
    SELECT id, next_id, partition FROM (
        SELECT id, partition, lead(id) OVER (PARTITION BY dagster_event_type, partition ORDER BY id) AS next_id
        FROM event_logs WHERE asset_key = :asset AND partition IS {} NULL
    ) AS event WHERE next_id IS NOT NULL ORDER BY id"""
_POINTERS = """
    SELECT DISTINCT ON (partition) partition, substring(event FROM :pattern)::bigint AS pointer
    FROM event_logs WHERE asset_key = :child AND dagster_event_type = 'ASSET_MATERIALIZATION' AND partition IS NOT NULL
    ORDER BY partition, id DESC"""
_DELETE_EVENTS = f"""
    WITH deleted AS (
        DELETE FROM event_logs WHERE id = ANY(:ids) AND extract(epoch FROM timestamp) < :before AND {_IS_OLD_RUN} RETURNING id
    ), tags AS (DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM deleted))
    SELECT count(*) FROM deleted"""  # noqa: S608  # no value comes from outside
_SUPERSEDED_EVALUATIONS = """
    SELECT id FROM (
        SELECT id, max(id) FILTER (WHERE execution_status IN ('SUCCEEDED', 'FAILED')) OVER (PARTITION BY partition) AS newest
        FROM asset_check_executions WHERE asset_key = :asset AND check_name = :check
    ) AS evaluation WHERE id < newest ORDER BY id"""
_DELETE_EVALUATIONS = f"""
    WITH deleted AS (
        DELETE FROM asset_check_executions
        WHERE id = ANY(:ids) AND extract(epoch FROM evaluation_event_timestamp) < :before AND {_IS_OLD_RUN} RETURNING id
    ) SELECT count(*) FROM deleted"""  # noqa: S608
_UNUSED_RUNS = """
    SELECT run_id FROM runs AS run
    WHERE status = ANY(:finished) AND coalesce(end_time, extract(epoch FROM update_timestamp)) < :before
        AND NOT EXISTS (SELECT FROM asset_check_executions AS evaluation WHERE evaluation.run_id = run.run_id)
        AND NOT EXISTS (SELECT FROM asset_keys WHERE last_run_id = run.run_id)
        AND NOT EXISTS (SELECT FROM event_logs AS event WHERE event.run_id = run.run_id AND event.asset_key IS NOT NULL)
    ORDER BY id"""
_DELETE_RUNS = """
    WITH events AS (DELETE FROM event_logs WHERE run_id = ANY(:ids)), deleted AS (
        DELETE FROM runs WHERE run_id = ANY(:ids) RETURNING id
    ) SELECT count(*) FROM deleted"""
_DELETE_BACKFILLS = """
    WITH deleted AS (
        DELETE FROM bulk_actions WHERE extract(epoch FROM timestamp) < :before
            AND (status LIKE 'COMPLETED%' OR status IN ('FAILED', 'CANCELED'))
            AND NOT EXISTS (SELECT FROM runs WHERE backfill_id = key) RETURNING key
    ), tags AS (DELETE FROM backfill_tags WHERE backfill_id IN (SELECT key FROM deleted))
    SELECT count(*) FROM deleted"""
_TABLES = ("event_logs", "asset_event_tags", "asset_check_executions", "runs", "run_tags", "bulk_actions")


@dataclass
class PruneReport:
    """Number of deleted rows, and the seconds that it took."""

    events: int = 0
    evaluations: int = 0
    runs: int = 0
    backfills: int = 0
    seconds: float = 0.0


class _Event(NamedTuple):
    id: int
    next_id: int
    partition: str | None


@dataclass
class HistoryPruner:
    """Deletes what is older than `before`. `children`: assets that depend on an asset."""

    instance: dg.DagsterInstance
    before: datetime
    children: Mapping[dg.AssetKey, Collection[dg.AssetKey]]
    report: PruneReport = field(default_factory=PruneReport)

    def run(self) -> PruneReport:
        """Delete everything that is due. Safe to interrupt, and to run again."""
        started = time.monotonic()
        with self._connect() as connection:
            for (asset,) in connection.execute(text("SELECT asset_key FROM asset_keys ORDER BY asset_key")).all():
                self.report.events += self._delete(connection, _DELETE_EVENTS, self._superseded_events(connection, asset), _CHUNK)
            checks = connection.execute(text("SELECT DISTINCT asset_key, check_name FROM asset_check_executions")).all()
            for asset, check in checks:
                rows = connection.execute(text(_SUPERSEDED_EVALUATIONS), {"asset": asset, "check": check}).scalars().all()
                self.report.evaluations += self._delete(connection, _DELETE_EVALUATIONS, rows, _CHUNK)
            runs = connection.execute(text(_UNUSED_RUNS), self._parameters()).scalars().all()
            self.report.runs += self._delete(connection, _DELETE_RUNS, runs, _RUNS)
            self.report.backfills = int(connection.execute(text(_DELETE_BACKFILLS), self._parameters()).scalar_one())
            for table in _TABLES:
                # New rows can use the space at once. It needs no lock that blocks writes.
                connection.execute(text(f"VACUUM (ANALYZE) {table}"))
        self.report.seconds = round(time.monotonic() - started, 1)
        return self.report

    def _connect(self) -> AbstractContextManager[Connection]:
        """A connection in which each statement is a transaction."""
        return cast(AbstractContextManager[Connection], cast(Any, self.instance.event_log_storage).index_connection())

    def _parameters(self) -> dict[str, object]:
        # Dagster's timestamps are UTC without a time zone.
        return {"before": self.before.astimezone(UTC).timestamp(), "finished": [status.value for status in FINISHED_STATUSES]}

    def _delete(self, connection: Connection, statement: str, ids: Sequence[object], size: int) -> int:
        rows = 0
        for chunk in chunks(ids, size):
            rows += int(connection.execute(text(statement), self._parameters() | {"ids": list(chunk)}).scalar_one())
        return rows

    def _superseded_events(self, connection: Connection, asset: str) -> list[int]:
        """IDs of events of an asset that have a newer one, and to which no staleness refers."""
        events = []
        for condition in ("NOT", ""):
            rows = connection.execute(text(_SUPERSEDED_EVENTS.format(condition)), {"asset": asset}).all()
            events += [_Event(*row) for row in rows]
            if events:
                break  # the asset is partitioned: its few events without a partition go with their runs
        pointers = self._pointers(connection, asset) if events else {}
        return [event.id for event in events if not _is_needed(event, pointers)]

    def _pointers(self, connection: Connection, asset: str) -> Mapping[str, Sequence[int]]:
        """Where the newest materializations of the assets that depend on `asset` point to, by partition.

        Dagster compares the newest version of a parent with its version at the pointer, and shows STALE if there is none.
        Every asset that ls4 materializes depends on its own partition of its parents, or has no partitions.
        """
        key = dg.AssetKey.from_db_string(asset)
        assert key is not None
        tag = INPUT_EVENT_POINTER_TAG.format(asset=key.to_user_string())
        found: dict[str, list[int]] = {}
        for child in self.children.get(key, ()):
            parameters = {"child": child.to_string(), "pattern": f'"{tag}": ?"([0-9]+)"'}
            for partition, pointer in connection.execute(text(_POINTERS), parameters):
                if pointer is not None:
                    found.setdefault(partition, []).append(pointer)
        return found


def _is_needed(event: _Event, pointers: Mapping[str, Sequence[int]]) -> bool:
    """Whether an event is the newest one at a pointer."""
    return any(event.id <= pointer < event.next_id for pointer in pointers.get(event.partition or "", ()))
