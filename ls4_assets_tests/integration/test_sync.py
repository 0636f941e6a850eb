"""The mapfile sidecar: what it copies from S3, what it rejects, what it removes, what it logs, and how it survives an outage."""

import json
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ls4_assets import logs
from ls4_assets.domain.export_keys import COLLECTIONS_KEY, STAFF_KEY
from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError
from ls4_assets.notifications.rejections import RejectionCounts, render_staff_json
from ls4_assets_tests.integration.serving_fixtures import (
    EXTENT,
    NAME,
    TABLE,
    MapServer,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
    mapfile_context,
)
from ls4_assets_tests.integration.storage_fixtures import put_raw
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from mapserver import sync, tiles
from mapserver.mapfile import render
from mapserver.sync import MapfileSync
from resources.s3_storage import S3Storage

pytestmark = pytest.mark.timeout(180)

KEY = f"mapfiles/{TABLE}.map"
MAP = render(mapfile_context(Collection("Travis", "USDA_1958", "frames"))).encode()
RETITLED = MAP.replace(b"Travis Usda 1958 Frames", b"Another Title")
LISTED = b'{"collections": [{"name": "Travis_USDA_1958_frames"}]}'


@pytest.fixture(name="log")
def log_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Returns the events that were logged so far."""
    file = tmp_path_factory.mktemp("log") / "ls4.jsonl"
    logs.configure(file)
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    logs.configure()


@pytest.fixture
def sidecar(s3_server: Callable[[str], S3Server], tmp_path: Path) -> MapfileSync:
    """A sidecar of an empty bucket. Tests call `sync_once`."""
    (tmp_path / "mapfiles").mkdir()
    bucket = s3_server("moto").new_bucket()
    return MapfileSync(bucket, tmp_path / "mapfiles", tmp_path / "collections.json", tmp_path / "state.json")


def render_documents(version: int) -> dict[str, str]:
    return tiles.render_documents(tiles.TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, 2.0, version))


def served_files(sidecar: MapfileSync) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sidecar.folder.iterdir()}


# Copying


def test_maps_and_the_list_are_copied_and_replaced(sidecar: MapfileSync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert sidecar.collections.read_bytes() == LISTED
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (sidecar.collections, sidecar.folder / f"{TABLE}.map"))

    sidecar.storage.put(KEY, RETITLED)
    with (sidecar.folder / f"{TABLE}.map").open("rb") as open_file:
        sidecar.sync_once()
        assert open_file.read() == MAP  # a reader of the old file gets all of it
    assert served_files(sidecar) == {f"{TABLE}.map": RETITLED}


def test_the_list_for_staff_is_copied_only_when_configured(sidecar: MapfileSync) -> None:
    sidecar.storage.put(
        STAFF_KEY, render_staff_json(RejectionCounts(0, 0, ""), [], datetime.now(UTC), "http://maps.test/archive")
    )
    sidecar.sync_once()
    assert {path.name for path in sidecar.state.parent.iterdir()} == {"mapfiles", "state.json"}
    sidecar.rejections = sidecar.state.with_name("rejections.json")
    sidecar.sync_once()
    copied = sidecar.rejections.read_bytes()
    assert json.loads(copied)["rejections"] == []
    sidecar.storage.put(STAFF_KEY, LISTED)
    sidecar.sync_once()
    assert sidecar.rejections.read_bytes() == copied and STAFF_KEY in sidecar.rejected


def test_tilejson_and_wmts_are_replaced_after_their_mapfile(sidecar: MapfileSync, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TileJSON makes a version current: tiles drawn with an older mapfile would be cached under the new version."""
    replaced: list[str] = []
    replace = sync.replace_atomically

    def record_and_replace(path: Path, data: bytes) -> None:
        replaced.append(path.name)
        replace(path, data)

    monkeypatch.setattr(sync, "replace_atomically", record_and_replace)
    sidecar.storage.put(KEY, MAP)
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    for suffix, text in render_documents(1).items():
        sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", text.encode())
    sidecar.sync_once()
    assert replaced == [f"{TABLE}.map", f"{TABLE}.wmts", f"{TABLE}.tilejson", "collections.json", "state.json"]

    # As if map and TileJSON were published during the listing, which has the older version of the map.
    sidecar.storage.put(KEY, RETITLED)
    sidecar.versions[KEY] = next(listed.version for listed in sidecar.storage.list(KEY))
    sidecar.storage.put(f"mapfiles/{TABLE}.tilejson", render_documents(2)[".tilejson"].encode())
    sidecar.sync_once()
    assert served_files(sidecar)[f"{TABLE}.map"] == RETITLED
    assert b"?v=2" in served_files(sidecar)[f"{TABLE}.tilejson"]


