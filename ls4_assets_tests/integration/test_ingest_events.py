"""Ingest by events, on moto's S3 and SQS: repeated, late, unordered, unreadable and lost events, and crashes."""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote_plus

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType
from sqlalchemy import text

from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest import events
from ls4_assets.ingest.inventory import InventoryDifferences, enqueue_differences
from ls4_assets.ingest.scan import ScanReport, check_keys
from ls4_assets.local.postgres import Cluster
from ls4_assets.runtime.run_line import warm_memory_mb
from ls4_assets.settings import load_settings
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Ingest, tif
from ls4_assets_tests.platform import Platform, empty_archive, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.archive import Archive
from resources.queue import EventQueue, QueueMessage
from resources.s3_storage import S3Storage
from sensors.ingest_events import FullScan, receive_events, scan_by_events

BUCKET = "scans"
HOUR = timedelta(hours=1)


def eventbridge_message(key: str, kind: str = "Object Created", bucket: str = BUCKET) -> str:
    """A message of EventBridge, with the key as it is."""
    detail = {"version": "0", "bucket": {"name": bucket}, "object": {"key": key, "size": 1, "etag": "e", "sequencer": "0"}}
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": kind, "detail": detail})


def s3_message(*keys: str, bucket: str = BUCKET) -> str:
    """A message of S3 itself, with URL-encoded keys."""
    objects = [{"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}} for key in keys]
    return json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": item} for item in objects]})


@pytest.mark.parametrize("key", [tif(1), "bw/Travis/USDA_1958/frames/georef/a + b ä.tif", "x%20y.tif"])
def test_both_event_formats_are_parsed(key: str) -> None:
    assert events.keys_from_event(eventbridge_message(key), BUCKET) == [key]
    assert events.keys_from_event(eventbridge_message(key, "Object Deleted"), BUCKET) == [key]
    assert events.keys_from_event(s3_message(key, tif(2)), BUCKET) == [key, tif(2)]


def test_s3_test_event_has_no_keys() -> None:
    assert events.keys_from_event('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "scans"}', BUCKET) == []


UNREADABLE = [
    "not json", "[]", "{}", '"text"', '{"Records": [1]}', '{"Records": [{"s3": {}}]}', '{"source": "aws.s3"}',
    '{"source": "aws.s3", "detail": {"bucket": {"name": "scans"}, "object": {"key": 7}}}',
    eventbridge_message(tif(1), bucket="another"), eventbridge_message("a\0.tif"), eventbridge_message("a\ud800.tif"),
]  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE)
def test_other_messages_are_rejected(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text is only displayed
        events.keys_from_event(body, BUCKET)


@dataclass
class EventIngest(Ingest):
    """An archive on S3; the test sends its events."""

    dead_letters: str = ""
    event_cursor: str | None = None

    @property
    def queue(self) -> EventQueue:
        return self.archive.queue

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self.queue.client.send_message_batch(QueueUrl=self.archive.settings.events_queue_url, Entries=entries)  # type: ignore[arg-type]

    def send_created(self, *keys: str) -> None:
        self.send(*(eventbridge_message(key, bucket=self.storage.bucket) for key in keys))

    def send_deleted(self, *keys: str) -> None:
        self.send(*(eventbridge_message(key, "Object Deleted", self.storage.bucket) for key in keys))

    def tick(self) -> ScanReport:
        """The report of one tick; today's full scan is already done."""
        if self.event_cursor is None:
            self.event_cursor = str(FullScan(started_at=datetime.now(UTC).isoformat()))
        report, self.event_cursor = scan_by_events(self.archive, self.event_cursor)
        return report

    def age_missing(self, seconds: int = 60) -> None:
        """Skip the time in which the events of one deletion are collected."""
        self.write("UPDATE ls4.source SET missing_since = missing_since - :s * interval '1 second'", s=seconds)

    def settle_deletions(self) -> ScanReport:
        self.tick()
        self.age_missing()
        return self.tick()

    def inbox(self) -> dict[str, int]:
        with self.archive.database.connect() as connection:
            return {row.key: row.events for row in connection.execute(text("SELECT key, events FROM ls4.inbox"))}


@pytest.fixture
def server(s3_server: Callable[[str], S3Server], monkeypatch: pytest.MonkeyPatch) -> S3Server:
    moto = s3_server("moto")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto.endpoint_url)
    monkeypatch.setattr("resources.queue._WAIT_SECONDS", 0)  # moto needs no long polling
    return moto


def new_queue(name: str) -> tuple[str, str]:
    """A queue that redelivers at once, and its dead-letter queue, which gets a message at the third delivery."""
    client = EventQueue("", REGION).client
    dead_letters = client.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    attributes = {"VisibilityTimeout": "0", "RedrivePolicy": policy}
    return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], dead_letters  # type: ignore[arg-type]


