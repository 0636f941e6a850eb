"""The judgment of the platform's health: a table of facts and what they mean; and the messages of the dead-man's alarm."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ls4_assets.errors import NotificationError
from ls4_assets.operations.health.alarms import Alarms
from ls4_assets.operations.health.conditions import ESSENTIAL_SENSORS, OTHER_SENSORS, RULES, age, judge
from ls4_assets.operations.health.metrics import METRICS, PlatformMetrics
from ls4_assets.operations.health.model import Facts, SensorFact, Severity
from ls4_assets_tests.platform import definitions_of
from mapserver.metrics import MAP_METRICS, Outcome, render_metrics
from resources.archive import Archive

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def sensors(**changed: Any) -> dict[str, SensorFact]:
    """All of them on and ticking, but for the changes to `ingest_poll`."""
    names = ("ingest_poll", *ESSENTIAL_SENSORS, *OTHER_SENSORS)
    healthy = {name: SensorFact(name, is_on=True, seen_at=ago(seconds=4), scanned_at=ago(seconds=4)) for name in names}
    return healthy | {"ingest_poll": replace(healthy["ingest_poll"], **changed)}


HEALTHY = Facts(
    now=NOW, dagster_url="http://127.0.0.1:3000", sensors=sensors(), daemon_seen_at=ago(seconds=30), has_code_server=True
)

# What is found, by the facts that differ from healthy ones. Each begins the summary.
CASES: list[tuple[dict[str, Any], list[str], str]] = [
    ({}, [], "OK: last scan 4 s ago, the daemon reported 30 s ago, 0 runs queued, 0 in progress."),
    ({"has_code_server": None}, [], "OK: last scan 4 s ago"),
    ({"database_error": "no route to host"}, ["DatabaseDown"], "CRITICAL: the database does not answer (no route to host)."),
    (
        {"dagster_error": "no route to host", "daemon_seen_at": None, "sensors": {}},
        ["DagsterDatabaseDown"],
        "CRITICAL: Dagster's state cannot be read (no route to host).",
    ),
    (
        {"daemon_seen_at": ago(minutes=2), "sensors": sensors(seen_at=ago(minutes=9))},
        ["ServiceDown-daemon"],
        "CRITICAL: the daemon has not reported for 2 min; nothing is scanned or started. Restart it: ",
    ),
    ({"daemon_seen_at": None}, ["ServiceDown-daemon"], "CRITICAL: the daemon has not reported since its installation"),
    ({"has_code_server": False}, ["ServiceDown-code"], "CRITICAL: the code server does not answer; no sensor runs. Read its log"),
    ({"has_run_server": True}, [], "OK: last scan 4 s ago"),
    ({"has_run_server": False}, ["ServiceDown-warm"], "WARNING: the run server does not answer; runs start some seconds later."),
    (
        {"sensors": sensors(is_on=False, seen_at=ago(days=3))},
        ["SensorOff"],
        "CRITICAL: sensor ingest_poll is OFF. Turn it on: http://127.0.0.1:3000/automation.",
    ),
    (
        {"sensors": sensors(is_on=False), "dagster_url": ""},
        ["SensorOff"],
        "CRITICAL: sensor ingest_poll is OFF. Turn it on: the page Automation of the Dagster UI.",
    ),
    (
        {"ingest_sensor": "ingest_events", "sensors": sensors(is_on=False)},
        ["SensorSilent"],
        "CRITICAL: sensor ingest_events has never run.",
    ),
    ({"sensors": sensors(seen_at=ago(minutes=5))}, ["SensorSilent"], "CRITICAL: sensor ingest_poll has not run for 5 min."),
    (
        {"sensors": sensors(error="No space left")},
        ["SensorFailing"],
        "WARNING: the last tick of sensor ingest_poll failed (No space left).",
    ),
    (
        {"sensors": sensors() | {"reconcile": SensorFact("reconcile", is_on=False)}},
        ["OtherSensorOff"],
        "WARNING: sensor or schedule reconcile is OFF.",
    ),
    (
        {"queued": 3, "queued_since": ago(minutes=10)},
        ["QueueBlocked"],
        "CRITICAL: 3 runs queued, and none has started for 10 min (0 in progress).",
    ),
    ({"queued": 1, "queued_since": ago(minutes=10), "run_changed_at": ago(minutes=1)}, [], "OK: "),
    # A full queue behind runs that take an hour is not blocked.
    ({"queued": 20, "queued_since": ago(hours=1), "in_progress": 4, "run_changed_at": ago(hours=1)}, [], "OK: "),
    (
        {"queued": 20, "queued_since": ago(hours=5), "in_progress": 4, "run_changed_at": ago(hours=3)},
        ["QueueBlocked"],
        "CRITICAL: 20 runs queued, and none has started for 3 h (4 in progress).",
    ),
    ({"pending_since": ago(hours=3)}, ["FramesStalled"], "WARNING: frames have been waiting for 3 h, and none was finished."),
    ({"pending_since": ago(hours=3), "frame_done_at": ago(minutes=5)}, [], "OK: "),
    ({"failed_runs_per_hour": 10}, ["RunsFailing"], "WARNING: 10 runs failed within an hour."),
    ({"failed_runs_per_hour": 9}, [], "OK: "),
    ({"unlisted": 1}, ["FoldersUnlisted"], "WARNING: scans cannot list 1 folder."),
    ({"open_files": {"failed": 2, "rejected": 1}}, ["FilesFailed"], "WARNING: 3 files could not be put on the map."),
    ({"failed_subjects": 1}, ["RebuildsFailed"], "WARNING: the last run for 1 subject failed"),
    ({"held": 21}, ["DeletionsHeld"], "WARNING: 21 deletions not confirmed yet."),
]


@pytest.mark.parametrize(("changes", "names", "summary"), CASES, ids=lambda value: str(value)[:40])
def test_condition(changes: dict[str, Any], names: list[str], summary: str) -> None:
    """A platform whose sensors were off looked healthy: "9 done, 0 waiting"."""
    health = judge(replace(HEALTHY, **changes))
    assert [condition.name for condition in health.conditions] == names
    assert health.summary.startswith(summary)
    assert health.severity == max((each.severity for each in health.conditions), default=Severity.OK)
    assert all(each.sentence and each.advice.endswith(".") for each in health.conditions)


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == {name for _, names, _ in CASES for name in names}


def test_worst_condition_comes_first_and_the_others_are_counted() -> None:
    health = judge(replace(HEALTHY, held=1, unlisted=2, has_code_server=False))
    assert [each.severity for each in health.conditions] == [Severity.CRITICAL, Severity.WARNING, Severity.WARNING]
    assert health.summary.startswith("CRITICAL: the code server") and health.summary.endswith("And 2 more.")


def test_names_of_files_in_errors_are_printable() -> None:
    health = judge(replace(HEALTHY, sensors=sensors(error="\x1b[2Jred.tif")))
    assert "\x1b" not in health.summary


def test_sensors_are_those_of_the_definitions() -> None:
    """A sensor that was renamed would be reported as one that has never run."""
    definitions = definitions_of(Archive(overrides={"storage": "/tmp", "database_url": "x", "public_url": "x", "map_url": "x"}))
    repository = definitions.get_repository_def()
    names = {sensor.name for sensor in repository.sensor_defs} | {schedule.name for schedule in repository.schedule_defs}
    assert names == {"ingest_poll", *ESSENTIAL_SENSORS, *OTHER_SENSORS}


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ({"seconds": 4}, "4 s"),
        ({"minutes": 2}, "2 min"),
        ({"hours": 3}, "3 h"),
        ({"days": 5}, "5 days"),
        ({"seconds": -3}, "0 s"),
    ],
)
def test_age(time: dict[str, float], text: str) -> None:
    assert age(ago(**time), NOW) == text


@dataclass
class Channel:
    """A notification channel that may be down."""

    is_down: bool = False
    sent: list[tuple[str, str]] = field(default_factory=list)

    def send(self, subject: str, body: str) -> None:
        if self.is_down:
            raise NotificationError("down")
        self.sent.append((subject, body))


WELL = judge(HEALTHY)
SILENT = judge(replace(HEALTHY, daemon_seen_at=ago(minutes=2)))
SILENT_LATER = judge(replace(HEALTHY, daemon_seen_at=ago(minutes=9)))
OFF = judge(replace(HEALTHY, sensors=sensors(is_on=False)))
DOWN = judge(replace(HEALTHY, database_error="no route"))


def test_incident_is_reported_once_and_when_it_is_over(tmp_path: Path) -> None:
    """The messages about a stopped platform came from a sensor, which had stopped too."""
    channel = Channel()
    alarms = Alarms(tmp_path / "alarms.json", channel, hold_seconds=60, dagster_url="http://127.0.0.1:3000")
    for second, health in enumerate([WELL, SILENT, SILENT, SILENT_LATER, SILENT_LATER, WELL, WELL, WELL, WELL]):
        alarms.report(health, 30.0 * second)
    (opened, body), (resolved, _) = channel.sent
    assert opened == "ls4: the platform has stopped: the daemon has not reported for 9 min; nothing is scanned or started."
    assert "What to do: Restart it" in body and "http://127.0.0.1:3000" in body
    assert resolved.startswith("ls4: resolved: the daemon has not reported")


def test_condition_that_is_over_at_once_is_not_reported(tmp_path: Path) -> None:
    channel = Channel()
    alarms = Alarms(tmp_path / "alarms.json", channel, hold_seconds=60)
    for second, health in enumerate([WELL, SILENT, WELL, SILENT, WELL, SILENT]):
        alarms.report(health, 30.0 * second)
    assert channel.sent == []


def test_restarted_monitor_does_not_report_again(tmp_path: Path) -> None:
    channel = Channel()
    Alarms(tmp_path / "alarms.json", channel, hold_seconds=0).report(OFF, 0)
    Alarms(tmp_path / "alarms.json", channel, hold_seconds=0).report(OFF, 0)
    assert [subject for subject, _ in channel.sent] == ["ls4: the platform has stopped: sensor ingest_poll is OFF."]
    Alarms(tmp_path / "alarms.json", channel, hold_seconds=0).report(WELL, 0)
    assert json.loads((tmp_path / "alarms.json").read_text()) == {} and len(channel.sent) == 2


def test_message_that_was_not_accepted_is_sent_again(tmp_path: Path) -> None:
    channel = Channel(is_down=True)
    alarms = Alarms(tmp_path / "alarms.json", channel, hold_seconds=0)
    alarms.report(OFF, 0)
    channel.is_down = False
    alarms.report(OFF, 10)
    assert len(channel.sent) == 1


def test_database_that_is_down_hides_other_incidents_but_does_not_resolve_them(tmp_path: Path) -> None:
    channel = Channel()
    alarms = Alarms(tmp_path / "alarms.json", channel, hold_seconds=0)
    for second, health in enumerate([OFF, DOWN, OFF, WELL]):
        alarms.report(health, second)
    assert [subject.split(":")[1].strip() for subject, _ in channel.sent] == ["the platform has stopped"] * 2 + ["resolved"]


def test_warnings_are_no_alarm(tmp_path: Path) -> None:
    """The sensor `notifications` reports them, with the names of the files."""
    channel = Channel()
    Alarms(tmp_path / "alarms.json", channel, hold_seconds=0).report(judge(replace(HEALTHY, held=1)), 0)
    assert channel.sent == []


def parse(text: str) -> dict[tuple[str, str], float]:
    """The samples by name and values of labels, as Prometheus reads them."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_those_of_the_reference() -> None:
    metrics = PlatformMetrics()
    facts = replace(
        HEALTHY,
        queued=2,
        queued_since=ago(seconds=90),
        frames={"done": 7},
        open_files={"failed": 1},
        pending_since=ago(minutes=1),
    )
    metrics.update(facts, judge(facts))
    values = parse(metrics.render().decode())
    assert values["ls4_queue_age_seconds", ""] == 90
    assert values["ls4_frames", "done"] == 7 and values["ls4_frames", "queued"] == 0
    assert values["ls4_failures", "failed"] == 1
    assert values["ls4_health", ""] == 1 and values["ls4_condition", "FilesFailed"] == 1
    assert values["ls4_sensor_on", "ingest_poll"] == 1
    assert values["ls4_last_scan_timestamp_seconds", ""] == ago(seconds=4).timestamp()
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert {(family.name, family.type) for family in families} == {(metric.name, metric.kind) for metric in METRICS}


def test_values_that_cannot_be_observed_are_left_out() -> None:
    """A queue of zero runs while the database is down would look like an idle platform."""
    metrics = PlatformMetrics()
    metrics.update(HEALTHY, WELL)
    metrics.update(replace(HEALTHY, database_error="no route", sensors={}), DOWN)
    values = parse(metrics.render().decode())
    assert values["ls4_health", ""] == 2
    for name in ("ls4_runs", "ls4_frames", "ls4_sensor_on"):
        assert not [key for key in values if key[0] == name]


def test_metrics_of_map_requests_are_parsed() -> None:
    text = render_metrics(Counter({Outcome.ANSWERED: 5}), waiting=2, busy=1)
    values = parse(text)
    assert values["ls4_map_requests_total", "answered"] == 5 and values["ls4_map_requests_total", "crashed"] == 0
    assert values["ls4_map_requests_waiting", ""] == 2 and values["ls4_map_workers_busy", ""] == 1
    families = {(family.name, family.type) for family in text_string_to_metric_families(text)}
    assert families == {(name, kind) for name, kind, *_ in MAP_METRICS}
