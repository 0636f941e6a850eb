"""Dagster's PostgreSQL storage, named in dagster.yaml, with connections that stay open and with small events.

Every frame has five events in JSON, which take most of Dagster's database. PostgreSQL compresses rows above 2 kB only, and these
are shorter, so they are padded with spaces, which JSON permits.

Every 30 s, Dagster's daemon evaluates the freshness of all assets. It stores an event when the state of one has changed, and an
asset without a record counts as changed. Each of 2,000 assets would get an event that says NOT_APPLICABLE, and the daemon would
read all these events every 30 s.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self, cast

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateRecord, FreshnessStateRecordBody
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.config import PostgresStorageConfig
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import pg_url_from_config
from dagster_shared.serdes import serialize_value
from sqlalchemy import Engine, create_engine, delete

from ls4_assets.runtime.backfill_guard import prepare_backfill
from ls4_assets.runtime.dagster_schema import remembering
from ls4_assets.runtime.run_guard import prepare_run

# The Dagster UI shows no time of change for this one.
_NEVER = datetime.fromtimestamp(0, UTC)


# PostgreSQL compresses a row of more than TOAST_TUPLE_THRESHOLD = 2,032 bytes. No setting changes that; `toast_tuple_target` is
# only how small such a row becomes.
_COMPRESSED_LENGTH = 2100
# The events that frames have. A tenth of each are nulls of these classes, which have null as the default of every such field.
_FRAME_EVENTS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_CLASSES = {
    "DagsterEvent",
    "AssetMaterialization",
    "AssetObservation",
    "AssetMaterializationPlannedData",
    "AssetCheckEvaluation",
    "EventMetadataEntry",
}


def serialize_event(entry: dg.EventLogEntry) -> str:
    """The event as JSON, for the column `event` of the event log or `evaluation_event` of a check."""
    event = serialize_value(entry)
    if entry.dagster_event_type in _FRAME_EVENTS:
        event = json.dumps(_without_nulls(json.loads(event)), separators=(",", ":"))
    return event.ljust(_COMPRESSED_LENGTH)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        has_defaults = value.get("__class__") in _CLASSES
        return {key: _without_nulls(each) for key, each in value.items() if each is not None or not has_defaults}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


@remembering("has_table", "has_asset_key_col", "_has_asset_key_col_on_connection", "has_secondary_index")
class EventLogStorage(PostgresEventLogStorage):
    """The event log. The freshness of an asset is NOT_APPLICABLE until an event says otherwise."""

    def _event_to_row(self, event: dg.EventLogEntry) -> dict[str, Any]:
        return super()._event_to_row(event) | {"event": serialize_event(event)}

    def _store_runless_asset_check_evaluation(self, event: dg.EventLogEntry, event_id: int | None) -> None:
        """A second evaluation of a partition without a run violates the unique key of Dagster's table: it replaces the first."""
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        if evaluation.partition is not None:
            columns = AssetCheckExecutionsTable.c
            earlier = (
                columns.asset_key == evaluation.asset_key.to_string(),
                columns.check_name == evaluation.check_name,
                columns.run_id == event.run_id,
                columns.partition == evaluation.partition,
            )
            with self.index_connection() as connection:
                connection.execute(delete(AssetCheckExecutionsTable).where(*earlier))
        super()._store_runless_asset_check_evaluation(event, event_id)

    def get_freshness_state_records(self, keys: Sequence[dg.AssetKey]) -> Mapping[dg.AssetKey, FreshnessStateRecord]:
        records = super().get_freshness_state_records(keys)
        return {key: records.get(key) or _not_applicable(key) for key in keys}


def _not_applicable(key: dg.AssetKey) -> FreshnessStateRecord:
    state, body = FreshnessState.NOT_APPLICABLE, FreshnessStateRecordBody(metadata={})
    return FreshnessStateRecord(entity_key=key, freshness_state=state, updated_at=_NEVER, record_body=body)


@remembering(
    "has_run_stats_index_cols", "has_backfill_id_column", "has_bulk_actions_selector_cols", "has_bulk_action_job_name_column",
    "has_backfill_tags_table", "has_built_index",
)  # fmt: skip
class RunStorage(PostgresRunStorage):
    """The runs and backfills. One that must not start is not stored."""

    def add_run(self, dagster_run: dg.DagsterRun) -> dg.DagsterRun:
        return super().add_run(prepare_run(dagster_run, self._instance.get_dynamic_partitions))

    def add_backfill(self, partition_backfill: PartitionBackfill) -> None:
        unfinished = self.get_backfills(status=BulkActionStatus.REQUESTED)
        super().add_backfill(prepare_backfill(partition_backfill, unfinished))


@remembering(
    "has_instigators_table", "_has_instigators_table", "_has_asset_daemon_asset_evaluations_table", "has_secondary_index_table",
    "has_built_index",
)  # fmt: skip
class ScheduleStorage(PostgresScheduleStorage):
    """The sensors, schedules and their ticks."""


# By process ID, because a forked process must not use the connections of its parent.
_WITH_TABLES: set[tuple[int, str]] = set()


@cache
def _engine(process_id: int, url: str) -> Engine:
    """An engine that keeps up to two connections open. Without a pool, Dagster opens a connection for every call."""
    return create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=2,
        # More are opened when they are needed, as without a pool.
        max_overflow=-1,
        pool_use_lifo=True,
        # PostgreSQL may have restarted.
        pool_pre_ping=True,
    )


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with that event log. Its options are those of `storage: postgres`."""

    def __init__(self, url: str, should_autocreate_tables: bool, inst_data: ConfigurableClassData | None = None) -> None:
        # Not the constructor of DagsterPostgresStorage, which would connect to the event log twice.
        DagsterStorage.__init__(self)  # type: ignore[no-untyped-call,arg-type]  # typed for Dagster's own subclasses
        self.postgres_url, self.should_autocreate_tables, self._inst_data = url, should_autocreate_tables, inst_data
        # Each storage reads the list of tables when it is created, and an instance is created for every tick of a sensor.
        has_tables = (os.getpid(), url) in _WITH_TABLES
        should_create = should_autocreate_tables and not has_tables
        self._run_storage = RunStorage(url, should_create)
        self._event_log_storage = EventLogStorage(url, should_create)
        self._schedule_storage = ScheduleStorage(url, should_create)
        _WITH_TABLES.add((os.getpid(), url))
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(os.getpid(), url)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        url = pg_url_from_config(cast(PostgresStorageConfig, config_value))
        return cls(url, bool(config_value.get("should_autocreate_tables", True)), inst_data)