@pytest.mark.parametrize("suffix", [".wmts", ".tilejson"])
def test_broken_document_is_rejected(sidecar: MapfileSync, suffix: str) -> None:
    valid = render_documents(1)[suffix].encode()
    sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", valid)
    sidecar.sync_once()
    for broken in (valid[:-20], valid.replace(b"/tiles/", b"http://10.0.0.7/tiles/"), b""):
        sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", broken)
        sidecar.sync_once()
        assert served_files(sidecar) == {f"{TABLE}{suffix}": valid}


def test_restart_does_not_rewrite_current_files(sidecar: MapfileSync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    before = (sidecar.folder / f"{TABLE}.map").stat()
    MapfileSync(sidecar.storage, sidecar.folder, sidecar.collections, sidecar.state).sync_once()
    assert (sidecar.folder / f"{TABLE}.map").stat() == before


def test_locally_deleted_map_is_restored(sidecar: MapfileSync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    (sidecar.folder / f"{TABLE}.map").unlink()
    sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}


def test_many_maps_are_copied_in_one_sync(sidecar: MapfileSync) -> None:
    for number in range(60):
        put_raw(sidecar.storage, f"mapfiles/m_{number}.map", MAP)
    sidecar.sync_once()
    assert len(served_files(sidecar)) == 60


# Rejection


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(MAP[: len(MAP) // 2], "not a complete mapfile", id="first half"),
        pytest.param(MAP.rstrip().removesuffix(b"END"), "not a complete mapfile", id="last line lost"),
        pytest.param(b"", "not a complete mapfile", id="empty"),
        pytest.param(b"<html>503</html>", "not a complete mapfile", id="another document"),
        pytest.param(b"\xff\xfe" + MAP, "not UTF-8", id="not text"),
        pytest.param(MAP.replace(b"service=ls4", b"service=ls4 password=x"), "password", id="secret"),
        pytest.param(MAP + b"#" * sync.MAX_BYTES, "more than", id="huge"),
    ],
)
def test_last_good_map_stays_when_a_new_version_is_invalid(
    sidecar: MapfileSync, broken: bytes, reason: str, log: Callable[[], list[dict[str, Any]]]
) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    for key in (KEY, "mapfiles/new.map"):
        sidecar.storage.put(key, broken)
    for _ in range(3):
        sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert reason in json.loads(sidecar.state.read_text())["rejected"][KEY]
    rejections = {event["key"]: event for event in log() if event["event"] == "mapfile_rejected"}
    assert len([event for event in log() if event["event"] == "mapfile_rejected"]) == len(rejections) == 2, "each is logged once"
    assert rejections[KEY]["last_good_version_served"] and not rejections["mapfiles/new.map"]["last_good_version_served"]
    assert reason in rejections[KEY]["reason"] and rejections[KEY]["reason"].endswith("Publish it again.")

    sidecar.storage.put(KEY, RETITLED)
    sidecar.storage.delete("mapfiles/new.map")
    sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": RETITLED}
    assert json.loads(sidecar.state.read_text())["rejected"] == {}


@pytest.mark.parametrize("broken", [b"", b'{"collections": [', b"[]", b'{"collections": 1}'])
def test_broken_list_is_rejected(sidecar: MapfileSync, broken: bytes) -> None:
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    sidecar.sync_once()
    sidecar.storage.put(COLLECTIONS_KEY, broken)
    sidecar.sync_once()
    assert sidecar.collections.read_bytes() == LISTED


def test_other_objects_below_the_prefix_are_ignored(
    sidecar: MapfileSync, tmp_path: Path, log: Callable[[], list[dict[str, Any]]]
) -> None:
    foreign = ["../x.map", "..map", "sub/x.map", "X.map", "x.MAP", ".x.map", "x.map/", "a b.map", "x.map.part", "é.map", "x.sh"]
    (sidecar.folder / "footprint.html").write_text("the server's copy")
    for name in (*foreign, "footprint.html"):
        put_raw(sidecar.storage, f"mapfiles/{name}", MAP)
    before = sorted(tmp_path.iterdir())
    sidecar.storage.put(KEY, MAP)
    for _ in range(sync.REMOVE_AFTER_LISTINGS + 1):
        sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP, "footprint.html": b"the server's copy"}
    assert sorted(tmp_path.iterdir()) == sorted({*before, sidecar.state})
    ignored = [event["key"] for event in log() if event["event"] == "mapfile_ignored"]
    assert ignored.count("mapfiles/sub/x.map") == 1 and "mapfiles/footprint.html" not in ignored


