"""Dagster's PostgreSQL storage, named in dagster.yaml, with compressed events and without useless ones.

Every frame has five events in JSON, which take most of Dagster's database. PostgreSQL compresses rows above 2 kB only, and these
are shorter, so they are padded with spaces, which JSON permits.

Every 30 s, Dagster's daemon evaluates the freshness of all assets. It stores an event when the state of one has changed, and an
asset without a record counts as changed. Each of 2,000 assets would get an event that says NOT_APPLICABLE, and the daemon would
read all these events every 30 s.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, cast

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateRecord, FreshnessStateRecordBody
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.config import PostgresStorageConfig
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import pg_url_from_config
from dagster_shared.serdes import serialize_value

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


class EventLogStorage(PostgresEventLogStorage):
    """The event log. The freshness of an asset is NOT_APPLICABLE until an event says otherwise."""

    def _event_to_row(self, event: dg.EventLogEntry) -> dict[str, Any]:
        return super()._event_to_row(event) | {"event": serialize_event(event)}

    def get_freshness_state_records(self, keys: Sequence[dg.AssetKey]) -> Mapping[dg.AssetKey, FreshnessStateRecord]:
        records = super().get_freshness_state_records(keys)
        return {key: records.get(key) or _not_applicable(key) for key in keys}


def _not_applicable(key: dg.AssetKey) -> FreshnessStateRecord:
    state, body = FreshnessState.NOT_APPLICABLE, FreshnessStateRecordBody(metadata={})
    return FreshnessStateRecord(entity_key=key, freshness_state=state, updated_at=_NEVER, record_body=body)


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with that event log. Its options are those of `storage: postgres`."""

    def __init__(self, url: str, should_autocreate_tables: bool, inst_data: ConfigurableClassData | None = None) -> None:
        # Not the constructor of DagsterPostgresStorage, which would connect to the event log twice.
        DagsterStorage.__init__(self)  # type: ignore[no-untyped-call,arg-type]  # typed for Dagster's own subclasses
        self.postgres_url, self.should_autocreate_tables, self._inst_data = url, should_autocreate_tables, inst_data
        self._run_storage = PostgresRunStorage(url, should_autocreate_tables)
        self._event_log_storage = EventLogStorage(url, should_autocreate_tables)
        self._schedule_storage = PostgresScheduleStorage(url, should_autocreate_tables)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        url = pg_url_from_config(cast(PostgresStorageConfig, config_value))
        return cls(url, bool(config_value.get("should_autocreate_tables", True)), inst_data)
