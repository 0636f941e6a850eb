"""What Dagster's storage asks about its own tables."""

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import RunsFilter
from sqlalchemy import event

from ls4_assets.runtime import dagster_schema
from ls4_assets_tests.platform import Platform


def ask_as_a_tick_does(instance: dg.DagsterInstance) -> None:
    instance.get_run_records(RunsFilter(tags={"ls4/batch": "none"}))
    instance.get_runs_count(RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    instance.get_backfills(limit=1)
    instance.all_instigator_state()
    instance.get_dynamic_partitions("frames/Travis")


def test_tables_are_described_once_per_process(platform: Platform) -> None:
    """Two of three statements of an idle platform asked PostgreSQL which columns Dagster's tables have."""
    assert platform.instance
    ask_as_a_tick_does(platform.instance)
    statements: list[str] = []
    engine = platform.instance.run_storage._engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with dg.DagsterInstance.from_ref(platform.instance.get_ref()) as instance:
        ask_as_a_tick_does(instance)
    assert len(statements) >= 5
    assert not [statement for statement in statements if "pg_catalog" in statement]


def test_a_missing_table_is_asked_for_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration may add it while the process runs."""
    assert platform.instance
    storage = platform.instance.event_log_storage
    assert not storage.has_table("added_later")  # type: ignore[attr-defined]
    monkeypatch.setattr(
        dagster_schema,
        "_PRESENT",
        {(storage.postgres_url, "PostgresEventLogStorage.has_table", "added_later")},  # type: ignore[attr-defined]
    )
    assert storage.has_table("added_later")  # type: ignore[attr-defined]
