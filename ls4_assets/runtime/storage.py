"""Dagster's PostgreSQL storage, named in dagster.yaml, without an event for each asset that has no freshness policy.

Every 30 s, Dagster's daemon evaluates the freshness of all assets. It stores an event when the state of one has changed, and an
asset without a record counts as changed. Each of 2,000 assets would get an event that says NOT_APPLICABLE, and the daemon would
read all these events every 30 s.
"""

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

# The Dagster UI shows no time of change for this one.
_NEVER = datetime.fromtimestamp(0, UTC)


class EventLogStorage(PostgresEventLogStorage):
    """The event log. The freshness of an asset is NOT_APPLICABLE until an event says otherwise."""

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