# Removal


def test_withdrawn_map_is_removed_after_two_listings_without_it(
    sidecar: MapfileSync, log: Callable[[], list[dict[str, Any]]]
) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    sidecar.storage.delete(KEY)
    sidecar.sync_once()
    assert served_files(sidecar)
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()  # it was missing from one listing: counting restarts
    sidecar.storage.delete(KEY)
    sidecar.sync_once()
    assert served_files(sidecar)
    sidecar.sync_once()
    assert served_files(sidecar) == {}
    assert [event["key"] for event in log() if event["event"] == "mapfile_removed"] == [KEY]
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}


def test_mass_removal_waits_longer(sidecar: MapfileSync, log: Callable[[], list[dict[str, Any]]]) -> None:
    names = {f"m_{number}.map" for number in range(sync.MASS_THRESHOLD + 2)}
    for name in names:
        sidecar.storage.put(f"mapfiles/{name}", MAP)
    sidecar.sync_once()
    for name in names:
        sidecar.storage.delete(f"mapfiles/{name}")
    for _ in range(sync.MASS_REMOVE_AFTER_LISTINGS - 1):
        sidecar.sync_once()
    assert set(served_files(sidecar)) == names
    assert [event["missing"] for event in log() if event["event"] == "mapfile_removal_delayed"] == [len(names)]
    sidecar.sync_once()
    assert served_files(sidecar) == {}


