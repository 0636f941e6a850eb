"""Failed runs, recorded until a later run of the same subject succeeds.

They are read from Dagster's run storage, from a cursor on. So all runs count, however they started (sensor, person, backfill) and
failed (exception, crash). A run that fails only because of bad frames is not recorded: those frames are in the table `rejection`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from sqlalchemy import Engine, delete
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.assets import keys
from ls4_assets.db.schema import failed_run
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS
from ls4_assets.notifications.planner import IncidentKind
from ls4_assets.runtime.dagster_names import PARTITION_TAG

# The next tick reads the rest.
RUNS_PER_TICK = 300
# Rows become visible shortly after their timestamp, so this much time is read again. Reading a run twice changes nothing.
_OVERLAP = timedelta(seconds=10)
# How far back the very first tick reads.
_INITIAL_PERIOD = timedelta(hours=1)
_MAX_REASON_LENGTH = 1_000


@dataclass(frozen=True)
class RunSubject:
    """What a run works on. A later success on the same subject resolves the failure."""

    kind: IncidentKind
    scope: str


def identify_subject(run: DagsterRun) -> RunSubject:
    """The subject, from tags and selected assets: runs of a backfill do not carry the tags of ls4."""
    if collection := run.tags.get(keys.COLLECTION_TAG):
        return RunSubject(IncidentKind.REBUILD, collection)
    selected = {tuple(key.path) for key in run.asset_selection or () if len(key.path) == 2}
    shards = {shard for shard, _ in selected}
    if len(shards) != 1:
        return RunSubject(IncidentKind.RUN, run.job_name)
    (shard,) = shards
    assets = {asset for _, asset in selected}
    partition = run.tags.get(PARTITION_TAG)
    if partition and assets <= set(COLLECTION_STEPS):
        try:
            return RunSubject(IncidentKind.REBUILD, Collection.from_partition(shard, partition).name)
        except ValueError:
            pass  # a partition that a person added in the Dagster UI
    return RunSubject(IncidentKind.RUN, f"{'frames' if assets <= set(STEPS) else 'collections'} of {shard}")


def record_finished_runs(instance: DagsterInstance, engine: Engine, since: datetime | None, now: datetime) -> datetime:
    """Record the runs that finished after `since`, oldest first. Returns the time from which the next call continues."""
    start = since or now - _INITIAL_PERIOD
    finished = RunsFilter(statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE], updated_after=start)
    records = instance.get_run_records(finished, limit=RUNS_PER_TICK, order_by="update_timestamp", ascending=True)
    for record in records:
        _record_run(instance, engine, record)
    if not records:
        return start
    last = records[-1].update_timestamp.replace(tzinfo=UTC)
    return last if len(records) == RUNS_PER_TICK else max(start, last - _OVERLAP)


def _record_run(instance: DagsterInstance, engine: Engine, record: RunRecord) -> None:
    run, subject = record.dagster_run, identify_subject(record.dagster_run)
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp.replace(tzinfo=UTC)
    reason = _failure_reason(instance, run) if run.status == DagsterRunStatus.FAILURE else None
    row = insert(failed_run).values(kind=subject.kind, scope=subject.scope, run=run.run_id, reason=reason or "", failed_at=ended)
    is_same_subject = (failed_run.c.kind == subject.kind, failed_run.c.scope == subject.scope)
    # `failed_at` stays the time of the first failure.
    upsert = row.on_conflict_do_update(
        index_elements=[failed_run.c.kind, failed_run.c.scope],
        set_={"run": row.excluded.run, "reason": row.excluded.reason},
    )
    with engine.begin() as connection:
        connection.execute(upsert if reason else delete(failed_run).where(*is_same_subject))


def _failure_reason(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """The error message of the run; None if it failed only because of bad frames."""
    event_types = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    events = [
        record.event_log_entry for record in instance.get_records_for_run(run.run_id, of_type=event_types, limit=20).records
    ]
    for entry in events:
        event = entry.dagster_event
        if event and event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data:
                return None
            cause = data.error.cause if data.error and data.error.cause else data.error
            return _shorten(cause.message if cause else event.message)
    messages = [entry.dagster_event.message for entry in events if entry.dagster_event and entry.dagster_event.message]
    return _shorten(messages[-1] if messages else None)


def _shorten(message: str | None) -> str:
    text = " ".join((message or "Its process ended without a message.").split())
    return text if len(text) <= _MAX_REASON_LENGTH else f"{text[:_MAX_REASON_LENGTH]}…"
