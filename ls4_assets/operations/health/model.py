"""What is observed of the platform (`facts.py`), and what is judged of it (`conditions.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Severity(IntEnum):
    """The exit statuses of `ls4 status --check`, which monitoring plug-ins share."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True)
class SensorFact:
    """A sensor or schedule. `seen_at`: its last tick; `error`: why that tick failed; `scanned_at`: its last good tick."""

    name: str
    is_on: bool
    seen_at: datetime | None = None
    scanned_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class Facts:
    """What was observed at `now`. Times are aware UTC; None: nothing was found, or it could not be asked.

    database_error, dagster_error: why a database does not answer. sensors: those that Dagster has records of, by name.
    daemon_seen_at: the newest heartbeat of the daemon. has_code_server: whether it accepts connections; None: its address is not
    in the workspace. has_run_server: whether the process that forks runs works; None: there is none.

    queued, in_progress: number of runs. queued_since: creation of the oldest queued run. run_changed_at: the
    last change of a run that has left the queue. failed_runs_per_hour: runs that failed within the last hour.

    frames: number of tifs by state. pending_since, frame_done_at: the oldest waiting tif, and the newest finished frame.
    open_files: open entries in the list of rejected files, by kind. failed_subjects: rebuilds and runs that failed and did not
    succeed since. held: deletions that wait for confirmation. unlisted: folders that scans cannot list.
    """

    now: datetime
    dagster_url: str = ""
    ingest_sensor: str = "ingest_poll"
    stall_seconds: float = 7200
    database_error: str | None = None
    dagster_error: str | None = None
    sensors: Mapping[str, SensorFact] = field(default_factory=dict)
    daemon_seen_at: datetime | None = None
    has_code_server: bool | None = None
    has_run_server: bool | None = None
    queued: int = 0
    queued_since: datetime | None = None
    in_progress: int = 0
    run_changed_at: datetime | None = None
    failed_runs_per_hour: int = 0
    frames: Mapping[str, int] = field(default_factory=dict)
    pending_since: datetime | None = None
    frame_done_at: datetime | None = None
    open_files: Mapping[str, int] = field(default_factory=dict)
    failed_subjects: int = 0
    held: int = 0
    unlisted: int = 0

    @property
    def scanned_at(self) -> datetime | None:
        """The last scan of the bucket."""
        sensor = self.sensors.get(self.ingest_sensor)
        return sensor.scanned_at if sensor else None


@dataclass(frozen=True)
class Condition:
    """Something that is wrong now. `subject`: the sensor, where each may have the condition."""

    name: str
    severity: Severity
    sentence: str
    advice: str
    subject: str = ""

    @property
    def key(self) -> str:
        """Unique among the conditions of one moment, and the same as long as the condition lasts."""
        return f"{self.name}/{self.subject}" if self.subject else self.name


@dataclass(frozen=True)
class Health:
    """`summary`: one line for people; `conditions`: the worst first."""

    severity: Severity
    summary: str
    conditions: tuple[Condition, ...]
