"""Many events of Dagster in few transactions.

Dagster's public calls store one event in three transactions, each over a connection of its own: some 30 ms, which for the three
products of a hundred frames is more than a third of what their pixels take. Its storage in PostgreSQL takes many at once, by
private API that stands here alone; test_event_store.py fails if a new version of Dagster takes it differently.
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
from dagster_shared.serdes import serialize_value
from sqlalchemy import delete


class Origin(NamedTuple):
    """The step of a run that events come from."""

    run_id: str = RUNLESS_RUN_ID
    job: str = RUNLESS_JOB_NAME
    step: str | None = None

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> "Origin":
        return cls(context.run.run_id, context.run.job_name, str(context.op_execution_context.op_handle))


RUNLESS = Origin()


def store_planned(instance: dg.DagsterInstance, origin: Origin, assets: Sequence[dg.AssetKey], partitions: Sequence[str]) -> None:
    """Announce that the run makes each of the assets for each of the partitions (at least one)."""
    storage = cast(PostgresEventLogStorage, instance.event_log_storage)
    for asset in assets:
        planned = [AssetMaterializationPlannedData(asset, partition=partition) for partition in partitions]
        kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        *entries, last = (_entry(origin, kind, one, logging.DEBUG) for one in planned)
        if entries:
            with storage.index_connection() as connection:
                connection.execute(storage.prepare_insert_event_batch(entries))
        # By the public way, as the asset's own row is to be told of one of them.
        storage.store_event(last)


def store_asset_events(
    instance: dg.DagsterInstance, origin: Origin, events: Sequence[dg.AssetMaterialization | dg.AssetObservation]
) -> None:
    """Record what was made, or seen of assets that Dagster does not make."""
    # A batch is of one kind, and tells the asset's own row of its last event alone: each asset has its own.
    for _, alike in groupby(sorted(events, key=_asset), key=lambda one: (_asset(one), type(one))):
        instance.event_log_storage.store_event_batch([_entry(origin, *_kind_and_data(one), logging.INFO) for one in alike])


def store_checks(instance: dg.DagsterInstance, origin: Origin, checked: Sequence[dg.AssetCheckEvaluation]) -> None:
    """Record what checks found, each of one partition: an event, and a row, in place of the one that the run had planned."""
    storage = cast(PostgresEventLogStorage, instance.event_log_storage)
    for key, of_check in groupby(sorted(checked, key=_check), key=_check):
        found = list(of_check)
        entries = [_entry(origin, DagsterEventType.ASSET_CHECK_EVALUATION, one, logging.INFO) for one in found]
        insert = storage.prepare_insert_event_batch(entries).returning(SqlEventLogStorageTable.c.id)
        table = AssetCheckExecutionsTable.c
        ours = (table.asset_key == key[0]) & (table.check_name == key[1]) & (table.run_id == origin.run_id)
        planned = delete(AssetCheckExecutionsTable).where(ours, table.partition.in_([one.partition for one in found]))
        with storage.index_transaction() as connection:
            ids = connection.execute(insert).scalars().all()
            connection.execute(planned)
            rows = [_check_row(*of) for of in zip(found, entries, ids, strict=True)]
            connection.execute(AssetCheckExecutionsTable.insert(), rows)


def _check_row(found: dg.AssetCheckEvaluation, entry: EventLogEntry, event_id: int) -> dict[str, object]:
    """As `SqlEventLogStorage._update_asset_check_evaluation` makes it."""
    outcome = AssetCheckExecutionRecordStatus.SUCCEEDED if found.passed else AssetCheckExecutionRecordStatus.FAILED
    return {
        "asset_key": found.asset_key.to_string(),
        "check_name": found.check_name,
        "partition": found.partition,
        "run_id": entry.run_id,
        "execution_status": outcome.value,
        "evaluation_event": serialize_value(entry),
        "evaluation_event_timestamp": datetime.fromtimestamp(entry.timestamp, UTC).replace(tzinfo=None),
        "evaluation_event_storage_id": event_id,
    }


def _check(found: dg.AssetCheckEvaluation) -> tuple[str, str]:
    return found.asset_key.to_string(), found.check_name


def _asset(of: dg.AssetMaterialization | dg.AssetObservation) -> str:
    return of.asset_key.to_string()


def _kind_and_data(
    of: dg.AssetMaterialization | dg.AssetObservation,
) -> tuple[DagsterEventType, StepMaterializationData | AssetObservationData]:
    if isinstance(of, dg.AssetObservation):
        return DagsterEventType.ASSET_OBSERVATION, AssetObservationData(of)
    return DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(of)


def _entry(
    origin: Origin,
    kind: DagsterEventType,
    data: AssetMaterializationPlannedData | StepMaterializationData | AssetObservationData | dg.AssetCheckEvaluation,
    level: int,
) -> EventLogEntry:
    """As `DagsterInstance.report_dagster_event` makes it."""
    run, job, step = origin
    event = DagsterEvent(kind.value, job, event_specific_data=data, step_key=step)
    return EventLogEntry(None, level, "", run, time.time(), step_key=step, job_name=job, dagster_event=event)  # type: ignore[no-untyped-call]