@pytest.fixture
def ingest(server: S3Server, cluster: Cluster, tmp_path: Path) -> Iterator[EventIngest]:
    bucket = server.new_bucket().bucket
    queue, dead_letters = new_queue(bucket)
    settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "events_queue_url": queue}
    with empty_archive(cluster, tmp_path, f"s3://{bucket}", **settings) as archive:
        yield EventIngest(archive, dead_letters=dead_letters)


def test_drops_are_queued_and_leave_queue_and_inbox_empty(ingest: EventIngest) -> None:
    ingest.drop(tif(1), tif(2))
    ingest.send(eventbridge_message(tif(1), bucket=ingest.storage.bucket), s3_message(tif(2), bucket=ingest.storage.bucket))
    assert ingest.tick().counts["queued"] == 2
    assert ingest.states() == {tif(1): "queued", tif(2): "queued"}
    assert ingest.inbox() == {}
    assert ingest.queue.receive() == []


def test_bucket_decides_over_the_event(ingest: EventIngest) -> None:
    """Created but gone again; deleted but dropped again."""
    ingest.drop(tif(2))
    ingest.send_created(tif(1))
    ingest.send_deleted(tif(2))
    ingest.settle_deletions()
    assert ingest.states() == {tif(2): "queued"}


def test_events_of_products_are_ignored(ingest: EventIngest) -> None:
    """`*/georef/*.tif` also matches `georef/deflate/x.tif`: every frame triggered itself."""
    products = [f"{FOLDER}/deflate/02-08-60_6-1.tif", f"{FOLDER}/deflate/02-08-60_6-1.tif.ovr", "derived/x/mosaic.tif"]
    others = [f"{FOLDER.replace('georef', 'cog')}/02-08-60_6-1.tif", f"{FOLDER.replace('georef', 'scanned')}/02-08-60_6-1.tif"]
    hidden = [f"{FOLDER}/._02-08-60_6-1.tif", f"{FOLDER}/.x/02-08-60_6-1.tif", f"{FOLDER}/", f"{FOLDER}/Thumbs.db"]
    ingest.drop(*products, *others, *hidden)
    ingest.send_created(*products, *others, *hidden)
    receive_events(ingest.archive)
    assert ingest.inbox() == {}
    ingest.tick()
    assert ingest.states() == {}


@pytest.mark.parametrize("seed", range(2))
def test_events_in_any_order_repeated_and_late(ingest: EventIngest, seed: int) -> None:
    """The result is the state of the bucket, in whatever order the events arrive."""
    chance = random.Random(seed)
    keys = [tif(number) for number in range(12)]
    bodies = []
    for _ in range(40):
        key = chance.choice(keys)
        if chance.random() < 0.6:
            ingest.drop(key, data=chance.randbytes(8))
            bodies.append(eventbridge_message(key, bucket=ingest.storage.bucket))
        else:
            ingest.delete(key)
            bodies.append(eventbridge_message(key, "Object Deleted", ingest.storage.bucket))
    bodies += chance.sample(bodies, 20)
    chance.shuffle(bodies)
    while bodies:
        ingest.send(*bodies[:17])
        bodies = bodies[17:]
        ingest.tick()
    ingest.settle_deletions()
    stored = {item.key: item.version for item in ingest.storage.list("bw/")}
    with ingest.archive.database.connect() as connection:
        rows = connection.execute(text("SELECT key, version FROM ls4.source WHERE state <> 'deleted'"))
        assert {row.key: row.version for row in rows} == stored
    assert sorted(key for batch in ingest.claim() for key in batch) == sorted(stored)


class CrashingQueue:
    """A queue whose reader crashes before it deletes messages."""

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue

    def receive(self) -> list[QueueMessage]:
        return self.queue.receive()

    def delete(self, messages: Sequence[QueueMessage]) -> None:
        raise RuntimeError("killed")


def test_crash_between_commit_and_delete_only_repeats_the_check(ingest: EventIngest) -> None:
    ingest.drop(tif(1))
    ingest.send_created(tif(1))
    bucket = ingest.storage.bucket
    with pytest.raises(RuntimeError, match="killed"):
        events.fill_inbox(CrashingQueue(ingest.queue), ingest.archive.database, bucket, messages=10, seconds=10)
    assert ingest.inbox() == {tif(1): 1}
    assert ingest.tick().counts["queued"] == 1
    assert ingest.claim() == [[tif(1)]]
    assert ingest.tick().counts["queued"] == 0
    assert (ingest.inbox(), ingest.claim(), ingest.queue.receive()) == ({}, [], [])


