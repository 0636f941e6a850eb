"""Messages to people through SNS, with real boto3, Postgres and a Dagster instance: few, once, and told to be over.

Time is moved in the tables, as no test waits for an hour.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import dagster as dg
import pytest
from dagster import DagsterRunStatus
from sqlalchemy import text

from ls4_assets.assets import keys
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import free_port
from ls4_assets.notifications.dispatch import Telling, dispatch_notifications
from ls4_assets.notifications.failed_runs import subject_of
from ls4_assets.notifications.planner import Kind
from ls4_assets.notifications.rejections import STAFF_KEY
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.s3_servers import REGION, aws_environment, moto_server

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient
    from mypy_boto3_sqs.client import SQSClient

FOLDER = "bw/Travis/USDA_1958/frames/georef"
COLLECTION = "Travis_USDA_1958_frames"
MISSPELT = "bw/Traviss/USDA_1958/frames/georef"


@dataclass(frozen=True)
class Topic:
    """A topic with a queue that gets its messages, as an operator's mailbox would."""

    arn: str
    endpoint_url: str
    sns: "SNSClient"
    sqs: "SQSClient"
    queue: str

    def received(self) -> list[tuple[str, str]]:
        """Subject and body of the messages since the last call."""
        found: list[tuple[str, str]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                told = json.loads(message["Body"])
                found.append((told["Subject"], told["Message"]))
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture(scope="module")
def topic() -> Iterator[Topic]:
    with aws_environment(), moto_server() as server:
        sns = boto3.client("sns", endpoint_url=server.endpoint_url, region_name=REGION)
        sqs = boto3.client("sqs", endpoint_url=server.endpoint_url, region_name=REGION)
        queue = sqs.create_queue(QueueName="mailbox")["QueueUrl"]
        arn = sns.create_topic(Name="ls4")["TopicArn"]
        about = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=about["Attributes"]["QueueArn"])
        yield Topic(arn, server.endpoint_url, sns, sqs, queue)


@contextmanager
def platform_with(cluster: Cluster, folder: Path, topic: Topic, **overrides: str) -> Iterator[Platform]:
    told = {
        "notify_topic": topic.arn,
        "notify_endpoint_url": topic.endpoint_url,
        "staff_url": "http://maps.test/staff",
        "dagster_url": "http://dagit.test",
    }
    with running_platform(cluster, folder, **(told | overrides)) as running:
        topic.received()
        yield running


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path, topic: Topic) -> Iterator[Platform]:
    with platform_with(cluster, tmp_path, topic) as running:
        yield running


def pass_time(platform: Platform, minutes: float) -> None:
    """Everything that stands in our tables happened so much earlier."""
    by = f"- interval '{minutes} minutes'"
    with platform.database.begin() as connection:
        connection.execute(text(f"UPDATE ls4.rejection SET first_seen = first_seen {by}, last_seen = last_seen {by}"))
        connection.execute(text(f"UPDATE ls4.failed_run SET failed_at = failed_at {by}"))
        connection.execute(text(f"UPDATE ls4.notification SET latest = latest {by}, notified_at = notified_at {by}"))
        connection.execute(text(f"UPDATE ls4.source SET pending_since = pending_since {by}"))
        connection.execute(text(f"UPDATE ls4.frame SET updated_at = updated_at {by}"))


def take(platform: Platform) -> None:
    """Look, and call what waits done without a run over it, where a test is not about frames."""
    for _ in range(3):
        platform.tick("ingest_poll")
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = 'done' WHERE state IN ('queued', 'requested')"))


def test_five_hundred_rejected_files_are_few_messages(platform: Platform, topic: Topic, good: Path) -> None:
    for number in range(500):
        platform.drop(f"{MISSPELT}/02-08-60_6-{number}.tif", b"x")
    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", b"")
    platform.drop(f"{FOLDER}/02-08-60_6-9.tif", b"no tif")
    platform.drop(f"{FOLDER}/02-08-60_6-10.tif", good)
    platform.look()
    platform.tick("notifications")
    assert topic.received() == []  # the drop may still be coming
    pass_time(platform, 2)
    platform.tick("notifications")
    told = dict(topic.received())
    assert sorted(told) == [
        "ls4: 4 photographs of Travis_USDA_1958_frames could not be taken",
        "ls4: 500 files rejected by name in bw/Traviss/USDA_1958/frames",
    ]
    by_name, by_content = told[sorted(told)[1]], told[sorted(told)[0]]
    assert "did you mean Travis? Rename the folder" in by_name.replace("Did", "did")
    assert "and 497 more" in by_name and len(by_name) < 1500
    assert "3 files (02-08-60_6-0.tif, 02-08-60_6-1.tif, 02-08-60_6-2.tif)" in by_content
    assert "is empty" in by_content and "is not a tif" in by_content and "What to do: Copy it again" in by_content
    assert "http://maps.test/staff#find=Travis_USDA_1958_frames" in by_content
    assert "http://maps.test/#travis_usda_1958_frames" in by_content and "http://dagit.test/assets/rejected_files" in by_content
    for _ in range(2):
        platform.tick("notifications")
    assert topic.received() == []


