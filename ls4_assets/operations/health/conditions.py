"""The judgment of the platform's health: pure functions of facts. `facts.py` collects them, `model.py` defines them.

RULES is the table of everything that can be wrong. Where an alarm on AWS means the same, the condition has the alarm's name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ls4_assets.domain.printable import printable
from ls4_assets.operations.health.model import Condition, Facts, Health, SensorFact, Severity

Values = Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """`find` yields the values of `sentence` and `advice` for each case; `is_alarm`: the monitor reports it to people.

    Conditions without an alarm are reported by the sensor `notifications`, or by nobody, as they are no incident.
    """

    name: str
    severity: Severity
    find: Callable[[Facts], Iterator[Values]]
    sentence: str
    advice: str
    is_alarm: bool = False


# Without these sensors nothing that is dropped reaches the map, or nobody is notified of it; of the others, one that is off is
# only a warning. The ingest sensor is added to them.
ESSENTIAL_SENSORS = ("publish_collections", "notifications")
OTHER_SENSORS = ("statewide_exports", "archive_audit", "reconcile", "prune_history")

# The daemon's heartbeat is written every 30 s.
DAEMON_LIMIT = timedelta(seconds=90)
# A tick may take 60 s.
SENSOR_LIMIT = timedelta(minutes=3)
# The daemon takes runs from the queue every second; a limit of runs at a time explains a wait only while runs are in progress.
QUEUE_LIMIT = timedelta(minutes=3)
# As the alarm on AWS.
FAILED_RUNS_PER_HOUR = 10


def judge(facts: Facts) -> Health:
    """What is wrong, and the summary. A condition that another one explains is left out."""
    conditions = sorted(_conditions(facts), key=lambda condition: -condition.severity)
    severity = max((condition.severity for condition in conditions), default=Severity.OK)
    return Health(severity, _summarize(facts, severity, conditions), tuple(conditions))


def age(since: datetime, now: datetime) -> str:
    """The time since then, such as "4 s" or "2 min"."""
    seconds = max(0.0, (now - since).total_seconds())
    for limit, unit, name in ((100, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"


def _conditions(facts: Facts) -> Iterator[Condition]:
    for rule in RULES:
        for values in rule.find(facts):
            texts = {name: printable(str(value)) for name, value in values.items()}
            yield Condition(
                rule.name, rule.severity, rule.sentence.format(**texts), rule.advice.format(**texts), texts.get("subject", "")
            )


def _summarize(facts: Facts, severity: Severity, conditions: list[Condition]) -> str:
    if conditions:
        more = f" And {len(conditions) - 1} more." if len(conditions) > 1 else ""
        return f"{severity.name}: {conditions[0].sentence} {conditions[0].advice}{more}"
    scan = f"last scan {age(facts.scanned_at, facts.now)} ago" if facts.scanned_at else "not scanned yet"
    daemon = f"the daemon reported {age(facts.daemon_seen_at, facts.now)} ago" if facts.daemon_seen_at else "daemon starting"
    return f"OK: {scan}, {daemon}, {_number(facts.queued, 'run')} queued, {facts.in_progress} in progress."


def _database(facts: Facts) -> Iterator[Values]:
    if facts.database_error:
        yield {"reason": facts.database_error}


def _dagster(facts: Facts) -> Iterator[Values]:
    if facts.dagster_error and not facts.database_error:
        yield {"reason": facts.dagster_error}


def _answers(facts: Facts) -> bool:
    return not (facts.database_error or facts.dagster_error)


def _is_daemon_silent(facts: Facts) -> bool:
    return _answers(facts) and (facts.daemon_seen_at is None or facts.now - facts.daemon_seen_at > DAEMON_LIMIT)


def _daemon(facts: Facts) -> Iterator[Values]:
    if _is_daemon_silent(facts):
        yield {"since": f"for {age(facts.daemon_seen_at, facts.now)}" if facts.daemon_seen_at else "since its installation"}


def _code_server(facts: Facts) -> Iterator[Values]:
    if facts.has_code_server is False:
        yield {}


def _run_server(facts: Facts) -> Iterator[Values]:
    if facts.has_run_server is False:
        yield {}


def _is_off(facts: Facts, names: tuple[str, ...]) -> Iterator[Values]:
    page = f"{facts.dagster_url}/automation" if facts.dagster_url else "the page Automation of the Dagster UI"
    for name in names:
        if (sensor := facts.sensors.get(name)) and not sensor.is_on:
            yield {"subject": name, "page": page}


def _essential(facts: Facts) -> tuple[str, ...]:
    return (facts.ingest_sensor, *ESSENTIAL_SENSORS)


def _ticking(facts: Facts) -> Iterator[SensorFact]:
    """The essential sensors that should tick: they are on, and what evaluates them runs."""
    if _answers(facts) and not _is_daemon_silent(facts) and facts.has_code_server is not False:
        for name in _essential(facts):
            sensor = facts.sensors.get(name, SensorFact(name, is_on=True))
            if sensor.is_on:
                yield sensor


def _silent_sensors(facts: Facts) -> Iterator[Values]:
    for sensor in _ticking(facts):
        if sensor.seen_at is None:
            yield {"subject": sensor.name, "since": "has never run"}
        elif facts.now - sensor.seen_at > SENSOR_LIMIT:
            yield {"subject": sensor.name, "since": f"has not run for {age(sensor.seen_at, facts.now)}"}


def _failing_sensors(facts: Facts) -> Iterator[Values]:
    for sensor in _ticking(facts):
        if sensor.error:
            yield {"subject": sensor.name, "reason": sensor.error}


def _blocked_queue(facts: Facts) -> Iterator[Values]:
    if facts.queued_since is None or _is_daemon_silent(facts):
        return
    limit = QUEUE_LIMIT if not facts.in_progress else timedelta(seconds=facts.stall_seconds)
    newest = max(facts.queued_since, facts.run_changed_at or facts.queued_since)
    if facts.now - newest > limit:
        yield {"queued": _number(facts.queued, "run"), "since": age(newest, facts.now), "running": facts.in_progress}


def _stalled_frames(facts: Facts) -> Iterator[Values]:
    limit = timedelta(seconds=facts.stall_seconds)
    if facts.pending_since and facts.now - max(facts.pending_since, facts.frame_done_at or facts.pending_since) > limit:
        yield {"since": age(facts.pending_since, facts.now)}


def _failing_runs(facts: Facts) -> Iterator[Values]:
    if facts.failed_runs_per_hour >= FAILED_RUNS_PER_HOUR:
        yield {"count": _number(facts.failed_runs_per_hour, "run")}


def _above_zero(noun: str, count: Callable[[Facts], int]) -> Callable[[Facts], Iterator[Values]]:
    def find(facts: Facts) -> Iterator[Values]:
        if number := count(facts):
            yield {"count": _number(number, noun)}

    return find


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING
# A condition that explains others comes first.
RULES = (
    Rule(
        "DatabaseDown", CRITICAL, _database,
        "the database does not answer ({reason}).",
        "Start it (`ls4 demo`, or `docker compose up --detach postgres`), or correct LS4_DATABASE_URL.",
        is_alarm=True,
    ),
    Rule(
        "DagsterDatabaseDown", CRITICAL, _dagster,
        "Dagster's state cannot be read ({reason}).",
        "Start its database, or correct LS4_DAGSTER_DATABASE_URL and DAGSTER_HOME.",
        is_alarm=True,
    ),
    Rule(
        "ServiceDown-daemon", CRITICAL, _daemon,
        "the daemon has not reported {since}; nothing is scanned or started.",
        "Restart it: stop `ls4 demo` with Ctrl-C and start it again, or `docker compose restart daemon`.",
        is_alarm=True,
    ),
    Rule(
        "ServiceDown-code", CRITICAL, _code_server,
        "the code server does not answer; no sensor runs.",
        "Read its log (code-server.log, or `docker compose logs code`), fix the error, and restart it.",
        is_alarm=True,
    ),
    Rule(
        "SensorOff", CRITICAL, lambda facts: _is_off(facts, _essential(facts)),
        "sensor {subject} is OFF.",
        "Turn it on: {page}.",
        is_alarm=True,
    ),
    Rule(
        "SensorSilent", CRITICAL, _silent_sensors,
        "sensor {subject} {since}.",
        "Check that the code location is loaded (Dagster UI, Deployment), then restart the daemon.",
        is_alarm=True,
    ),
    Rule(
        "QueueBlocked", CRITICAL, _blocked_queue,
        "{queued} queued, and none has started for {since} ({running} in progress).",
        "Check the limits on the page Concurrency of the Dagster UI (Deployment), and cancel runs that hang.",
        is_alarm=True,
    ),
    Rule(
        "ServiceDown-warm", WARNING, _run_server,
        "the run server does not answer; runs start some seconds later.",
        "Read its log (run-server.log, or `docker compose logs runs`), fix the error, and restart it.",
    ),
    Rule(
        "SensorFailing", WARNING, _failing_sensors,
        "the last tick of sensor {subject} failed ({reason}).",
        "Fix the error; the next tick tries again.",
    ),
    Rule(
        "OtherSensorOff", WARNING, lambda facts: _is_off(facts, OTHER_SENSORS),
        "sensor or schedule {subject} is OFF.",
        "Turn it on: {page}.",
    ),
    Rule(
        "FramesStalled", WARNING, _stalled_frames,
        "frames have been waiting for {since}, and none was finished.",
        "Check the runs in the Dagster UI, and that no disk is full.",
    ),
    Rule(
        "RunsFailing", WARNING, _failing_runs,
        "{count} failed within an hour.",
        "Check the failed runs in the Dagster UI.",
    ),
    Rule(
        "FoldersUnlisted", WARNING, _above_zero("folder", lambda facts: facts.unlisted),
        "scans cannot list {count}.",
        "`ls4 status`, which the operator can run, lists them with the reasons.",
    ),
    Rule(
        "FilesFailed", WARNING, _above_zero("file", lambda facts: sum(facts.open_files.values())),
        "{count} could not be put on the map.",
        "The staff page and `ls4 status` list them with the reasons; correct them and drop them again.",
    ),
    Rule(
        "RebuildsFailed", WARNING, _above_zero("subject", lambda facts: facts.failed_subjects),
        "the last run for {count} failed (rebuilds of collections, or others).",
        "Check the failed runs in the Dagster UI.",
    ),
    Rule(
        "DeletionsHeld", WARNING, _above_zero("deletion", lambda facts: facts.held),
        "{count} not confirmed yet.",
        "Put the files back, or run `ls4 confirm-deletion NAME`.",
    ),
)  # fmt: skip
