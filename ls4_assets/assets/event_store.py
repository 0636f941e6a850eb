"""Batched writes to Dagster's event log. Building the events is in `events` and `frame_checks`.

Dagster's public API stores each event in three transactions, each on its own connection. That takes about 30 ms; for the three
products of a hundred frames it is more than a third of the time that their pixels take. The private API of Dagster's PostgreSQL
storage writes many events at once. Only this module uses it, and test_event_store.py fails if a Dagster release changes it.
"""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple, cast

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy import Delete, delete, func, select

from ls4_assets.runtime.storage import serialize_event


class EventOrigin(NamedTuple):
    """The run, job and step to which events are attributed; by default none (runless events)."""

    run_id: str = RUNLESS_RUN_ID
    job: str = RUNLESS_JOB_NAME
    step: str | None = None

    @classmethod
    def from_context(cls, context: dg.AssetExecutionContext) -> "EventOrigin":
        return cls(context.run.run_id, context.run.job_name, str(context.op_execution_context.op_handle))


RUNLESS_ORIGIN = EventOrigin()


def store_planned(
    instance: dg.DagsterInstance, origin: EventOrigin, assets: Sequence[dg.AssetKey], partitions: Sequence[str]
) -> None:
    """Store the plan of a run to materialize each of `assets` for each of `partitions` (at least one)."""
    storage = cast(PostgresEventLogStorage, instance.event_log_storage)
    for asset in assets:
        planned = [AssetMaterializationPlannedData(asset, partition=partition) for partition in partitions]
        kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        *entries, last = (_entry(origin, kind, data, logging.DEBUG) for data in planned)
        if entries:
            with storage.index_connection() as connection:
                connection.execute(storage.prepare_insert_event_batch(entries))
        # The public API also updates the asset's row, which needs one of these events.
        storage.store_event(last)


def store_asset_events(
    instance: dg.DagsterInstance, origin: EventOrigin, events: Sequence[dg.AssetMaterialization | dg.AssetObservation]
) -> None:
    """Store materializations, and observations of assets that Dagster does not materialize."""
    storage = cast(PostgresEventLogStorage, instance.event_log_storage)
    for (asset, kind), grouped in groupby(sorted(events, key=_asset_key), key=lambda event: (_asset_key(event), type(event))):
        batch = list(grouped)
        entries = [_entry(origin, *_kind_and_data(event), logging.INFO) for event in batch]
        insert = storage.prepare_insert_event_batch(entries).returning(SqlEventLogStorageTable.c.id)
        with storage.index_transaction() as connection:
            ids = list(connection.execute(insert).scalars())
            # No tags: Dagster reads their index for a run of an asset that depends on many partitions, and ls4 has none.
            # The asset's row names its last event.
            storage._store_asset_event(connection, entries[-1], ids[-1])
            if kind is dg.AssetMaterialization:
                connection.execute(_delete_planned(asset, [event.partition for event in batch if event.partition]))


def _delete_planned(asset: str, partitions: Sequence[str]) -> Delete:
    """Statement that deletes the plans of partitions that were materialized.

    Dagster uses a plan to show that a partition is in progress or failed, and ignores it when a materialization follows.
    """
    columns = SqlEventLogStorageTable.c
    return delete(SqlEventLogStorageTable).where(
        columns.asset_key == asset,
        columns.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
        columns.partition.in_(partitions),
    )


def store_checks(instance: dg.DagsterInstance, origin: EventOrigin, evaluations: Sequence[dg.AssetCheckEvaluation]) -> None:
    """Store evaluations of one partition each, in a row that replaces the one that the run planned.

    Dagster reads an evaluation from this row. Its event in the log is only for the page of the run, so passed ones have none.
    """
    storage = cast(PostgresEventLogStorage, instance.event_log_storage)
    for (asset_key, check_name, passed), grouped in groupby(sorted(evaluations, key=_check_key), key=_check_key):
        batch = list(grouped)
        entries = [_entry(origin, DagsterEventType.ASSET_CHECK_EVALUATION, evaluation, logging.INFO) for evaluation in batch]
        columns = AssetCheckExecutionsTable.c
        planned = delete(AssetCheckExecutionsTable).where(
            columns.asset_key == asset_key,
            columns.check_name == check_name,
            columns.run_id == origin.run_id,
            columns.partition.in_([evaluation.partition for evaluation in batch]),
        )
        with storage.index_transaction() as connection:
            if passed:
                # Dagster orders evaluations and materializations by this ID.
                ids = [connection.execute(select(func.max(SqlEventLogStorageTable.c.id))).scalar_one()] * len(batch)
            else:
                insert = storage.prepare_insert_event_batch(entries).returning(SqlEventLogStorageTable.c.id)
                ids = list(connection.execute(insert).scalars())
            connection.execute(planned)
            rows = [_check_row(*row) for row in zip(batch, entries, ids, strict=True)]
            connection.execute(AssetCheckExecutionsTable.insert(), rows)


def _check_row(evaluation: dg.AssetCheckEvaluation, entry: EventLogEntry, event_id: int) -> dict[str, object]:
    """Row of an evaluation, as `SqlEventLogStorage._update_asset_check_evaluation` builds it."""
    status = AssetCheckExecutionRecordStatus.SUCCEEDED if evaluation.passed else AssetCheckExecutionRecordStatus.FAILED
    return {
        "asset_key": evaluation.asset_key.to_string(),
        "check_name": evaluation.check_name,
        "partition": evaluation.partition,
        "run_id": entry.run_id,
        "execution_status": status.value,
        "evaluation_event": serialize_event(entry),
        "evaluation_event_timestamp": datetime.fromtimestamp(entry.timestamp, UTC).replace(tzinfo=None),
        "evaluation_event_storage_id": event_id,
    }


def _check_key(evaluation: dg.AssetCheckEvaluation) -> tuple[str, str, bool]:
    return evaluation.asset_key.to_string(), evaluation.check_name, evaluation.passed


def _asset_key(event: dg.AssetMaterialization | dg.AssetObservation) -> str:
    return event.asset_key.to_string()


def _kind_and_data(
    event: dg.AssetMaterialization | dg.AssetObservation,
) -> tuple[DagsterEventType, StepMaterializationData | AssetObservationData]:
    if isinstance(event, dg.AssetObservation):
        return DagsterEventType.ASSET_OBSERVATION, AssetObservationData(event)
    return DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(event)


def _entry(
    origin: EventOrigin,
    kind: DagsterEventType,
    data: AssetMaterializationPlannedData | StepMaterializationData | AssetObservationData | dg.AssetCheckEvaluation,
    level: int,
) -> EventLogEntry:
    """Entry of the event log, as `DagsterInstance.report_dagster_event` builds it."""
    run_id, job, step = origin
    event = DagsterEvent(kind.value, job, event_specific_data=data, step_key=step)
    return EventLogEntry(None, level, "", run_id, time.time(), step_key=step, job_name=job, dagster_event=event)  # type: ignore[no-untyped-call]
