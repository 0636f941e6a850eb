"""Collects the facts of the platform's health, from Postgres and from Dagster's instance. `conditions.py` judges them.

It works while any of the two databases, the daemon or the code server is down, and never waits for one of them for long. Dagster
is asked through its instance alone, which needs no code server.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy import Connection, exc, func, select

from ls4_assets.db import schema
from ls4_assets.db.schema import SourceState, failed_run, frame, rejection, source
from ls4_assets.db.warm_runs import has_warm_service
from ls4_assets.ingest.deletions import list_held_deletions
from ls4_assets.operations.health.model import Facts, SensorFact
from ls4_assets.runtime.instance import InstigatorState, InstigatorTick, TickStatus, open_instance
from ls4_assets.runtime.run_client import server_socket
from ls4_assets.settings import Settings
from resources.open import open_database_once

_CONNECT_SECONDS = 1.0
_IN_PROGRESS = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
_LEFT_QUEUE = [*_IN_PROGRESS, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_HAS_RUN = [TickStatus.SUCCESS, TickStatus.SKIPPED]


def collect_facts(
    settings: Settings,
    now: datetime | None = None,
    use_instance: Callable[[], AbstractContextManager[DagsterInstance]] = open_instance,
) -> Facts:
    """What can be observed now. Never raises because a database or a service is down."""
    facts = Facts(
        now=now or datetime.now(UTC),
        dagster_url=settings.dagster_url,
        ingest_sensor="ingest_events" if settings.events_queue_url else "ingest_poll",
        stall_seconds=settings.stall_alert_seconds,
        has_code_server=_has_code_server(),
        has_run_server=_has_run_server(),
    )
    try:
        with open_database_once(settings.database_url.get_secret_value()).connect() as connection:
            facts = replace(facts, **_archive_facts(connection, facts.now - timedelta(seconds=facts.stall_seconds)))
            if facts.has_run_server is None:
                facts = replace(facts, has_run_server=has_warm_service(connection))
    except (exc.OperationalError, exc.InterfaceError) as error:
        # Dagster's database is usually on the same server; its client would retry for a long time.
        return replace(facts, database_error=_first_line(error.orig))
    try:
        with use_instance() as instance:
            return replace(facts, **dagster_facts(instance, facts.now))
    except Exception as error:  # noqa: BLE001  # whatever is wrong with Dagster's state is a fact
        return replace(facts, dagster_error=_first_line(error))


def dagster_facts(instance: DagsterInstance, now: datetime) -> dict[str, Any]:
    """Sensors, daemon and runs."""
    heartbeats = [heartbeat.timestamp for heartbeat in instance.get_daemon_heartbeats().values()]
    oldest = instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.QUEUED]), limit=1, ascending=True)
    newest = instance.get_run_records(RunsFilter(statuses=_LEFT_QUEUE), limit=1, order_by="update_timestamp")
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=now - timedelta(hours=1))
    return {
        "sensors": {sensor.name: sensor for sensor in _sensors(instance)},
        "daemon_seen_at": _to_utc(max(heartbeats)) if heartbeats else None,
        "queued": instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED])) if oldest else 0,
        "queued_since": oldest[0].create_timestamp.replace(tzinfo=UTC) if oldest else None,
        "in_progress": instance.get_runs_count(RunsFilter(statuses=_IN_PROGRESS)),
        "run_changed_at": newest[0].update_timestamp.replace(tzinfo=UTC) if newest else None,
        "failed_runs_per_hour": instance.get_runs_count(failed),
    }


def _sensors(instance: DagsterInstance) -> Iterator[SensorFact]:
    """One for each name: a code location that was renamed leaves the state of its sensors, which have older ticks."""
    states = instance.all_instigator_state()
    last = instance.get_batch_ticks([state.selector_id for state in states], limit=1) if states else {}
    found: dict[str, list[SensorFact]] = {}
    for state in states:
        found.setdefault(state.name, []).append(_sensor(instance, state, last.get(state.selector_id, ())))
    start = datetime.min.replace(tzinfo=UTC)
    for sensors in found.values():
        yield max(sensors, key=lambda sensor: sensor.seen_at or start)


def _sensor(instance: DagsterInstance, state: InstigatorState, last: Sequence[InstigatorTick]) -> SensorFact:
    tick = next(iter(last), None)
    good = tick if tick and tick.status in _HAS_RUN else None
    if tick and not good:
        good = next(iter(instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=_HAS_RUN)), None)
    return SensorFact(
        name=state.name,
        is_on=state.is_running,
        seen_at=_to_utc(tick.timestamp) if tick else None,
        scanned_at=_to_utc(good.end_timestamp or good.timestamp) if good else None,
        error=_first_line(tick.error.message) if tick and tick.status == TickStatus.FAILURE and tick.error else None,
    )


def _archive_facts(connection: Connection, stalled_before: datetime) -> dict[str, Any]:
    counts = select(source.c.state, func.count()).where(source.c.state != SourceState.DELETED).group_by(source.c.state)
    is_open = rejection.c.resolved_at.is_(None)
    kinds = select(rejection.c.kind, func.count()).where(is_open).group_by(rejection.c.kind)
    pending_since = connection.scalar(select(func.min(source.c.pending_since)).where(source.c.pending_since.is_not(None)))
    # The newest of millions of frames is read only when it decides something.
    is_late = pending_since is not None and pending_since < stalled_before
    return {
        "frames": dict(connection.execute(counts).tuples().all()),
        "pending_since": pending_since,
        "frame_done_at": connection.scalar(select(func.max(frame.c.updated_at))) if is_late else None,
        "open_files": dict(connection.execute(kinds).tuples().all()),
        "failed_subjects": connection.scalar(select(func.count()).select_from(failed_run)) or 0,
        "held": sum(deletion.held for deletion in list_held_deletions(connection)),
        "unlisted": connection.scalar(select(func.count()).select_from(schema.unlisted_folder)) or 0,
    }


def _has_code_server() -> bool | None:
    """Whether every code server that the workspace names accepts connections; None: it names none."""
    servers = list(_code_servers())
    return all(_accepts(host, port) for host, port in servers) if servers else None


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _has_run_server() -> bool | None:
    """Whether the run server of this machine accepts connections; None: it has none, but may have the warm service."""
    path = server_socket()
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        return connection.connect_ex(str(path)) == 0


def _code_servers() -> Iterator[tuple[str, int]]:
    """The addresses in the workspace file of DAGSTER_HOME."""
    try:
        workspace = yaml.safe_load((Path(os.environ.get("DAGSTER_HOME", "")) / "workspace.yaml").read_text())
    except OSError:
        return
    for location in workspace.get("load_from", []):
        if server := location.get("grpc_server"):
            host = server.get("host", "localhost")
            yield (os.environ.get(host["env"], "") if isinstance(host, dict) else host), int(server["port"])


def _to_utc(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
