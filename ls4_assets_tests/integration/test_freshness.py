"""Freshness of the assets that are built every day, and the events that Dagster stores about freshness."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import freeze_time
from dagster._daemon.freshness import FreshnessDaemon
from dagster._serdes import deserialize_value, serialize_value
from sqlalchemy import create_engine, make_url, text

from ls4_assets.assets import keys
from ls4_assets.runtime.storage import EventLogStorage, PostgresStorage
from ls4_assets_tests.platform import CHECKOUT, Platform
from ls4_assets_tests.workspace import loaded_workspace

DAILY = {keys.ARCHIVE_CONSISTENCY, keys.COMPILED_INDEXES}


class Evaluation:
    """The freshness daemon over all shards of Texas, one iteration at a time."""

    def __init__(self, instance: dg.DagsterInstance, workspace: object) -> None:
        self.instance = instance
        self._workspace = workspace

    def run(self, after: timedelta = timedelta()) -> None:
        with freeze_time(datetime.now(UTC) + after):
            list(FreshnessDaemon().run_iteration(self._workspace))  # type: ignore[arg-type]

    def events(self) -> list[tuple[str, str]]:
        """Asset and new state of every event about freshness, oldest first."""
        storage = self.instance.event_log_storage
        with create_engine(storage.postgres_url).connect() as connection:  # type: ignore[attr-defined]
            query = "SELECT asset_key, event::json -> 'dagster_event' -> 'event_specific_data' -> 'new_state' ->> '__enum__'"
            where = "FROM event_logs WHERE dagster_event_type = 'FRESHNESS_STATE_CHANGE' ORDER BY id"
            rows = connection.execute(text(f"{query} {where}")).all()
        return [(dg.AssetKey(json.loads(row[0])).to_user_string(), row[1].rpartition(".")[2]) for row in rows]


@pytest.fixture
def evaluation(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluation]:
    with loaded_workspace(platform, monkeypatch) as workspace:
        assert len(workspace.create_request_context().asset_graph.get_all_asset_keys()) > 2000
        yield Evaluation(platform.instance, workspace)


def test_only_assets_with_a_policy_have_events(evaluation: Evaluation) -> None:
    """A fresh installation stored an event for each of its 2,000 assets, for two minutes."""
    evaluation.run()
    assert sorted(evaluation.events()) == sorted((key.to_user_string(), "UNKNOWN") for key in DAILY)
    evaluation.run()
    assert len(evaluation.events()) == len(DAILY)


def test_freshness_follows_the_last_build(evaluation: Evaluation) -> None:
    for key in DAILY:
        evaluation.instance.report_runless_asset_event(dg.AssetMaterialization(key))
    states = []
    for hours in (0, 24, 31, 49):
        evaluation.run(timedelta(hours=hours))
        states.append({state for _, state in evaluation.events()[-len(DAILY) :]})
    assert states == [{"PASS"}, {"PASS"}, {"WARN"}, {"FAIL"}]
    assert len(evaluation.events()) == 3 * len(DAILY)


def test_daemon_evaluates_freshness_with_our_storage() -> None:
    """Without the daemon, the Dagster UI shows that freshness is unknown; without our storage, it stores 2,000 events."""
    for path in (CHECKOUT / "dagster.yaml", CHECKOUT / "deploy" / "dagster.yaml"):
        configuration = yaml.safe_load(path.read_text())
        assert configuration["freshness"] == {"enabled": True}
        # Its loop would only cost CPU.
        assert configuration["auto_materialize"] == {"enabled": False, "use_sensors": False}
        custom = configuration["storage"]["custom"]
        assert (custom["module"], custom["class"]) == (PostgresStorage.__module__, PostgresStorage.__name__)


@pytest.mark.parametrize("file", ["dagster.yaml", "deploy/dagster.yaml"])
def test_options_of_dagster_yaml_open_our_storage(
    file: str, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, runs and schedules are in one database, for this process and for one that gets a reference to the instance."""
    url = make_url(vars(platform.instance.event_log_storage)["postgres_url"])
    monkeypatch.setenv("LS4_DAGSTER_DATABASE_URL", url.render_as_string(hide_password=False))
    for name, value in (("PGHOST", url.host), ("PGPORT", url.port), ("LS4_PASSWORD_DAGSTER", url.password)):
        monkeypatch.setenv(name, str(value))
    home = tmp_path / "home"
    home.mkdir()
    storage = yaml.safe_load((CHECKOUT / file).read_text())["storage"]
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        reference = deserialize_value(serialize_value(instance.get_ref()), InstanceRef)
        with dg.DagsterInstance.from_ref(reference) as reopened:
            for each in (instance, reopened):
                assert isinstance(each.event_log_storage, EventLogStorage)
                parts = (each.event_log_storage, each.run_storage, each.schedule_storage)
                assert {make_url(vars(part)["postgres_url"]) for part in parts} == {url}
            # A connection for every call took more CPU of an idle machine than all else.
            assert (
                len({backend(part) for each in (instance, reopened) for part in (each.event_log_storage, each.run_storage)}) == 1
            )


def backend(storage: object) -> int:
    """Process ID of the server process that answers a storage."""
    with vars(storage)["_engine"].connect() as connection:
        return int(connection.scalar(text("SELECT pg_backend_pid()")))
