"""The launchers' side of the warm service: offer a run, examine it, interrupt it.

The service is ``warm_service.py``; the rows between both are in `ls4_assets.db.warm_runs`. ``ecs_launcher.py`` and
``local_launcher.py`` decide which runs they offer, and start them their own way when the service is full or down.
"""

import time
from collections.abc import Iterator

from dagster import DagsterInstance, DagsterRun
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value
from sqlalchemy import Engine

from ls4_assets.db import warm_runs
from ls4_assets.db.warm_runs import WarmRun
from ls4_assets.settings import load_settings
from resources.open import open_database

# A server claims an offered run within milliseconds, because PostgreSQL notifies it.
_CLAIM_SECONDS = 5.0
_POLL_SECONDS = 0.02
# A silent server is given up only after this process has found it silent for so long: after an outage of the database, no
# server has a recent heartbeat until it has reconnected.
_EVICTION_SECONDS = 30.0
# By server. Of the process, because each tick of a sensor has a launcher of its own.
_silent_since: dict[str, float] = {}

# The metadata of the event of a start. Not `pid`, which is Dagster's name of a process on this machine.
_SERVER = "warm_server"
_LOST = "its process in the warm service no longer exists"
_EVICTED = "the warm service that executed it is down"


class WarmClient:
    """The warm service as one process sees it. `seconds`: time after which a silent server is given up."""

    def __init__(self, eviction_seconds: float = _EVICTION_SECONDS) -> None:
        self._eviction_seconds = eviction_seconds

    @property
    def _database(self) -> Engine:
        return open_database(load_settings().database_url.get_secret_value())

    def start(self, instance: DagsterInstance, run: DagsterRun, memory_mb: int) -> bool:
        """Start a run that needs `memory_mb`; returns False when the service is full, too small or down."""
        assert run.job_code_origin is not None  # every launched run has one
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, instance.get_ref(), set_exit_code_on_failure=True)
        server = warm_runs.offer_run(self._database, run.run_id, serialize_value(arguments), memory_mb)
        if server is None:
            return False
        if not self._is_claimed(run.run_id) and warm_runs.withdraw_offer(self._database, run.run_id):
            return False
        instance.report_engine_event("The warm service started the run.", run, EngineEventData({_SERVER: server}))
        return True

    def check_health(self, run_id: str) -> CheckRunHealthResult:
        """Health of a run that the service has started."""
        run = self._load(run_id)
        if run is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, _LOST)
        if not run.is_silent:
            _silent_since.pop(run.server, None)
        elif time.monotonic() - _silent_since.setdefault(run.server, time.monotonic()) >= self._eviction_seconds:
            warm_runs.evict_server(self._database, run.server)
            return CheckRunHealthResult(WorkerStatus.FAILED, _EVICTED)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def interrupt(self, run_id: str) -> bool:
        """Interrupt a run; returns False when the service does not have it."""
        return warm_runs.interrupt_run(self._database, run_id)

    def has(self, run_id: str) -> bool:
        """Whether the service starts or executes this run."""
        return self._load(run_id) is not None

    def has_lost(self, instance: DagsterInstance, run: DagsterRun) -> bool:
        """Whether the service has started a run whose process no longer exists."""
        return self.has_started(instance, run) and self.check_health(run.run_id).status == WorkerStatus.FAILED

    def has_started(self, instance: DagsterInstance, run: DagsterRun) -> bool:
        """Whether the service started a run, which may have ended since."""
        return any(_SERVER in data.metadata for data, _ in engine_events(instance, run))

    def _is_claimed(self, run_id: str) -> bool:
        """Whether a server starts an offered run in time. One that has ended already is no longer there."""
        deadline = time.monotonic() + _CLAIM_SECONDS
        with self._database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while (run := warm_runs.load_run(connection, run_id)) and run.pid is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        return run is None or run.pid is not None

    def _load(self, run_id: str) -> WarmRun | None:
        with self._database.connect() as connection:
            return warm_runs.load_run(connection, run_id)


def engine_events(instance: DagsterInstance, run: DagsterRun) -> Iterator[tuple[EngineEventData, float]]:
    """The engine events of a run, each with its time."""
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        if isinstance(data, EngineEventData):
            yield data, entry.timestamp
