"""Runs that failed, kept until a later run of the same ends well: read from Dagster's run storage since a cursor.

So it does not matter how a run began or ended: a sensor's, a person's or a backfill's, failed in its code, or found dead. A run
over frames that ends by naming bad ones did its work: those are in the source table, and told of from there.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import PARTITION_NAME_TAG
from sqlalchemy import Engine, delete
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.assets import keys
from ls4_assets.db.schema import failed_run
from ls4_assets.domain.names import COLLECTION_STEPS, STEPS, Collection
from ls4_assets.notifications.planner import Kind

# Of a look; more wait for the next.
RUNS_PER_LOOK = 300
# Rows become visible a moment after their time: this much is read again, which changes nothing.
_OVERLAP = timedelta(seconds=10)
# Where the first look of all begins.
_FIRST_LOOK = timedelta(hours=1)
_LONGEST_REASON = 1_000


@dataclass(frozen=True)
class Subject:
    """What a run works on; a later run of the same subject tells whether it is well again."""

    kind: Kind
    place: str


def subject_of(run: DagsterRun) -> Subject:
    """Read from tags and assets, as the runs of a backfill carry none of our tags."""
    if collection := run.tags.get(keys.COLLECTION_TAG):
        return Subject(Kind.REBUILD, collection)
    selected = {tuple(key.path) for key in run.asset_selection or () if len(key.path) == 2}
    shards = {shard for shard, _ in selected}
    if len(shards) != 1:
        return Subject(Kind.RUN, run.job_name)
    (shard,) = shards
    assets = {asset for _, asset in selected}
    partition = run.tags.get(PARTITION_NAME_TAG)
    if partition and assets <= set(COLLECTION_STEPS):
        try:
            return Subject(Kind.REBUILD, Collection.from_partition(shard, partition).name)
        except ValueError:
            pass  # a partition that somebody added by hand
    return Subject(Kind.RUN, f"{'frames' if assets <= set(STEPS) else 'collections'} of {shard}")


def note_finished_runs(instance: DagsterInstance, engine: Engine, since: datetime | None, now: datetime) -> datetime:
    """Note the runs that finished since a moment, the oldest first. Returns where the next look goes on."""
    start = since or now - _FIRST_LOOK
    finished = RunsFilter(statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE], updated_after=start)
    records = instance.get_run_records(finished, limit=RUNS_PER_LOOK, order_by="update_timestamp", ascending=True)
    for record in records:
        _note(instance, engine, record)
    if not records:
        return start
    last = records[-1].update_timestamp.replace(tzinfo=UTC)
    return last if len(records) == RUNS_PER_LOOK else max(start, last - _OVERLAP)


def _note(instance: DagsterInstance, engine: Engine, record: RunRecord) -> None:
    run, subject = record.dagster_run, subject_of(record.dagster_run)
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp.replace(tzinfo=UTC)
    reason = _why(instance, run) if run.status == DagsterRunStatus.FAILURE else None
    row = insert(failed_run).values(kind=subject.kind, place=subject.place, run=run.run_id, reason=reason or "", failed_at=ended)
    same = (failed_run.c.kind == subject.kind, failed_run.c.place == subject.place)
    # The time stays the first failure's; a run that was read before is no newer failure.
    again = row.on_conflict_do_update(
        index_elements=[failed_run.c.kind, failed_run.c.place],
        set_={"run": row.excluded.run, "reason": row.excluded.reason},
    )
    with engine.begin() as connection:
        connection.execute(again if reason else delete(failed_run).where(*same))


def _why(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """In the run's own words; None when it only tells of frames at fault."""
    about = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    events = [record.event_log_entry for record in instance.get_records_for_run(run.run_id, of_type=about, limit=20).records]
    for entry in events:
        event = entry.dagster_event
        if event and event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data:
                return None
            cause = data.error.cause if data.error and data.error.cause else data.error
            return _plain(cause.message if cause else event.message)
    messages = [entry.dagster_event.message for entry in events if entry.dagster_event and entry.dagster_event.message]
    return _plain(messages[-1] if messages else None)


def _plain(message: str | None) -> str:
    text = " ".join((message or "Its process ended without a word.").split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