def test_a_corrected_file_is_told_to_be_resolved(platform: Platform, topic: Topic, good: Path) -> None:
    bad = f"{FOLDER}/02-08-60_6-1.tif"
    platform.drop(bad, b"")
    platform.look()
    pass_time(platform, 2)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} could not be taken"]
    platform.drop(bad, b"no tif")
    platform.look()
    pass_time(platform, 2)
    platform.tick("notifications")
    assert topic.received() == []  # within the window
    pass_time(platform, 60)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 more photograph of {COLLECTION} could not be taken"]
    platform.drop(bad, good)
    platform.look()
    platform.tick("notifications")
    (subject, body), *rest = topic.received()
    assert subject == f"ls4: resolved: photographs of {COLLECTION}" and not rest
    assert "nothing is left to do" in body
    platform.tick("notifications")
    assert topic.received() == []
    assert platform.rows("SELECT times, resolved_by IS NOT NULL AS taken FROM ls4.rejection") == [{"times": 2, "taken": True}]


def test_trouble_in_many_folders_is_one_message_and_so_is_its_end(platform: Platform, topic: Topic) -> None:
    files = [f"bw/Traviss/USDA_{year}/frames/georef/02-08-60_6-1.tif" for year in range(1950, 1955)]
    for key in files:
        platform.drop(key, b"x")
    take(platform)
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: files rejected by name in 5 places" and "bw/Traviss/USDA_1954/frames: 1" in body
    for key in files:
        platform.storage.delete(key)
    take(platform)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: resolved: files rejected by name in 5 places" and "bw/Traviss/USDA_1954/frames: 1" in body


def test_a_restart_tells_nothing_again(cluster: Cluster, tmp_path: Path, topic: Topic) -> None:
    with platform_with(cluster, tmp_path, topic) as platform:
        platform.drop(f"{MISSPELT}/02-08-60_6-1.tif", b"x")
        platform.look()
        pass_time(platform, 2)
        platform.tick("notifications")
        assert len(topic.received()) == 1
        again = platform.with_settings()
        again.cursors.clear()  # as after a change of the sensor's name
        again.tick("notifications")
        assert topic.received() == []


def test_an_outage_of_sns_costs_no_message_and_holds_up_nothing_else(platform: Platform, topic: Topic) -> None:
    platform.drop(f"{MISSPELT}/02-08-60_6-1.tif", b"x")
    platform.look()
    pass_time(platform, 2)
    away = platform.with_settings(notify_endpoint_url=f"http://127.0.0.1:{free_port()}")
    result = away.tick("notifications")
    assert isinstance(result, dg.SensorResult)  # the list is published all the same
    assert dispatch_notifications(away.archive, datetime.now(UTC)) == Telling(sent=0, unsent=1, troubles=1)
    platform.tick("notifications")
    assert len(topic.received()) == 1


