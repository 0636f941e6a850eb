"""Notifications through SNS, with real boto3, Postgres and a Dagster instance.

Tests do not wait: `pass_time` moves the timestamps in the tables.
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
from ls4_assets.domain.export_keys import STAFF_KEY
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets.notifications.dispatch import DispatchReport, dispatch_notifications
from ls4_assets.notifications.failed_runs import identify_subject
from ls4_assets.notifications.planner import IncidentKind
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.s3_servers import REGION, aws_environment, moto_server

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient
    from mypy_boto3_sqs.client import SQSClient

FOLDER = "bw/Travis/USDA_1958/frames/georef"
COLLECTION = "Travis_USDA_1958_frames"
MISSPELLED = "bw/Traviss/USDA_1958/frames/georef"


@dataclass(frozen=True)
class Topic:
    """A topic with a queue that receives its messages, like the mailbox of an operator."""

    arn: str
    endpoint_url: str
    sns: "SNSClient"
    sqs: "SQSClient"
    queue: str

    def received(self) -> list[tuple[str, str]]:
        """Subject and body of the messages since the last call."""
        received: list[tuple[str, str]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                content = json.loads(message["Body"])
                received.append((content["Subject"], content["Message"]))
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return received


@pytest.fixture(scope="module")
def topic() -> Iterator[Topic]:
    with aws_environment(), moto_server() as server:
        sns = boto3.client("sns", endpoint_url=server.endpoint_url, region_name=REGION)
        sqs = boto3.client("sqs", endpoint_url=server.endpoint_url, region_name=REGION)
        queue = sqs.create_queue(QueueName="mailbox")["QueueUrl"]
        arn = sns.create_topic(Name="ls4")["TopicArn"]
        queue_attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_attributes["Attributes"]["QueueArn"])
        yield Topic(arn, server.endpoint_url, sns, sqs, queue)


@contextmanager
def platform_with(cluster: Cluster, folder: Path, topic: Topic, **overrides: str) -> Iterator[Platform]:
    settings = {
        "notify_topic": topic.arn,
        "notify_endpoint_url": topic.endpoint_url,
        "staff_url": "http://maps.test/staff",
        "dagster_url": "http://dagster.test",
    }
    with running_platform(cluster, folder, **(settings | overrides)) as running:
        topic.received()
        yield running


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path, topic: Topic) -> Iterator[Platform]:
    with platform_with(cluster, tmp_path, topic) as running:
        yield running


def pass_time(platform: Platform, minutes: float) -> None:
    """Move every timestamp in the tables back by `minutes`."""
    shift = f"- interval '{minutes} minutes'"
    with platform.database.begin() as connection:
        connection.execute(text(f"UPDATE ls4.rejection SET first_seen = first_seen {shift}, last_seen = last_seen {shift}"))
        connection.execute(text(f"UPDATE ls4.failed_run SET failed_at = failed_at {shift}"))
        connection.execute(text(f"UPDATE ls4.notification SET latest_at = latest_at {shift}, notified_at = notified_at {shift}"))
        connection.execute(text(f"UPDATE ls4.source SET pending_since = pending_since {shift}"))
        connection.execute(text(f"UPDATE ls4.frame SET updated_at = updated_at {shift}"))


def finish_without_runs(platform: Platform) -> None:
    """Scan, and mark queued files as done without a run, for tests that need no frames."""
    for _ in range(3):
        platform.tick("ingest_poll")
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = 'done' WHERE state IN ('queued', 'requested')"))


def test_five_hundred_rejected_files_are_two_messages(platform: Platform, topic: Topic, good: Path) -> None:
    for number in range(500):
        platform.drop(f"{MISSPELLED}/02-08-60_6-{number}.tif", b"x")
    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", b"")
    platform.drop(f"{FOLDER}/02-08-60_6-9.tif", b"no tif")
    platform.drop(f"{FOLDER}/02-08-60_6-10.tif", good)
    platform.ingest()
    platform.tick("notifications")
    assert topic.received() == []  # more files may follow
    pass_time(platform, 2)
    platform.tick("notifications")
    messages = dict(topic.received())
    assert sorted(messages) == [
        "ls4: 4 photographs of Travis_USDA_1958_frames could not be processed",
        "ls4: 500 files with invalid names in bw/Traviss/USDA_1958/frames",
    ]
    by_name, by_content = messages[sorted(messages)[1]], messages[sorted(messages)[0]]
    assert "did you mean Travis? Rename the folder" in by_name.replace("Did", "did")
    assert "and 497 more" in by_name and len(by_name) < 1500
    assert "3 files (02-08-60_6-0.tif, 02-08-60_6-1.tif, 02-08-60_6-2.tif)" in by_content
    assert "is empty" in by_content and "is not a tif" in by_content and "What to do: Copy it again" in by_content
    assert "http://maps.test/staff#find=Travis_USDA_1958_frames" in by_content
    assert "http://maps.test/#travis_usda_1958_frames" in by_content and "http://dagster.test/assets/rejected_files" in by_content
    for _ in range(2):
        platform.tick("notifications")
    assert topic.received() == []


def test_resolution_is_sent_after_the_file_is_corrected(platform: Platform, topic: Topic, good: Path) -> None:
    bad = f"{FOLDER}/02-08-60_6-1.tif"
    platform.drop(bad, b"")
    platform.ingest()
    pass_time(platform, 2)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} could not be processed"]
    platform.drop(bad, b"no tif")
    platform.ingest()
    pass_time(platform, 2)
    platform.tick("notifications")
    assert topic.received() == []  # within the repeat interval
    pass_time(platform, 60)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 more photograph of {COLLECTION} could not be processed"]
    platform.drop(bad, good)
    platform.ingest()
    platform.tick("notifications")
    (subject, body), *rest = topic.received()
    assert subject == f"ls4: resolved: photographs of {COLLECTION}" and not rest
    assert "no action is needed" in body
    platform.tick("notifications")
    assert topic.received() == []
    assert platform.rows("SELECT occurrences, resolved_by IS NOT NULL AS taken FROM ls4.rejection") == [
        {"occurrences": 2, "taken": True}
    ]


def test_incidents_in_many_folders_are_one_message_and_so_is_their_resolution(platform: Platform, topic: Topic) -> None:
    files = [f"bw/Traviss/USDA_{year}/frames/georef/02-08-60_6-1.tif" for year in range(1950, 1955)]
    for key in files:
        platform.drop(key, b"x")
    finish_without_runs(platform)
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: files with invalid names in 5 places" and "bw/Traviss/USDA_1954/frames: 1" in body
    for key in files:
        platform.storage.delete(key)
    finish_without_runs(platform)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: resolved: files with invalid names in 5 places" and "bw/Traviss/USDA_1954/frames: 1" in body


def test_restart_sends_nothing_again(cluster: Cluster, tmp_path: Path, topic: Topic) -> None:
    with platform_with(cluster, tmp_path, topic) as platform:
        platform.drop(f"{MISSPELLED}/02-08-60_6-1.tif", b"x")
        platform.ingest()
        pass_time(platform, 2)
        platform.tick("notifications")
        assert len(topic.received()) == 1
        again = platform.with_settings()
        again.cursors.clear()  # as after the sensor is renamed
        again.tick("notifications")
        assert topic.received() == []


def test_sns_outage_loses_no_message_and_delays_nothing_else(platform: Platform, topic: Topic) -> None:
    platform.drop(f"{MISSPELLED}/02-08-60_6-1.tif", b"x")
    platform.ingest()
    pass_time(platform, 2)
    offline = platform.with_settings(notify_endpoint_url=f"http://127.0.0.1:{find_free_port()}")
    result = offline.tick("notifications")
    assert isinstance(result, dg.SensorResult)  # the list is still published
    assert dispatch_notifications(offline.archive, datetime.now(UTC)) == DispatchReport(sent=0, unsent=1, incidents=1)
    platform.tick("notifications")
    assert len(topic.received()) == 1


def test_failed_message_does_not_delay_the_others(platform: Platform, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """SNS really rejects the first message only: its topic does not exist for a moment."""
    for folder in (MISSPELLED, FOLDER):
        platform.drop(f"{folder}/scan 1.tif", b"x")
    platform.ingest()
    pass_time(platform, 2)
    client, arns = platform.archive.notifier._notifiers[0].client, [f"{topic.arn}-gone"]  # type: ignore[attr-defined]

    def break_first_topic(params: dict[str, str], **_: object) -> None:
        params["TopicArn"] = arns.pop() if arns else topic.arn

    client.meta.events.register("provide-client-params.sns.Publish", break_first_topic)
    assert dispatch_notifications(platform.archive, datetime.now(UTC)) == DispatchReport(sent=1, unsent=1, incidents=2)
    assert dispatch_notifications(platform.archive, datetime.now(UTC)) == DispatchReport(sent=1, unsent=0, incidents=2)
    assert len({subject for subject, _ in topic.received()}) == 2


def create_run(platform: Platform, assets: list[dg.AssetKey], status: DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    """A finished run of a person or a backfill, which does not carry the tags of ls4."""
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    run_tags = {f"dagster/{name}": value for name, value in tags.items()}
    run = platform.instance.create_run_for_job(job, asset_selection=frozenset(assets), tags=run_tags)
    if status == DagsterRunStatus.FAILURE:
        platform.instance.report_run_failed(run, "Its process is gone.")
    else:
        platform.instance.handle_new_event(success_event(run))
    return run


def success_event(run: dg.DagsterRun) -> dg.EventLogEntry:
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
    now = datetime.now(UTC).timestamp()
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster does not annotate it
        error_info=None,
        level="debug",
        user_message="",
        run_id=run.run_id,
        timestamp=now,
        job_name=run.job_name,
        dagster_event=event,
    )


def test_crashed_run_is_reported_until_a_run_of_the_same_subject_succeeds(platform: Platform, topic: Topic) -> None:
    cogs = [keys.product("Travis", "cog")]
    first = create_run(
        platform, cogs, DagsterRunStatus.FAILURE, partition="USDA_1958/frames/bw/02-08-60_6-1", backfill="abcdefgh"
    )
    create_run(platform, cogs, DagsterRunStatus.FAILURE, partition="USDA_1958/frames/bw/02-08-60_6-2", backfill="abcdefgh")
    platform.tick("notifications")
    assert topic.received() == []  # the next run may succeed
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == "ls4: a run for frames of Travis failed"
    # The body links the last run, not the first.
    assert "Its process is gone." in body and "http://dagster.test/runs/" in body and first.run_id not in body
    pass_time(platform, 600)
    platform.tick("notifications")
    assert topic.received() == []
    create_run(platform, cogs, DagsterRunStatus.SUCCESS)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == ["ls4: resolved: runs for frames of Travis"]


def test_run_that_fails_because_of_bad_frames_is_reported_as_frames_only(platform: Platform, topic: Topic) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", b"")
    (run, *_) = platform.ingest()
    assert not run.success
    pass_time(platform, 2)
    platform.tick("notifications")
    assert platform.rows("SELECT * FROM ls4.failed_run") == []
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} could not be processed"]


def test_failed_rebuild_is_reported_with_its_error_until_one_succeeds(platform: Platform, topic: Topic, good: Path) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.ingest()
    with platform.database.begin() as connection:  # a restored database may lack columns
        connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN valid_share TO hidden_share"))
        connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN footprint TO hidden_footprint"))
    try:
        (failed,) = platform.rebuild()
    finally:
        with platform.database.begin() as connection:
            connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN hidden_share TO valid_share"))
            connection.execute(text("ALTER TABLE ls4.frame RENAME COLUMN hidden_footprint TO footprint"))
    assert not failed.success
    platform.tick("notifications")
    pass_time(platform, 2)
    platform.tick("notifications")
    ((subject, body),) = topic.received()
    assert subject == f"ls4: the map of {COLLECTION} cannot be updated"
    assert "UndefinedColumn" in body and f"http://dagster.test/runs/{failed.run_id}" in body
    platform.skip_waits()
    platform.settle()
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: resolved: the map of {COLLECTION}"]


def test_rebuild_that_never_finishes_is_reported_though_no_run_failed(platform: Platform, topic: Topic, good: Path) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.ingest()
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.collection SET attempts = 5, requested_at = now() - interval '10 minutes'"))
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: the map of {COLLECTION} cannot be updated"]


def test_stalled_collection_is_reported_unless_it_makes_progress(platform: Platform, topic: Topic, good: Path) -> None:
    platform.drop(f"{FOLDER}/02-08-60_6-1.tif", good)
    platform.ingest()
    platform.drop(f"{FOLDER}/02-08-60_6-2.tif", good)
    for _ in range(2):
        platform.tick("ingest_poll")  # requested, but no run starts
    pass_time(platform, 130)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET updated_at = now() - interval '10 minutes'"))
    platform.tick("notifications")
    assert topic.received() == []  # a long drop that makes progress
    pass_time(platform, 130)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: 1 photograph of {COLLECTION} waiting without progress"]
    finish_without_runs(platform)
    platform.tick("notifications")
    assert [subject for subject, _ in topic.received()] == [f"ls4: resolved: waiting photographs of {COLLECTION}"]


def test_held_deletions_are_reported(cluster: Cluster, tmp_path: Path, topic: Topic, good: Path) -> None:
    with platform_with(cluster, tmp_path, topic, deletion_guard_frames="0") as platform:
        for number in (1, 2):
            platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", good)
        finish_without_runs(platform)
        platform.storage.delete(f"{FOLDER}/02-08-60_6-1.tif")
        finish_without_runs(platform)
        with platform.database.begin() as connection:
            connection.execute(text("UPDATE ls4.source SET deletion_held_at = deletion_held_at - interval '2 minutes'"))
        platform.tick("notifications")
        ((subject, body),) = topic.received()
        assert subject == f"ls4: 1 photograph of {COLLECTION} deleted: is this intended?"
        assert f"ls4 confirm-deletion {COLLECTION}" in body


def test_messages_go_to_a_file_without_a_topic(cluster: Cluster, tmp_path: Path, topic: Topic) -> None:
    file = tmp_path / "messages" / "notifications.txt"
    with platform_with(cluster, tmp_path, topic, notify_topic="", notify_file=str(file)) as platform:
        platform.drop(f"{MISSPELLED}/02-08-60_6-1.tif", b"x")
        platform.ingest()
        pass_time(platform, 2)
        platform.tick("notifications")
        assert "ls4: 1 file with invalid names in bw/Traviss/USDA_1958/frames" in file.read_text()
        assert topic.received() == []


@pytest.mark.parametrize(
    ("assets", "tags", "kind", "scope"),
    [
        ([keys.product("Travis", "cog"), keys.product("Travis", "deflate")], {}, IncidentKind.RUN, "frames of Travis"),
        ([keys.mapfile("Travis")], {"dagster/partition": "USDA_1958/frames"}, IncidentKind.REBUILD, COLLECTION),
        ([keys.tile_index("Travis")], {keys.COLLECTION_TAG: COLLECTION}, IncidentKind.REBUILD, COLLECTION),
        ([keys.mapfile("Travis")], {"dagster/partition": "by hand"}, IncidentKind.RUN, "collections of Travis"),
        ([keys.mapfile("Travis"), keys.mapfile("Bastrop")], {}, IncidentKind.RUN, "a job"),
    ],
)
def test_subject_of_a_run(assets: list[dg.AssetKey], tags: dict[str, str], kind: IncidentKind, scope: str) -> None:
    subject = identify_subject(dg.DagsterRun("a job", asset_selection=frozenset(assets), tags=tags))
    assert (subject.kind, subject.scope) == (kind, scope)


def test_list_for_staff_is_published_when_it_changes(platform: Platform, topic: Topic, good: Path) -> None:
    name, content = f"{MISSPELLED}/02-08-60_6-1.tif", f"{FOLDER}/02-08-60_6-2.tif"
    platform.drop(name, b"x")
    platform.drop(content, b"x")
    finish_without_runs(platform)
    with platform.database.begin() as connection:
        connection.execute(
            text("UPDATE ls4.source SET state = 'failed', reason = 'It is empty; copy it again.' WHERE state = 'done'")
        )
    assert isinstance(platform.tick("notifications"), dg.SensorResult)
    assert isinstance(platform.tick("notifications"), dg.SkipReason)
    platform.drop(content, good)
    platform.storage.delete(name)
    finish_without_runs(platform)
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


@pytest.mark.parametrize("folders", [[], ["mapfiles"]])
def test_unmounted_disk_is_not_written_to(platform: Platform, tmp_path: Path, folders: list[str]) -> None:
    """The list, or a folder created by the web front end, made the empty folder resemble an archive with all files deleted."""
    platform.drop(f"{MISSPELLED}/02-08-60_6-1.tif", b"x")
    platform.tick("ingest_poll")
    folder = tmp_path / "archive"
    folder.rename(tmp_path / "disk")
    for name in ("", *folders):
        (folder / name).mkdir()
    assert isinstance(platform.tick("notifications"), dg.SkipReason)
    assert [path.name for path in folder.iterdir()] == folders
    shutil.rmtree(folder)
    (tmp_path / "disk").rename(folder)
    assert isinstance(platform.tick("notifications"), dg.SensorResult)
    assert json.loads(platform.storage.read(STAFF_KEY))["open"] == 1
