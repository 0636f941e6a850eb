"""The sidecar that brings maps from S3 to MapServer: what it takes, what it rejects, and what an outage leaves as it is."""

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

import pytest

from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError
from ls4_assets.notifications.rejections import STAFF_KEY, Counts, staff_json
from ls4_assets.publishing.collection_list import COLLECTIONS_KEY
from ls4_assets_tests.integration.serving_fixtures import (
    EXTENT,
    NAME,
    TABLE,
    Served,
    context_for,
    index_database_fixture,  # noqa: F401
    served_fixture,  # noqa: F401
)
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from mapserver import sync, tiles
from mapserver.mapfile import render
from mapserver.sync import Sync

pytestmark = pytest.mark.timeout(180)

KEY = f"mapfiles/{TABLE}.map"
MAP = render(context_for(Collection("Travis", "USDA_1958", "frames"))).encode()
RETITLED = MAP.replace(b"Travis Usda 1958 Frames", b"Another Title")
LISTED = b'{"collections": [{"name": "Travis_USDA_1958_frames"}]}'


@pytest.fixture
def sidecar(s3_server: Callable[[str], S3Server], tmp_path: Path) -> Sync:
    """A sidecar of an empty bucket, which looks when it is told to."""
    (tmp_path / "mapfiles").mkdir()
    bucket = s3_server("moto").new_bucket()
    return Sync(bucket, tmp_path / "mapfiles", tmp_path / "collections.json", tmp_path / "state.json")


def documents(version: int) -> dict[str, str]:
    return tiles.documents(tiles.TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, 2.0, version))


def served_files(sidecar: Sync) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sidecar.folder.iterdir()}


# What is brought


def test_maps_and_the_list_come_and_are_replaced(sidecar: Sync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert sidecar.collections.read_bytes() == LISTED
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (sidecar.collections, sidecar.folder / f"{TABLE}.map"))

    sidecar.storage.put(KEY, RETITLED)
    with (sidecar.folder / f"{TABLE}.map").open("rb") as under_way:
        sidecar.look()
        assert under_way.read() == MAP  # whoever reads at that moment gets the old one whole
    assert served_files(sidecar) == {f"{TABLE}.map": RETITLED}


def test_the_list_for_staff_comes_when_it_is_asked_for(sidecar: Sync) -> None:
    sidecar.storage.put(STAFF_KEY, staff_json(Counts(0, 0, ""), [], datetime.now(UTC)))
    sidecar.look()
    assert {path.name for path in sidecar.state.parent.iterdir()} == {"mapfiles", "state.json"}
    sidecar.rejections = sidecar.state.with_name("rejections.json")
    sidecar.look()
    taken = sidecar.rejections.read_bytes()
    assert json.loads(taken)["rejections"] == []
    sidecar.storage.put(STAFF_KEY, LISTED)
    sidecar.look()
    assert sidecar.rejections.read_bytes() == taken and STAFF_KEY in sidecar.rejected