def test_a_message_that_is_not_taken_holds_up_no_other(platform: Platform, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real rejection by SNS, of the first message alone: its topic is gone for a moment."""
    for folder in (MISSPELT, FOLDER):
        platform.drop(f"{folder}/scan 1.tif", b"x")
    platform.look()
    pass_time(platform, 2)
    client, arns = platform.archive.notifier._notifiers[0].client, [f"{topic.arn}-gone"]  # type: ignore[attr-defined]

    def wrong_once(params: dict[str, str], **_: object) -> None:
        params["TopicArn"] = arns.pop() if arns else topic.arn

    client.meta.events.register("provide-client-params.sns.Publish", wrong_once)
    assert dispatch_notifications(platform.archive, datetime.now(UTC)) == Telling(sent=1, unsent=1, troubles=2)
    assert dispatch_notifications(platform.archive, datetime.now(UTC)) == Telling(sent=1, unsent=0, troubles=2)
    assert len({subject for subject, _ in topic.received()}) == 2


def run_of(platform: Platform, assets: list[dg.AssetKey], status: DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    """A run that a person or a backfill started, which bears none of our tags, and how it ended."""
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    named = {f"dagster/{name}": value for name, value in tags.items()}
    run = platform.instance.create_run_for_job(job, asset_selection=frozenset(assets), tags=named)
    if status == DagsterRunStatus.FAILURE:
        platform.instance.report_run_failed(run, "Its process is gone.")
    else:
        platform.instance.handle_new_event(finished(run))
    return run


def finished(run: dg.DagsterRun) -> dg.EventLogEntry:
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
    now = datetime.now(UTC).timestamp()
    return dg.EventLogEntry(
        error_info=None,
        level="debug",
        user_message="",
        run_id=run.run_id,
        timestamp=now,
        job_name=run.job_name,
        dagster_event=event,
    )


def test_runs_that_died_are_told_until_one_of_the_same_ends_well(platform: Platform, topic: Topic) -> None:
    cogs = [keys.product("Travis", "cog")]
    died = run_of(platform, cogs, DagsterRunStatus.FAILURE, partition="USDA_1958/frames/bw/02-08-60_6-1", backfill="abcdefgh")
    run_of(platform, cogs, DagsterRunStatus.FAILURE, partition="USDA_1958/frames/bw/02-08-60_6-2", backfill="abcdefgh")
    platform.tick("notifications")
    assert topic.received() == []  # the next may end well
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: a run over frames of Travis failed"
    assert "Its process is gone." in body and "http://dagit.test/runs/" in body and died.run_id not in body  # the last one
    pass_time(platform, 600)
    platform.tick("notifications")
    assert topic.received() == []
    run_of(platform, cogs, DagsterRunStatus.SUCCESS)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == ["ls4: resolved: runs over frames of Travis"]


def test_a_run_that_failed_for_bad_frames_is_told_of_by_its_frames_alone(platform: Platform, topic: Topic) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", b"")
    (run, *_) = platform.look()
    assert not run.success
    pass_time(platform, 2)
    platform.tick("notifications")
    assert platform.rows("SELECT * FROM ls4.failed_run") == []
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} could not be taken"]


def test_a_rebuild_that_fails_is_told_in_its_own_words_until_it_works(platform: Platform, topic: Topic, good: Path) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.look()
    with platform.database.begin() as connection:  # what a restored database may lack
        connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN valid_share TO away"))
        connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN footprint TO gone"))
    try:
        (failed,) = platform.rebuild()
    finally:
        with platform.database.begin() as connection:
            connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN away TO valid_share"))
            connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN gone TO footprint"))
    assert not failed.success
    platform.tick("notifications")
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == f"ls4: the map of {COLLECTION} cannot be brought up to date"
    assert "UndefinedColumn" in body and f"http://dagit.test/runs/{failed.run_id}" in body
    platform.skip_waits()
    platform.settle()
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: resolved: the map of {COLLECTION}"]


def test_a_rebuild_that_never_comes_to_an_end_is_told_though_no_run_failed(platform: Platform, topic: Topic, good: Path) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.look()
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.collection SET attempts = 5, requested_at = now() - interval '10 minutes'"))
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: the map of {COLLECTION} cannot be brought up to date"]


def test_a_collection_that_waits_for_long_is_told_unless_something_of_it_goes_on(
    platform: Platform, topic: Topic, good: Path
) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.look()
    platform.drop(f"{FOLDER}/02-08-60_6-2.tif", good)
    for _ in range(2):
        platform.tick("ingest_poll")  # requested, and no run takes it
    pass_time(platform, 130)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET updated_at = now() - interval '10 minutes'"))
    platform.tick("notifications")
    assert topic.received() == []  # a long drop that goes on
    pass_time(platform, 130)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} waiting, and nothing goes on"]
    take(platform)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: resolved: {COLLECTION} goes on"]


def test_deletions_that_wait_for_a_word_are_told(cluster: Cluster, tmp_path: Path, topic: Topic, good: Path) -> None:
    with platform_with(cluster, tmp_path, topic, deletion_guard_frames="0") as platform:
        for number in (1, 2):
            platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", good)
        take(platform)
        platform.storage.delete(f"{FOLDER}/02-08-60_6-1.tif")
        take(platform)
        with platform.database.begin() as connection:
            connection.execute(text("UPDATE ls4.source SET deletion_held_at = deletion_held_at - interval '2 minutes'"))
        platform.tick("notifications")
        ((subject, body),) = topic.received()
        assert subject == f"ls4: 1 photograph of {COLLECTION} deleted: is that meant?"
        assert f"ls4 confirm-deletion {COLLECTION}" in body


def test_without_a_topic_messages_go_to_a_file(cluster: Cluster, tmp_path: Path, topic: Topic) -> None:
    file = tmp_path / "told" / "notices.txt"
    with platform_with(cluster, tmp_path, topic, notify_topic="", notify_file=str(file)) as platform:
        platform.drop(f"{MISSPELT}/02-08-60_6-1.tif", b"x")
        platform.look()
        pass_time(platform, 2)
        platform.tick("notifications")
        assert "ls4: 1 file rejected by name in bw/Traviss/USDA_1958/frames" in file.read_text()
        assert topic.received() == []


@pytest.mark.parametrize(
    ("assets", "tags", "kind", "place"),
    [
        ([keys.product("Travis", "cog"), keys.product("Travis", "deflate")], {}, Kind.RUN, "frames of Travis"),
        ([keys.mapfile("Travis")], {"dagster/partition": "USDA_1958/frames"}, Kind.REBUILD, COLLECTION),
        ([keys.tile_index("Travis")], {keys.COLLECTION_TAG: COLLECTION}, Kind.REBUILD, COLLECTION),
        ([keys.mapfile("Travis")], {"dagster/partition": "by hand"}, Kind.RUN, "collections of Travis"),
        ([keys.mapfile("Travis"), keys.mapfile("Bastrop")], {}, Kind.RUN, "a job"),
    ],
)
def test_what_a_run_worked_on(assets: list[dg.AssetKey], tags: dict[str, str], kind: Kind, place: str) -> None:
    subject = subject_of(dg.DagsterRun("a job", asset_selection=frozenset(assets), tags=tags))
    assert (subject.kind, subject.place) == (kind, place)


def test_the_list_for_staff_is_published_when_it_changes(platform: Platform, topic: Topic, good: Path) -> None:
    name, content = f"{MISSPELT}/02-08-60_6-1.tif", f"{FOLDER}/02-08-60_6-2.tif"
    platform.drop(name, b"x")
    platform.drop(content, b"x")
    take(platform)
    with platform.database.begin() as connection:
        connection.execute(
            text("UPDATE ls4.source SET state = 'failed', reason = 'It is empty; copy it again.' WHERE state = 'done'")
        )
    assert isinstance(platform.tick("notifications"), dg.SensorResult)
    assert isinstance(platform.tick("notifications"), dg.SkipReason)
    platform.drop(content, good)
    platform.storage.delete(name)
    take(platform)
    platform.tick("notifications")
    page = json.loads(platform.storage.read(STAFF_KEY))
    assert (page["open"], page["resolved"]) == (0, 2)
    states = {entry["file"]: entry["state"] for entry in page["rejections"]}
    assert states == {"02-08-60_6-1.tif": "renamed or removed", "02-08-60_6-2.tif": "taken"}
    event = platform.instance.get_latest_materialization_event(dg.AssetKey("rejected_files"))
    assert event and event.asset_materialization
    metadata = event.asset_materialization.metadata
    assert metadata["resolved"].value == 2 and metadata["list"].value == "http://maps.test/staff"
    assert "renamed or removed" in str(metadata["files"].value)


@pytest.mark.parametrize("made", [[], ["mapfiles"]])
def test_a_disk_that_is_not_mounted_is_not_written_to(platform: Platform, tmp_path: Path, made: list[str]) -> None:
    """With the list in it, or with what the map front had made there, the bare folder looked like an archive from which
    everything was deleted."""
    platform.drop(f"{MISSPELT}/02-08-60_6-1.tif", b"x")
    platform.tick("ingest_poll")
    folder = tmp_path / "archive"
    folder.rename(tmp_path / "disk")
    for name in ("", *made):
        (folder / name).mkdir()
    assert isinstance(platform.tick("notifications"), dg.SkipReason)
    assert [path.name for path in folder.iterdir()] == made
    shutil.rmtree(folder)
    (tmp_path / "disk").rename(folder)
    assert isinstance(platform.tick("notifications"), dg.SensorResult)
    assert json.loads(platform.storage.read(STAFF_KEY))["open"] == 1
