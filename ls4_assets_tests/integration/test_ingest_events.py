"""The bucket's events, on moto's S3 and SQS: twice, late, in disorder, unreadable, lost, with a death at each step."""

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
from ls4_assets.ingest.inventory import Differences, note_differences
from ls4_assets.ingest.scan import ScanReport
from ls4_assets.local.postgres import Cluster
from ls4_assets.settings import load_settings
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Intake, tif
from ls4_assets_tests.platform import Platform, empty_archive, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.archive import Archive
from resources.queue import EventQueue, Message
from resources.s3_storage import S3Storage
from sensors.ingest_events import FullScan, receive_events, scan_by_events

BUCKET = "scans"
HOUR = timedelta(hours=1)


def bridged(key: str, what: str = "Object Created", bucket: str = BUCKET) -> str:
    """As EventBridge tells it, with the key as it is."""
    detail = {"version": "0", "bucket": {"name": bucket}, "object": {"key": key, "size": 1, "etag": "e", "sequencer": "0"}}
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": what, "detail": detail})


def direct(*keys: str, bucket: str = BUCKET) -> str:
    """As S3 itself tells it, with keys encoded."""
    places = [{"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}} for key in keys]
    return json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": place} for place in places]})


@pytest.mark.parametrize("key", [tif(1), "bw/Travis/USDA_1958/frames/georef/a + b ä.tif", "x%20y.tif"])
def test_both_kinds_of_events_are_understood(key: str) -> None:
    assert events.keys_from_event(bridged(key), BUCKET) == [key]
    assert events.keys_from_event(bridged(key, "Object Deleted"), BUCKET) == [key]
    assert events.keys_from_event(direct(key, tif(2)), BUCKET) == [key, tif(2)]


def test_the_greeting_of_s3_tells_of_nothing() -> None:
    assert events.keys_from_event('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "scans"}', BUCKET) == []


UNREADABLE = [
    "no json", "[]", "{}", '"text"', '{"Records": [1]}', '{"Records": [{"s3": {}}]}', '{"source": "aws.s3"}',
    '{"source": "aws.s3", "detail": {"bucket": {"name": "scans"}, "object": {"key": 7}}}',
    bridged(tif(1), bucket="another"), bridged("a\0.tif"), bridged("a\ud800.tif"),
]  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_is_no_event_of_this_bucket(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever its words, they are only shown
        events.keys_from_event(body, BUCKET)


@dataclass
class Told(Intake):
    """An archive on S3 whose events are sent by the test."""

    letters: str = ""
    sweep: str | None = None

    @property
    def queue(self) -> EventQueue:
        return self.archive.queue

    def tell(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self.queue.client.send_message_batch(QueueUrl=self.archive.settings.events_queue_url, Entries=entries)  # type: ignore[arg-type]

    def created(self, *keys: str) -> None:
        self.tell(*(bridged(key, bucket=self.storage.bucket) for key in keys))

    def deleted(self, *keys: str) -> None:
        self.tell(*(bridged(key, "Object Deleted", self.storage.bucket) for key in keys))

    def tick(self) -> ScanReport:
        """What the sensor sees at one tick; the first sweep is long over."""
        if self.sweep is None:
            self.sweep = str(FullScan(began=datetime.now(UTC).isoformat()))
        look, self.sweep = scan_by_events(self.archive, self.sweep)
        return look

    def later(self, seconds: int = 60) -> None:
        """As if the time had passed in which the events of one deletion come together."""
        self.write("UPDATE ls4.source SET missing_since = missing_since - :s * interval '1 second'", s=seconds)

    def settle_deletions(self) -> ScanReport:
        self.tick()
        self.later()
        return self.tick()

    def inbox(self) -> dict[str, int]:
        with self.archive.database.connect() as connection:
            return {row.key: row.events for row in connection.execute(text("SELECT key, events FROM ls4.inbox"))}


@pytest.fixture
def server(s3_server: Callable[[str], S3Server], monkeypatch: pytest.MonkeyPatch) -> S3Server:
    moto = s3_server("moto")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto.endpoint_url)
    monkeypatch.setattr("resources.queue._WAIT_SECONDS", 0)  # moto has but one server to ask
    return moto


def new_queue(name: str) -> tuple[str, str]:
    """A queue whose messages come again at once and, the third time, are dead letters; and that of those."""
    client = EventQueue("", REGION).client
    letters = client.create_queue(QueueName=f"{name}-letters")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    attributes = {"VisibilityTimeout": "0", "RedrivePolicy": policy}
    return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], letters  # type: ignore[arg-type]


@pytest.fixture
def told(server: S3Server, cluster: Cluster, tmp_path: Path) -> Iterator[Told]:
    bucket = server.new_bucket().bucket
    queue, letters = new_queue(bucket)
    places = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "events_queue_url": queue}
    with empty_archive(cluster, tmp_path, f"s3://{bucket}", **places) as archive:
        yield Told(archive, letters=letters)


def test_what_is_dropped_is_queued_and_leaves_no_trace_in_queue_and_inbox(told: Told) -> None:
    told.drop(tif(1), tif(2))
    told.tell(bridged(tif(1), bucket=told.storage.bucket), direct(tif(2), bucket=told.storage.bucket))
    assert told.tick().counts["queued"] == 2
    assert told.states() == {tif(1): "queued", tif(2): "queued"}
    assert told.inbox() == {}
    assert told.queue.receive() == []


def test_an_event_is_not_believed(told: Told) -> None:
    """Created, and gone again; deleted, and dropped again since."""
    told.drop(tif(2))
    told.created(tif(1))
    told.deleted(tif(2))
    told.settle_deletions()
    assert told.states() == {tif(2): "queued"}


def test_products_wake_nobody(told: Told) -> None:
    """`*/georef/*.tif` matches `georef/deflate/x.tif` too: each frame made would ask for itself."""
    products = [f"{FOLDER}/deflate/02-08-60_6-1.tif", f"{FOLDER}/deflate/02-08-60_6-1.tif.ovr", "derived/x/mosaic.tif"]
    others = [f"{FOLDER.replace('georef', 'cog')}/02-08-60_6-1.tif", f"{FOLDER.replace('georef', 'scanned')}/02-08-60_6-1.tif"]
    hidden = [f"{FOLDER}/._02-08-60_6-1.tif", f"{FOLDER}/.x/02-08-60_6-1.tif", f"{FOLDER}/", f"{FOLDER}/Thumbs.db"]
    told.drop(*products, *others, *hidden)
    told.created(*products, *others, *hidden)
    receive_events(told.archive)
    assert told.inbox() == {}
    told.tick()
    assert told.states() == {}


@pytest.mark.parametrize("seed", range(2))
def test_in_any_order_twice_and_late(told: Told, seed: int) -> None:
    """Whatever order the events come in, what lies in the bucket counts."""
    chance = random.Random(seed)
    keys = [tif(number) for number in range(12)]
    bodies = []
    for _ in range(40):
        key = chance.choice(keys)
        if chance.random() < 0.6:
            told.drop(key, data=chance.randbytes(8))
            bodies.append(bridged(key, bucket=told.storage.bucket))
        else:
            told.delete(key)
            bodies.append(bridged(key, "Object Deleted", told.storage.bucket))
    bodies += chance.sample(bodies, 20)
    chance.shuffle(bodies)
    while bodies:
        told.tell(*bodies[:17])
        bodies = bodies[17:]
        told.tick()
    told.settle_deletions()
    there = {found.key: found.version for found in told.storage.list("bw/")}
    with told.archive.database.connect() as connection:
        rows = connection.execute(text("SELECT key, version FROM ls4.source WHERE state <> 'deleted'"))
        assert {row.key: row.version for row in rows} == there
    assert sorted(key for batch in told.claim() for key in batch) == sorted(there)


class Dying:
    """A queue whose reader dies when it would delete."""

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue

    def receive(self) -> list[Message]:
        return self.queue.receive()

    def delete(self, messages: Sequence[Message]) -> None:
        raise RuntimeError("killed")


def test_a_death_between_commit_and_delete_costs_a_second_look(told: Told) -> None:
    told.drop(tif(1))
    told.created(tif(1))
    bucket = told.storage.bucket
    with pytest.raises(RuntimeError, match="killed"):
        events.receive(Dying(told.queue), told.archive.database, bucket, messages=10, seconds=10)
    assert told.inbox() == {tif(1): 1}
    assert told.tick().counts["queued"] == 1
    assert told.claim() == [[tif(1)]]
    assert told.tick().counts["queued"] == 0
    assert (told.inbox(), told.claim(), told.queue.receive()) == ({}, [], [])


def test_an_event_that_comes_during_a_look_is_looked_at_again(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look may have read the folder just before what the event tells of."""
    told.drop(tif(1), tif(2))
    told.created(tif(1), tif(2))
    receive_events(told.archive)
    check_keys = events.check_keys
    looks: list[list[str]] = []

    def meanwhile(archive: Archive, keys: list[str]) -> ScanReport:
        looks.append(sorted(keys))
        if len(looks) == 1:
            with archive.database.begin() as connection:
                events.put(connection, [tif(2)])
        return check_keys(archive, keys)

    monkeypatch.setattr(events, "look_at_keys", meanwhile)
    events.drain_inbox(told.archive, 10)
    assert looks == [[tif(1), tif(2)], [tif(2)]]
    assert told.inbox() == {}


def test_a_look_at_the_inbox_is_bounded(told: Told) -> None:
    told.drop(tif(1))
    told.created(tif(1))
    receive_events(told.archive)
    events.drain_inbox(told.archive, 0)
    assert told.inbox() == {tif(1): 1}


def test_unreadable_messages_go_to_the_dead_letters_and_hold_up_no_other(told: Told) -> None:
    told.drop(*map(tif, range(5)))
    told.tell(*UNREADABLE[:4])
    told.created(*map(tif, range(5)))
    look = told.tick()
    assert look.counts["queued"] == 5
    assert any("goes to the dead letters; see who sends there 'no json'." in error for error in look.errors)
    for _ in range(3):
        told.tick()
    assert told.queue.receive() == []
    letters = EventQueue(told.letters, REGION).receive()
    assert sorted(letter.body for letter in letters) == sorted(UNREADABLE[:4])


def test_a_world_file_that_comes_late_is_a_new_version(told: Told) -> None:
    told.drop(tif(1))
    told.created(tif(1))
    told.tick()
    told.finish()
    world = tif(1).replace(".tif", ".tfw")
    told.drop(world)
    told.created(world)
    assert told.tick().counts["queued"] == 1
    told.finish()
    told.delete(world)
    told.deleted(world)
    assert told.tick().counts["queued"] == 1


def test_a_folder_that_cannot_be_read_waits_and_holds_up_no_other(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tif(1, "bw/Bastrop/USDA_1958/frames/georef")
    told.drop(tif(1), other)
    told.created(tif(1), other)
    level = told.storage.level

    def broken(folder: str, after: str = "") -> Iterator[object]:
        if folder.startswith("bw/Travis"):
            raise OSError("slow down")
        return level(folder, after)

    with monkeypatch.context() as patch:
        patch.setattr(told.storage, "level", broken)
        look = told.tick()
    assert look.unlisted == {f"{FOLDER}/"}
    assert told.states() == {other: "queued"}
    assert told.inbox() == {tif(1): 1}
    told.tick()
    assert tif(1) not in told.states(), "it is not asked again at every tick"
    told.write("UPDATE ls4.inbox SET retry_after = now()")
    told.tick()
    assert told.states()[tif(1)] == "queued"
    assert told.inbox() == {}


def test_a_large_deletion_is_held_though_its_events_come_by_and_by(told: Told) -> None:
    keys = [tif(number) for number in range(60)]
    told.drop(*keys)
    told.created(*keys)
    told.tick()
    told.finish()
    told.delete(*keys[:40])
    for start in range(0, 40, 10):
        told.deleted(*keys[start : start + 10])
        assert told.tick().counts["gone"] == 0
    told.later()
    assert told.tick().held == {NAME}
    assert told.count() == {"done": 60}


def test_a_single_deletion_goes(told: Told) -> None:
    told.drop(tif(1), tif(2))
    told.created(tif(1), tif(2))
    told.tick()
    told.delete(tif(1))
    told.deleted(tif(1))
    assert told.settle_deletions().counts["gone"] == 1
    assert told.states() == {tif(1): "deleted", tif(2): "queued"}


def test_the_sweep_finds_what_no_event_told_of(told: Told) -> None:
    told.drop(tif(1), tif(2))
    told.created(tif(1), tif(2))
    told.tick()
    told.delete(tif(1))
    told.drop(tif(3))
    told.tick()
    assert told.states() == {tif(1): "queued", tif(2): "queued"}
    told.sweep = ""  # no sweep yet
    told.settle_deletions()
    assert told.states() == {tif(1): "deleted", tif(2): "queued", tif(3): "queued"}
    assert not FullScan.of(told.sweep).is_due(datetime.now(UTC), (datetime.now(UTC) + HOUR).hour)


def test_a_sweep_goes_on_where_it_stopped_and_events_are_heard_meanwhile(told: Told) -> None:
    told.archive = type(told.archive)(overrides=told.archive.overrides | {"scan_keys": "3"})
    keys = [tif(number) for number in range(8)]
    told.drop(*keys)
    told.sweep = ""
    told.created(keys[7])
    told.tick()
    assert list(told.states()) == [*keys[:3], keys[7]]
    assert FullScan.of(told.sweep).next_key
    told.tick()
    told.tick()
    assert list(told.states()) == keys
    assert FullScan.of(told.sweep).next_key == ""


def test_when_a_sweep_is_due() -> None:
    now = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert FullScan().is_due(now, 8)
    assert FullScan("2026-11-23T07:59:00+00:00").is_due(now, 8)
    assert not FullScan("2026-11-23T08:00:00+00:00").is_due(now, 8)
    assert not FullScan("2026-11-22T11:00:00+00:00").is_due(now, 10), "it is not yet ten today"
    assert FullScan("2026-11-23T08:00:00+00:00", "bw/x").is_due(now, 8), "one is under way"
    assert FullScan.of("bw/Travis/another sensor's cursor") == FullScan()
    assert FullScan.of(str(FullScan("2026-11-23T08:00:00+00:00", "bw/x"))).next_key == "bw/x"
    assert FullScan().after(ScanReport(unlisted={""}), now) == FullScan(), "a bucket that could not be listed was not swept"


def put_inventory(told: Told, reports: S3Storage, made: datetime) -> str:
    """A report as S3 writes it, in two files without any order, with every version."""
    rows = [["scans", quote_plus(o.key, safe="/"), "v", "true", "false", o.size, o.modified.isoformat(), o.version]
            for o in told.storage.list("")]  # fmt: skip
    rows += [
        ["scans", tif(77), "v", "false", "false", 1, made.isoformat(), "old"],
        ["scans", tif(78), "v", "true", "true", "", "", ""],
    ]
    files = []
    for number, part in enumerate((rows[::-2], rows[-2::-2])):
        text_ = io.StringIO()
        csv.writer(text_, quoting=csv.QUOTE_ALL).writerows(part)
        reports.put(f"data/{number}.csv.gz", gzip.compress(text_.getvalue().encode()))
        files.append({"key": f"data/{number}.csv.gz"})
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
    manifest = {"sourceBucket": told.storage.bucket, "fileFormat": "CSV", "fileSchema": schema, "files": files}
    manifest["creationTimestamp"] = str(int(made.timestamp() * 1000))
    reports.put("daily/manifest.json", json.dumps(manifest).encode())
    return f"s3://{reports.bucket}/daily/manifest.json"


def test_an_inventory_tells_where_to_look(told: Told, server: S3Server) -> None:
    """New, changed, with another world file, gone, and come since: what it shows otherwise than known, the bucket is asked."""
    world = tif(3).replace(".tif", ".tfw")
    told.drop(*map(tif, range(1, 6)), world)
    told.created(*map(tif, range(1, 6)))
    told.tick()
    told.drop(tif(1), world, f"{FOLDER}/02-08-60_6-9 a.tif", data=b"another")
    told.drop(f"{FOLDER}/deflate/02-08-60_6-1.tif")
    told.delete(tif(4), tif(5))
    reports = server.new_bucket()
    address = put_inventory(told, reports, datetime.now(UTC))
    told.drop(tif(4))
    told.drop(tif(6))
    told.created(tif(6))
    told.tick()
    told.write("UPDATE ls4.source SET changed_at = changed_at + interval '1 hour' WHERE key = :k", k=tif(6))

    assert note_differences(told.archive, address) == Differences(listed=5, differ=3, absent=2)
    assert set(told.inbox()) == {tif(1), tif(3), f"{FOLDER}/02-08-60_6-9 a.tif", tif(4), tif(5)}
    told.settle_deletions()
    assert told.count() == {"queued": 5, "rejected": 1, "deleted": 1}
    assert note_differences(told.archive, put_inventory(told, reports, datetime.now(UTC))).differ == 0


def test_an_inventory_of_another_bucket_is_rejected(told: Told, server: S3Server) -> None:
    reports = server.new_bucket()
    reports.put("manifest.json", json.dumps({"sourceBucket": "another", "fileFormat": "CSV"}).encode())
    with pytest.raises(ConfigurationError, match="is no inventory of ls4-"):
        note_differences(told.archive, f"s3://{reports.bucket}/manifest.json")


def test_a_queue_that_is_away_holds_up_nobody(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.drop(tif(1))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    told.sweep = ""
    look = told.tick()
    assert told.states() == {tif(1): "queued"}
    assert [error for error in look.errors if "nothing is lost, the next look tries again." in error] == look.errors


def test_events_of_a_folder_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LS4_EVENTS_QUEUE_URL tells of a bucket"):
        load_settings(storage=str(tmp_path), database_url="x", public_url="x", map_url="x", events_queue_url="http://q")


def test_from_the_event_to_the_map(server: S3Server, cluster: Cluster, tmp_path: Path) -> None:
    """The sensor as Dagster runs it; the sizes of tasks are told to the ECS launcher."""
    bucket = server.new_bucket()
    queue, _ = new_queue(bucket.bucket)
    places = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "events_queue_url": queue, "fargate": "true"}
    with running_platform(cluster, tmp_path, f"s3://{bucket.bucket}", **places) as platform:
        platform.tick("ingest_events")  # the first sweep
        key = f"{FOLDER}/02-08-60_6-107.tif"
        platform.drop(key, write_tif(tmp_path / "x.tif", photograph(300, 320)))
        EventQueue(queue, REGION).client.send_message(QueueUrl=queue, MessageBody=bridged(key, bucket=bucket.bucket))
        result = platform.tick("ingest_events")
        assert isinstance(result, dg.SensorResult) and result.run_requests
        assert {name: tag for name, tag in result.run_requests[0].tags.items() if name.startswith("ecs/")} == {
            "ecs/cpu": "1024",
            "ecs/memory": "2048",
        }
        assert [run.success for run in [*platform.execute(result), *platform.rebuild()]] == [True, True]
        assert platform.state(key) == ("done", None)
        assert isinstance(platform.tick("ingest_events"), dg.SkipReason)


def requested(platform: Platform) -> Sequence[dg.RunRequest]:
    result = platform.tick("ingest_poll")
    return result.run_requests or [] if isinstance(result, dg.SensorResult) else []


def test_a_batch_whose_run_was_killed_gets_a_larger_task(server: S3Server, cluster: Cluster, tmp_path: Path) -> None:
    """Exit code 137: the same size again would be killed again."""
    with running_platform(cluster, tmp_path, fargate="true") as platform:
        platform.drop(f"{FOLDER}/02-08-60_6-107.tif", write_tif(tmp_path / "x.tif", photograph(300, 320)))
        memory = []
        for _ in range(2):
            (wanted,) = next(requests for requests in (requested(platform) for _ in range(3)) if requests)
            memory.append(wanted.tags["ecs/memory"])
            run = platform.instance.create_run_for_job(
                platform.definitions.resolve_implicit_global_asset_job_def(), tags=dict(wanted.tags)
            )
            begins = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
            platform.instance.report_dagster_event(begins, run.run_id)
            platform.instance.report_run_failed(run, "Container 'run' failed - exit code 137.")
            platform.tick("ingest_poll")
            platform.skip_waits()
        assert memory == ["2048", "4096"]