def test_tilejson_and_wmts_come_after_their_mapfile(sidecar: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the TileJSON a version comes into force: tiles drawn by an older mapfile would be kept for good under it."""
    put: list[str] = []
    whole = sync.replace_whole
    monkeypatch.setattr(sync, "replace_whole", lambda path, data: put.append(path.name) or whole(path, data))
    sidecar.storage.put(KEY, MAP)
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    for suffix, text in documents(1).items():
        sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", text.encode())
    sidecar.look()
    assert put == [f"{TABLE}.map", f"{TABLE}.wmts", f"{TABLE}.tilejson", "collections.json", "state.json"]

    # As if map and TileJSON were published while the listing was under way: it has the older version of the map.
    sidecar.storage.put(KEY, RETITLED)
    sidecar.versions[KEY] = next(found.version for found in sidecar.storage.list(KEY))
    sidecar.storage.put(f"mapfiles/{TABLE}.tilejson", documents(2)[".tilejson"].encode())
    sidecar.look()
    assert served_files(sidecar)[f"{TABLE}.map"] == RETITLED
    assert b"?v=2" in served_files(sidecar)[f"{TABLE}.tilejson"]


@pytest.mark.parametrize("suffix", [".wmts", ".tilejson"])
def test_a_broken_document_is_not_taken(sidecar: Sync, suffix: str) -> None:
    sound = documents(1)[suffix].encode()
    sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", sound)
    sidecar.look()
    for broken in (sound[:-20], sound.replace(b"/tiles/", b"http://10.0.0.7/tiles/"), b""):
        sidecar.storage.put(f"mapfiles/{TABLE}{suffix}", broken)
        sidecar.look()
        assert served_files(sidecar) == {f"{TABLE}{suffix}": sound}


def test_a_restart_writes_nothing_that_is_right(sidecar: Sync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    before = (sidecar.folder / f"{TABLE}.map").stat()
    Sync(sidecar.storage, sidecar.folder, sidecar.collections, sidecar.state).look()
    assert (sidecar.folder / f"{TABLE}.map").stat() == before


def test_a_map_that_somebody_removed_here_comes_back(sidecar: Sync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    (sidecar.folder / f"{TABLE}.map").unlink()
    sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}


def test_many_come_in_one_look(sidecar: Sync) -> None:
    for number in range(60):
        sidecar.storage.client.put_object(Bucket=sidecar.storage.bucket, Key=f"mapfiles/m_{number}.map", Body=MAP)
    sidecar.look()
    assert len(served_files(sidecar)) == 60


# What is rejected


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(MAP[: len(MAP) // 2], "no whole mapfile", id="first half"),
        pytest.param(MAP.rstrip().removesuffix(b"END"), "no whole mapfile", id="last line lost"),
        pytest.param(b"", "no whole mapfile", id="empty"),
        pytest.param(b"<html>503</html>", "no whole mapfile", id="another document"),
        pytest.param(b"\xff\xfe" + MAP, "no UTF-8", id="not text"),
        pytest.param(MAP.replace(b"service=ls4", b"service=ls4 password=x"), "password", id="secret"),
        pytest.param(MAP + b"#" * sync.LARGEST, "more than", id="huge"),
    ],
)
def test_of_a_map_that_is_not_sound_the_last_good_one_stays(
    sidecar: Sync, broken: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    for key in (KEY, "mapfiles/new.map"):
        sidecar.storage.put(key, broken)
    for _ in range(3):
        sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert reason in json.loads(sidecar.state.read_text())["rejected"][KEY]
    said = [message for message in caplog.messages if message.startswith(f"{KEY} is rejected, the last good one stays")]
    assert len(said) == 1 and reason in said[0]

    sidecar.storage.put(KEY, RETITLED)
    sidecar.storage.delete("mapfiles/new.map")
    sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": RETITLED}
    assert json.loads(sidecar.state.read_text())["rejected"] == {}


@pytest.mark.parametrize("broken", [b"", b'{"collections": [', b"[]", b'{"collections": 1}'])
def test_a_broken_list_is_not_taken(sidecar: Sync, broken: bytes) -> None:
    sidecar.storage.put(COLLECTIONS_KEY, LISTED)
    sidecar.look()
    sidecar.storage.put(COLLECTIONS_KEY, broken)
    sidecar.look()
    assert sidecar.collections.read_bytes() == LISTED


def test_other_objects_below_the_prefix_are_left_alone(sidecar: Sync, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    foreign = ["../x.map", "..map", "sub/x.map", "X.map", "x.MAP", ".x.map", "x.map/", "a b.map", "x.map.part", "é.map", "x.sh"]
    (sidecar.folder / "footprint.html").write_text("the server's own")
    for name in (*foreign, "footprint.html"):
        sidecar.storage.client.put_object(Bucket=sidecar.storage.bucket, Key=f"mapfiles/{name}", Body=MAP)
    before = sorted(tmp_path.iterdir())
    sidecar.storage.put(KEY, MAP)
    for _ in range(sync.PATIENCE + 1):
        sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP, "footprint.html": b"the server's own"}
    assert sorted(tmp_path.iterdir()) == sorted({*before, sidecar.state})
    assert caplog.messages.count("'mapfiles/sub/x.map' is no file of a map and is left alone") == 1


# What is removed


def test_a_withdrawn_map_leaves_once_two_looks_lack_it(sidecar: Sync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    sidecar.storage.delete(KEY)
    sidecar.look()
    assert served_files(sidecar)
    sidecar.storage.put(KEY, MAP)
    sidecar.look()  # it was away for one look: counting starts anew
    sidecar.storage.delete(KEY)
    sidecar.look()
    assert served_files(sidecar)
    sidecar.look()
    assert served_files(sidecar) == {}
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}


def test_a_bucket_that_lists_nothing_any_more_is_doubted(sidecar: Sync) -> None:
    names = {f"m_{number}.map" for number in range(sync.MANY + 2)}
    for name in names:
        sidecar.storage.put(f"mapfiles/{name}", MAP)
    sidecar.look()
    for name in names:
        sidecar.storage.delete(f"mapfiles/{name}")
    for _ in range(sync.GREAT_PATIENCE - 1):
        sidecar.look()
    assert set(served_files(sidecar)) == names
    sidecar.look()
    assert served_files(sidecar) == {}


def test_a_bucket_that_cannot_be_listed_removes_nothing(sidecar: Sync) -> None:
    sidecar.storage.put(KEY, MAP)
    sidecar.look()
    noted = sidecar.state.read_bytes()
    sidecar.storage.delete(KEY)
    sidecar.storage.client.delete_bucket(Bucket=sidecar.storage.bucket)
    for _ in range(sync.PATIENCE + 1):
        with pytest.raises(ConfigurationError):
            sidecar.look()
    assert served_files(sidecar) == {f"{TABLE}.map": MAP}
    assert sidecar.state.read_bytes() == noted  # by whose age a health check sees the outage


# What is told


class Enough(BaseException):
    """Ends what looks for ever."""


def lines_of(sidecar: Sync, looks: list[Exception | None], patch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> list[str]:
    """What it says in so many looks, 20 seconds apart; each as it should be, or failing so."""
    log.set_level("INFO")
    done = 0

    def listed(_prefix: str) -> list[object]:
        if failure := looks[done]:
            raise failure
        return []

    def sleep(_seconds: float) -> None:
        nonlocal done
        done += 1
        if done == len(looks):
            raise Enough

    patch.setattr(sync, "time", SimpleNamespace(time=lambda: 20.0 * done, sleep=sleep))
    patch.setattr(sidecar.storage, "list", listed)
    with pytest.raises(Enough):
        sidecar.run(0)
    return [record.message for record in log.records if record.name == "sync"]


def test_an_outage_is_told_in_each_of_its_minutes_and_its_end_once(
    sidecar: Sync, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The alarm gave the all-clear five minutes into an outage that went on: it had been told of once."""
    outage = [OSError(f"the bucket is away, request {number}") for number in range(15)]
    lines = lines_of(sidecar, [None, *outage, None, None, None], monkeypatch, caplog)
    lines = [line for line in lines if line != sync.BEAT]
    assert lines[0] == lines[-1] == "all that is published is here"
    assert len(lines) == 2 + 6, lines
    assert all(line.startswith(f"{sync.FAULT}: the bucket is away") for line in lines[1:-1])


def test_a_sidecar_that_lives_says_so_once_a_minute(
    sidecar: Sync, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that had ended, or hung, was missed by nobody: on a quiet day a sound one was silent, too."""
    assert lines_of(sidecar, [None] * 30 + [OSError("away")] * 15, monkeypatch, caplog).count(sync.BEAT) == 15


# The process


def test_the_process_needs_neither_dagster_nor_a_database() -> None:
    """It runs in the map server's image."""
    asked = "import mapserver.sync, sys; print(sorted({'dagster', 'sqlalchemy', 'rasterio', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert sync.COLLECTIONS_KEY == COLLECTIONS_KEY


def test_a_folder_as_storage_is_rejected_with_advice(tmp_path: Path) -> None:
    places = ["--mapfiles", str(tmp_path), "--collections", str(tmp_path / "c"), "--state", str(tmp_path / "s")]
    command = [sys.executable, "-m", "mapserver.sync", "--storage", "/srv/archive", *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "'/srv/archive' is no bucket such as s3://name: let MapServer read the archive's folder itself.\n"
    )


@contextmanager
def freezable(server: S3Server) -> Iterator[tuple[str, threading.Event]]:
    """The server's address by way of a proxy that passes nothing on while the event is clear: S3 that hangs."""
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


def within(seconds: float, happened: Callable[[], bool]) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def test_from_the_bucket_to_the_map_and_on_through_an_outage(
    kind: str, served: Served, s3_server: Callable[[str], S3Server], tmp_path: Path
) -> None:
    """Put, replaced, S3 hangs, S3 is back, withdrawn: as clients of the real map server see it."""
    bucket = s3_server(kind).new_bucket()
    bucket.put(KEY, MAP)
    table = "hays_usda_1958_frames"
    new_key, new_map = f"mapfiles/{table}.map", render(context_for(Collection("Hays", "USDA_1958", "frames")))
    state = tmp_path / "state.json"

    def title(of: str) -> str:
        answer = served.wms("GetCapabilities", address=f"/wms/{of}")
        return answer.text.partition("<Title>")[2].partition("</Title>")[0] if answer.status_code == 200 else "none"

    with freezable(s3_server(kind)) as (endpoint_url, flowing):
        where = ["--storage", f"s3://{bucket.bucket}", "--endpoint-url", endpoint_url, "--region", REGION, "--seconds", "0.5"]
        places = ["--mapfiles", served.archive / "mapfiles", "--collections", tmp_path / "c.json", "--state", state]
        process = subprocess.Popen([sys.executable, "-m", "mapserver.sync", *where, *map(str, places)])
        try:
            bucket.put(new_key, new_map.encode())
            within(20, lambda: title(table) == "Hays Usda 1958 Frames")
            bucket.put(new_key, new_map.replace("Hays Usda 1958 Frames", "Another Title").encode())
            within(20, lambda: title(table) == "Another Title")

            flowing.clear()
            bucket.put(new_key, new_map.encode())
            time.sleep(3)
            noted = state.read_bytes()
            for _ in range(10):
                assert title(table) == "Another Title"
                assert (served.get_map(EXTENT, 100.0, NAME)[..., 3] == 255).any()
            assert state.read_bytes() == noted
            flowing.set()
            within(40, lambda: title(table) == "Hays Usda 1958 Frames")

            bucket.delete(new_key)
            within(20, lambda: title(table) == "none")
            assert title(TABLE) == "Travis Usda 1958 Frames"

            flowing.clear()
            time.sleep(1)
            process.terminate()
            assert process.wait(5) == 0
        finally:
            process.kill()
            process.wait()
