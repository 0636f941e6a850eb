"""The metrics of the platform in Prometheus's text format, from the facts of its health. The monitor writes them to a file.

METRICS lists all of them; docs/reference/alarms.md is generated from it. Those of map requests come from the dispatcher
(`mapserver.dispatcher`), and nginx adds them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from ls4_assets.db.schema import SourceState
from ls4_assets.operations.health.conditions import RULES
from ls4_assets.operations.health.model import Facts, Health
from ls4_assets.runtime.run_line import KIND_TAG

# Rebuilds take a second, a hundred large frames hours.
_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200)
_FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
# Finished runs that are read at once, and the overlap of two readings: transactions may commit in another order.
_RUNS_PER_UPDATE, _OVERLAP = 500, timedelta(minutes=1)


@dataclass(frozen=True)
class Metric:
    """One metric for the reference. `kind` and `labels` are Prometheus's."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS = (
    Metric("ls4_health", "gauge", (), "0: OK, 1: warning, 2: critical"),
    Metric("ls4_condition", "gauge", ("name",), "number of cases of each condition"),
    Metric("ls4_facts_timestamp_seconds", "gauge", (), "time at which the monitor collected these values"),
    Metric("ls4_last_scan_timestamp_seconds", "gauge", (), "time of the last scan of the bucket"),
    Metric("ls4_daemon_heartbeat_timestamp_seconds", "gauge", (), "time of the daemon's last heartbeat"),
    Metric("ls4_sensor_on", "gauge", ("sensor",), "1: the sensor or schedule is on, 0: off"),
    Metric("ls4_sensor_tick_timestamp_seconds", "gauge", ("sensor",), "time of the last tick of a sensor or schedule"),
    Metric("ls4_queue_age_seconds", "gauge", (), "time that the oldest queued run has waited; 0: the queue is empty"),
    Metric("ls4_runs", "gauge", ("state",), "number of runs that are queued or in progress"),
    Metric("ls4_frames_age_seconds", "gauge", (), "time that the oldest unprocessed tif has waited; 0: none waits"),
    Metric("ls4_frames", "gauge", ("state",), "number of tifs in georef/ by state"),
    Metric("ls4_failures", "gauge", ("kind",), "open failures: rejected and failed files, and failed rebuilds and runs (run)"),
    Metric(
        "ls4_run_duration_seconds",
        "histogram",
        ("kind", "status"),
        "durations of the runs that finished since the monitor started",
    ),
)
_BY_NAME = {metric.name: metric for metric in METRICS}


class PlatformMetrics:
    """The metrics of one monitor."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges = {
            metric.name: Gauge(metric.name, metric.meaning, metric.labels, registry=self._registry)
            for metric in METRICS
            if metric.kind == "gauge"
        }
        durations = _BY_NAME["ls4_run_duration_seconds"]
        self._durations = Histogram(
            durations.name, durations.meaning, durations.labels, buckets=_BUCKETS, registry=self._registry
        )
        self._runs_read_until = datetime.now(UTC)
        self._counted: dict[str, datetime] = {}

    def update(self, facts: Facts, health: Health) -> None:
        """Set the gauges. Values that could not be observed are left out."""
        for gauge in self._gauges.values():
            gauge.clear()
        self._set("ls4_health", health.severity)
        for rule in RULES:
            self._set("ls4_condition", sum(each.name == rule.name for each in health.conditions), rule.name)
        self._set("ls4_facts_timestamp_seconds", facts.now.timestamp())
        self._set_time("ls4_last_scan_timestamp_seconds", facts.scanned_at)
        self._set_time("ls4_daemon_heartbeat_timestamp_seconds", facts.daemon_seen_at)
        for sensor in facts.sensors.values():
            self._set("ls4_sensor_on", sensor.is_on, sensor.name)
            self._set_time("ls4_sensor_tick_timestamp_seconds", sensor.seen_at, sensor.name)
        if not (facts.database_error or facts.dagster_error):
            self._set("ls4_queue_age_seconds", _age(facts.queued_since, facts.now))
            self._set("ls4_runs", facts.queued, "queued")
            self._set("ls4_runs", facts.in_progress, "in_progress")
        if not facts.database_error:
            self._set("ls4_frames_age_seconds", _age(facts.pending_since, facts.now))
            for state in _states():
                self._set("ls4_frames", facts.frames.get(state, 0), state)
            for kind in ("rejected", "failed"):
                self._set("ls4_failures", facts.open_files.get(kind, 0), kind)
            self._set("ls4_failures", facts.failed_subjects, "run")

    def count_runs(self, instance: DagsterInstance) -> None:
        """Add the durations of the runs that finished since the last call."""
        finished = RunsFilter(statuses=_FINISHED, updated_after=self._runs_read_until - _OVERLAP)
        records = instance.get_run_records(finished, limit=_RUNS_PER_UPDATE, order_by="update_timestamp", ascending=True)
        for record in records:
            run, updated = record.dagster_run, record.update_timestamp.replace(tzinfo=UTC)
            if run.run_id in self._counted or updated < self._runs_read_until - _OVERLAP or not record.end_time:
                continue
            self._counted[run.run_id] = updated
            kind, status = run.tags.get(KIND_TAG, "manual"), run.status.value.lower()
            self._durations.labels(kind, status).observe(record.end_time - (record.start_time or record.end_time))
        if records:
            self._runs_read_until = max(self._runs_read_until, records[-1].update_timestamp.replace(tzinfo=UTC))
        limit = self._runs_read_until - 2 * _OVERLAP
        self._counted = {run: updated for run, updated in self._counted.items() if updated > limit}

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)

    def _set(self, name: str, value: float, *labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def _set_time(self, name: str, time: datetime | None, *labels: str) -> None:
        if time:
            self._set(name, time.timestamp(), *labels)


def _states() -> Iterable[SourceState]:
    return (state for state in SourceState if state != SourceState.DELETED)


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0