def test_failed_listing_removes_nothing(sidecar: MapfileSync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.sync_once()
    state = sidecar.state.read_bytes()
    sidecar.storage.delete(KEY)
    assert isinstance(sidecar.storage, S3Storage)
    sidecar.storage.client.delete_bucket(Bucket=sidecar.storage.bucket)
    for _ in range(sync.REMOVE_AFTER_LISTINGS + 1):
        with pytest.raises(ConfigurationError):
            sidecar.sync_once()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert sidecar.state.read_bytes() == state  # its age shows the outage to a health check


# Logging


class StopTestError(BaseException):
    """Ends the endless loop."""


def run_and_read_log(
    sidecar: MapfileSync,
    outcomes: list[Exception | None],
    monkeypatch: pytest.MonkeyPatch,
    log: Callable[[], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Run one sync for each outcome, 20 seconds apart, and return the events. An outcome is None or the error of the listing."""
    done = 0

    def fake_list(_prefix: str) -> list[object]:
        if failure := outcomes[done]:
            raise failure
        return []

    def fake_sleep(_seconds: float) -> None:
        nonlocal done
        done += 1
        if done == len(outcomes):
            raise StopTestError

    monkeypatch.setattr(sync, "time", SimpleNamespace(time=lambda: 20.0 * done, sleep=fake_sleep))
    monkeypatch.setattr(sidecar.storage, "list", fake_list)
    with pytest.raises(StopTestError):
        sidecar.run(0)
    return log()


def test_an_outage_is_logged_in_each_of_its_minutes_and_its_end_once(
    sidecar: MapfileSync, monkeypatch: pytest.MonkeyPatch, log: Callable[[], list[dict[str, Any]]]
) -> None:
    """The alarm gave the all-clear five minutes into an outage that continued: the outage had been logged once."""
    outage = [OSError(f"the bucket is away, request {number}") for number in range(15)]
    events = run_and_read_log(sidecar, [None, *outage, None, None, None], monkeypatch, log)
    events = [event for event in events if event["event"] != sync.HEARTBEAT_EVENT]
    assert events[0]["event"] == events[-1]["event"] == "sync_completed"
    assert len(events) == 2 + 6, events
    assert all(event["event"] == sync.FAILED_EVENT and event["level"] == "error" for event in events[1:-1])
    assert all(event["reason"].startswith("the bucket is away") for event in events[1:-1])


def test_a_running_sidecar_logs_a_heartbeat_once_a_minute(
    sidecar: MapfileSync, monkeypatch: pytest.MonkeyPatch, log: Callable[[], list[dict[str, Any]]]
) -> None:
    """A sidecar that had exited or hung was not noticed: on a quiet day a working one logged nothing either."""
    events = run_and_read_log(sidecar, [None] * 30 + [OSError("away")] * 15, monkeypatch, log)
    assert [event["event"] for event in events].count(sync.HEARTBEAT_EVENT) == 15


# The process


def test_sidecar_imports_neither_dagster_nor_a_database() -> None:
    """It runs in the map server's image."""
    program = "import mapserver.sync, sys; print(sorted({'dagster', 'sqlalchemy', 'rasterio', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert sync.COLLECTIONS_KEY == COLLECTIONS_KEY


def test_folder_as_storage_is_rejected_with_advice(tmp_path: Path) -> None:
    paths = ["--mapfiles", str(tmp_path), "--collections", str(tmp_path / "c"), "--state", str(tmp_path / "s")]
    command = [sys.executable, "-m", "mapserver.sync", "--storage", "/srv/archive", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "'/srv/archive' is not a bucket such as s3://bucket or az://container: "
        "for an archive in a folder, let MapServer read that folder.\n"
    )


@contextmanager
def freezable(server: S3Server) -> Iterator[tuple[str, threading.Event]]:
    """The address of a proxy before the server; while the event is clear it forwards nothing, as when S3 hangs."""
    target = ("127.0.0.1", int(server.endpoint_url.rsplit(":", 1)[1]))
    flowing = threading.Event()
    flowing.set()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flowing.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(target) as upstream:
                back = threading.Thread(target=pump, args=(upstream, self.request), daemon=True)
                back.start()
                pump(self.request, upstream)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", flowing
        finally:
            flowing.set()
            proxy.shutdown()


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 20) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_seconds, "the condition did not become true in time"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def test_from_the_bucket_to_the_map_and_on_through_an_outage(
    kind: str, map_server: MapServer, s3_server: Callable[[str], S3Server], tmp_path: Path
) -> None:
    """A map is published, replaced, replaced while S3 hangs, and withdrawn, as clients of the real map server see it."""
    bucket = s3_server(kind).new_bucket()
    bucket.put(KEY, MAP)
    table = "hays_usda_1958_frames"
    new_key, new_map = f"mapfiles/{table}.map", render(mapfile_context(Collection("Hays", "USDA_1958", "frames")))
    state = tmp_path / "state.json"

    def title(table: str) -> str:
        response = map_server.wms("GetCapabilities", address=f"/wms/{table}")
        return response.text.partition("<Title>")[2].partition("</Title>")[0] if response.status_code == 200 else "none"

    with freezable(s3_server(kind)) as (endpoint_url, flowing):
        options = ["--storage", f"s3://{bucket.bucket}", "--endpoint-url", endpoint_url, "--region", REGION, "--seconds", "0.5"]
        paths = ["--mapfiles", map_server.archive / "mapfiles", "--collections", tmp_path / "c.json", "--state", state]
        process = subprocess.Popen([sys.executable, "-m", "mapserver.sync", *options, *map(str, paths)])
        try:
            bucket.put(new_key, new_map.encode())
            wait_until(lambda: title(table) == "Hays Usda 1958 Frames")
            bucket.put(new_key, new_map.replace("Hays Usda 1958 Frames", "Another Title").encode())
            wait_until(lambda: title(table) == "Another Title")

            flowing.clear()
            bucket.put(new_key, new_map.encode())
            time.sleep(3)
            state_before = state.read_bytes()
            for _ in range(10):
                assert title(table) == "Another Title"
                assert (map_server.get_map(EXTENT, 100.0, NAME)[..., 3] == 255).any()
            assert state.read_bytes() == state_before
            flowing.set()
            wait_until(lambda: title(table) == "Hays Usda 1958 Frames", 40)

            bucket.delete(new_key)
            wait_until(lambda: title(table) == "none")
            assert title(TABLE) == "Travis Usda 1958 Frames"

            flowing.clear()
            time.sleep(1)
            process.terminate()
            assert process.wait(5) == 0
        finally:
            process.kill()
            process.wait()