def test_key_with_an_event_during_its_check_is_checked_again(ingest: EventIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check may have listed the folder just before the change that the event reports."""
    ingest.drop(tif(1), tif(2))
    ingest.send_created(tif(1), tif(2))
    receive_events(ingest.archive)
    checks: list[list[str]] = []

    def check_with_new_event(archive: Archive, keys: list[str]) -> ScanReport:
        checks.append(sorted(keys))
        if len(checks) == 1:
            with archive.database.begin() as connection:
                events.enqueue_keys(connection, [tif(2)])
        return check_keys(archive, keys)

    monkeypatch.setattr(events, "check_keys", check_with_new_event)
    events.drain_inbox(ingest.archive, 10)
    assert checks == [[tif(1), tif(2)], [tif(2)]]
    assert ingest.inbox() == {}


def test_draining_the_inbox_is_bounded_in_time(ingest: EventIngest) -> None:
    ingest.drop(tif(1))
    ingest.send_created(tif(1))
    receive_events(ingest.archive)
    events.drain_inbox(ingest.archive, 0)
    assert ingest.inbox() == {tif(1): 1}


def test_unreadable_messages_go_to_the_dead_letters_and_do_not_block_others(ingest: EventIngest) -> None:
    ingest.drop(*map(tif, range(5)))
    ingest.send(*UNREADABLE[:4])
    ingest.send_created(*map(tif, range(5)))
    report = ingest.tick()
    assert report.counts["queued"] == 5
    assert any("goes to the dead-letter queue. Find out who sends 'not json'." in error for error in report.errors)
    for _ in range(3):
        ingest.tick()
    assert ingest.queue.receive() == []
    dead_letters = EventQueue(ingest.dead_letters, REGION).receive()
    assert sorted(message.body for message in dead_letters) == sorted(UNREADABLE[:4])


def test_late_world_file_is_a_new_version(ingest: EventIngest) -> None:
    ingest.drop(tif(1))
    ingest.send_created(tif(1))
    ingest.tick()
    ingest.finish()
    world = tif(1).replace(".tif", ".tfw")
    ingest.drop(world)
    ingest.send_created(world)
    assert ingest.tick().counts["queued"] == 1
    ingest.finish()
    ingest.delete(world)
    ingest.send_deleted(world)
    assert ingest.tick().counts["queued"] == 1


def test_unlisted_folder_is_retried_later_and_does_not_block_others(ingest: EventIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tif(1, "bw/Bastrop/USDA_1958/frames/georef")
    ingest.drop(tif(1), other)
    ingest.send_created(tif(1), other)
    level = ingest.storage.list_level

    def broken(folder: str, after: str = "") -> Iterator[object]:
        if folder.startswith("bw/Travis"):
            raise OSError("slow down")
        return level(folder, after)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.storage, "list_level", broken)
        report = ingest.tick()
    assert report.unlisted == {f"{FOLDER}/"}
    assert ingest.states() == {other: "queued"}
    assert ingest.inbox() == {tif(1): 1}
    ingest.tick()
    assert tif(1) not in ingest.states(), "it is not listed again at every tick"
    ingest.write("UPDATE ls4.inbox SET retry_after = now()")
    ingest.tick()
    assert ingest.states()[tif(1)] == "queued"
    assert ingest.inbox() == {}


def test_large_deletion_is_held_although_its_events_arrive_gradually(ingest: EventIngest) -> None:
    keys = [tif(number) for number in range(60)]
    ingest.drop(*keys)
    ingest.send_created(*keys)
    ingest.tick()
    ingest.finish()
    ingest.delete(*keys[:40])
    for start in range(0, 40, 10):
        ingest.send_deleted(*keys[start : start + 10])
        assert ingest.tick().counts["gone"] == 0
    ingest.age_missing()
    assert ingest.tick().held == {NAME}
    assert ingest.count() == {"done": 60}


def test_single_deletion_is_applied(ingest: EventIngest) -> None:
    ingest.drop(tif(1), tif(2))
    ingest.send_created(tif(1), tif(2))
    ingest.tick()
    ingest.delete(tif(1))
    ingest.send_deleted(tif(1))
    assert ingest.settle_deletions().counts["gone"] == 1
    assert ingest.states() == {tif(1): "deleted", tif(2): "queued"}


def test_full_scan_finds_what_no_event_reported(ingest: EventIngest) -> None:
    ingest.drop(tif(1), tif(2))
    ingest.send_created(tif(1), tif(2))
    ingest.tick()
    ingest.delete(tif(1))
    ingest.drop(tif(3))
    ingest.tick()
    assert ingest.states() == {tif(1): "queued", tif(2): "queued"}
    ingest.event_cursor = ""  # no full scan yet
    ingest.settle_deletions()
    assert ingest.states() == {tif(1): "deleted", tif(2): "queued", tif(3): "queued"}
    assert not FullScan.from_cursor(ingest.event_cursor).is_due(datetime.now(UTC), (datetime.now(UTC) + HOUR).hour)


def test_full_scan_resumes_and_events_are_processed_during_it(ingest: EventIngest) -> None:
    ingest.archive = type(ingest.archive)(overrides=ingest.archive.overrides | {"scan_keys": "3"})
    keys = [tif(number) for number in range(8)]
    ingest.drop(*keys)
    ingest.event_cursor = ""
    ingest.send_created(keys[7])
    ingest.tick()
    assert list(ingest.states()) == [*keys[:3], keys[7]]
    assert FullScan.from_cursor(ingest.event_cursor).next_key
    ingest.tick()
    ingest.tick()
    assert list(ingest.states()) == keys
    assert FullScan.from_cursor(ingest.event_cursor).next_key == ""


def test_full_scan_is_due_once_a_day() -> None:
    now = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert FullScan().is_due(now, 8)
    assert FullScan("2026-11-23T07:59:00+00:00").is_due(now, 8)
    assert not FullScan("2026-11-23T08:00:00+00:00").is_due(now, 8)
    assert not FullScan("2026-11-22T11:00:00+00:00").is_due(now, 10), "it is not yet 10:00 today"
    assert FullScan("2026-11-23T08:00:00+00:00", "bw/x").is_due(now, 8), "one is running"
    assert FullScan.from_cursor("bw/Travis/another sensor's cursor") == FullScan()
    assert FullScan.from_cursor(str(FullScan("2026-11-23T08:00:00+00:00", "bw/x"))).next_key == "bw/x"
    assert FullScan().advance(ScanReport(unlisted={""}), now) == FullScan(), "a bucket that could not be listed was not scanned"


def put_inventory(ingest: EventIngest, reports: S3Storage, created: datetime) -> str:
    """A report in the format of S3: two files, unordered, with all versions."""
    rows = [["scans", quote_plus(o.key, safe="/"), "v", "true", "false", o.size, o.modified.isoformat(), o.version]
            for o in ingest.storage.list("")]  # fmt: skip
    rows += [
        ["scans", tif(77), "v", "false", "false", 1, created.isoformat(), "old"],
        ["scans", tif(78), "v", "true", "true", "", "", ""],
    ]
    files = []
    for number, part in enumerate((rows[::-2], rows[-2::-2])):
        lines = io.StringIO()
        csv.writer(lines, quoting=csv.QUOTE_ALL).writerows(part)
        reports.put(f"data/{number}.csv.gz", gzip.compress(lines.getvalue().encode()))
        files.append({"key": f"data/{number}.csv.gz"})
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
    manifest = {"sourceBucket": ingest.storage.bucket, "fileFormat": "CSV", "fileSchema": schema, "files": files}
    manifest["creationTimestamp"] = str(int(created.timestamp() * 1000))
    reports.put("daily/manifest.json", json.dumps(manifest).encode())
    return f"s3://{reports.bucket}/daily/manifest.json"


def test_inventory_differences_are_enqueued(ingest: EventIngest, server: S3Server) -> None:
    """New, changed, with another world file, gone, and dropped since: the bucket is checked for every difference."""
    world = tif(3).replace(".tif", ".tfw")
    ingest.drop(*map(tif, range(1, 6)), world)
    ingest.send_created(*map(tif, range(1, 6)))
    ingest.tick()
    ingest.drop(tif(1), world, f"{FOLDER}/02-08-60_6-9 a.tif", data=b"another")
    ingest.drop(f"{FOLDER}/deflate/02-08-60_6-1.tif")
    ingest.delete(tif(4), tif(5))
    reports = server.new_bucket()
    address = put_inventory(ingest, reports, datetime.now(UTC))
    ingest.drop(tif(4))
    ingest.drop(tif(6))
    ingest.send_created(tif(6))
    ingest.tick()
    ingest.write("UPDATE ls4.source SET changed_at = changed_at + interval '1 hour' WHERE key = :k", k=tif(6))

    assert enqueue_differences(ingest.archive, address) == InventoryDifferences(listed=5, changed=3, missing=2)
    assert set(ingest.inbox()) == {tif(1), tif(3), f"{FOLDER}/02-08-60_6-9 a.tif", tif(4), tif(5)}
    ingest.settle_deletions()
    assert ingest.count() == {"queued": 5, "rejected": 1, "deleted": 1}
    assert enqueue_differences(ingest.archive, put_inventory(ingest, reports, datetime.now(UTC))).changed == 0


def test_inventory_of_another_bucket_is_rejected(ingest: EventIngest, server: S3Server) -> None:
    reports = server.new_bucket()
    reports.put("manifest.json", json.dumps({"sourceBucket": "another", "fileFormat": "CSV"}).encode())
    with pytest.raises(ConfigurationError, match="is not a CSV inventory of ls4-"):
        enqueue_differences(ingest.archive, f"s3://{reports.bucket}/manifest.json")


def test_unavailable_queue_does_not_block_the_scan(ingest: EventIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.drop(tif(1))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    ingest.event_cursor = ""
    report = ingest.tick()
    assert ingest.states() == {tif(1): "queued"}
    assert [error for error in report.errors if "nothing is lost, and the next tick retries." in error] == report.errors


def test_events_are_rejected_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LS4_EVENTS_QUEUE_URL needs a storage that sends events, such as s3://bucket"):
        load_settings(storage=str(tmp_path), database_url="x", public_url="x", map_url="x", events_queue_url="http://q")


def test_event_leads_to_the_map(server: S3Server, cluster: Cluster, tmp_path: Path) -> None:
    """The sensor as Dagster runs it; the run has tags with its task size for the ECS launcher, and both runs with their size."""
    bucket = server.new_bucket()
    queue, _ = new_queue(bucket.bucket)
    settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "events_queue_url": queue, "fargate": "true"}
    with running_platform(cluster, tmp_path, f"s3://{bucket.bucket}", **settings) as platform:
        platform.tick("ingest_events")  # the first full scan
        key = f"{FOLDER}/02-08-60_6-107.tif"
        platform.drop(key, write_tif(tmp_path / "x.tif", photograph(300, 320)))
        EventQueue(queue, REGION).client.send_message(QueueUrl=queue, MessageBody=eventbridge_message(key, bucket=bucket.bucket))
        result = platform.tick("ingest_events")
        assert isinstance(result, dg.SensorResult) and result.run_requests
        assert {name: tag for name, tag in result.run_requests[0].tags.items() if name.startswith("ecs/")} == {
            "ecs/cpu": "1024",
            "ecs/memory": "2048",
        }
        assert [run.success for run in platform.execute(result)] == [True]
        rebuild = platform.tick("publish_collections")
        assert isinstance(rebuild, dg.SensorResult) and rebuild.run_requests
        for request in (result.run_requests[0], rebuild.run_requests[0]):
            assert warm_memory_mb(request.tags, platform.settings) is not None, "it would wait a minute for a task"
        assert [run.success for run in platform.execute(rebuild)] == [True]
        assert platform.state(key) == ("done", None)
        assert isinstance(platform.tick("ingest_events"), dg.SkipReason)


def request_runs(platform: Platform) -> Sequence[dg.RunRequest]:
    result = platform.tick("ingest_poll")
    return result.run_requests or [] if isinstance(result, dg.SensorResult) else []


def test_batch_of_a_killed_run_gets_a_larger_task(server: S3Server, cluster: Cluster, tmp_path: Path) -> None:
    """Exit code 137: a task of the same size would be killed again."""
    with running_platform(cluster, tmp_path, fargate="true") as platform:
        platform.drop(f"{FOLDER}/02-08-60_6-107.tif", write_tif(tmp_path / "x.tif", photograph(300, 320)))
        memory = []
        for _ in range(2):
            (run_request,) = next(requests for requests in (request_runs(platform) for _ in range(3)) if requests)
            memory.append(run_request.tags["ecs/memory"])
            run = platform.instance.create_run_for_job(
                platform.definitions.resolve_implicit_global_asset_job_def(), tags=dict(run_request.tags)
            )
            start = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
            platform.instance.report_dagster_event(start, run.run_id)
            platform.instance.report_run_failed(run, "Container 'run' failed - exit code 137.")
            platform.tick("ingest_poll")
            platform.skip_waits()
        assert memory == ["2048", "4096"]
