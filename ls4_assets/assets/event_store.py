"""Many events of Dagster in few transactions.

Dagster's public calls store one event in three transactions, each over a connection of its own: some 30 ms, which for the three
products of a hundred frames is more than a third of what their pixels take. Its storage in PostgreSQL takes many at once, by
private API that stands here alone; test_event_store.py fails if a new version of Dagster takes it differently.
"""

import logging
import time
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, cast

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster_postgres.event_log import PostgresEventLogStorage


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


def store_materializations(instance: dg.DagsterInstance, origin: Origin, made: Sequence[dg.AssetMaterialization]) -> None:
    """Record what was made."""
    kind = DagsterEventType.ASSET_MATERIALIZATION
    # A batch tells the asset's own row of its last event alone: each asset has its own.
    for _, of_asset in groupby(sorted(made, key=_asset), key=_asset):
        entries = [_entry(origin, kind, StepMaterializationData(one), logging.INFO) for one in of_asset]
        instance.event_log_storage.store_event_batch(entries)


def store_checks(instance: dg.DagsterInstance, origin: Origin, checked: Sequence[dg.AssetCheckEvaluation]) -> None:
    """Record what checks found. Of these the storage takes one at a time, as each has a row in another table too."""
    for one in checked:
        instance.event_log_storage.store_event(_entry(origin, DagsterEventType.ASSET_CHECK_EVALUATION, one, logging.INFO))


def _asset(made: dg.AssetMaterialization) -> str:
    return made.asset_key.to_string()


def _entry(
    origin: Origin,
    kind: DagsterEventType,
    data: AssetMaterializationPlannedData | StepMaterializationData | dg.AssetCheckEvaluation,
    level: int,
) -> EventLogEntry:
    """As `DagsterInstance.report_dagster_event` makes it."""
    run, job, step = origin
    event = DagsterEvent(kind.value, job, event_specific_data=data, step_key=step)
    return EventLogEntry(None, level, "", run, time.time(), step_key=step, job_name=job, dagster_event=event)  # type: ignore[no-untyped-call]
