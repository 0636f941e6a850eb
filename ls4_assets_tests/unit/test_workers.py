"""The supervisor, with small shell programs in place of mapserv."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mapserver.workers import Supervisor, anybody_disconnected, disconnected, listen

pytestmark = pytest.mark.timeout(60)


@contextmanager
def supervised(
    folder: Path, script: str, *, mapfiles: Path | None = None, count: int = 2, max_rss: int = 1 << 40
) -> Iterator[Supervisor]:
    """A supervisor at work in a thread, for workers that run a shell script."""
    listener = listen(folder / "sock")
    argv = ["sh", "-c", script]
    supervisor = Supervisor(argv, listener, mapfiles or folder, count=count, max_rss=max_rss, database_port=None)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def pids(supervisor: Supervisor) -> set[int]:
    return {slot.process.pid for slot in supervisor.slots if slot.process and slot.process.poll() is None}


def eventually(holds: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_dead_worker_is_replaced_and_all_are_gone_at_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path, "exec sleep 60") as supervisor:
        eventually(lambda: len(pids(supervisor)) == 2)
        before = pids(supervisor)
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(pids(supervisor) - before) == 1)
        last = pids(supervisor)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_workers_that_die_young_are_started_ever_more_slowly(tmp_path: Path) -> None:
    with supervised(tmp_path, "echo x >> starts; exit 1", count=1):
        time.sleep(5)
    starts = len((tmp_path / "starts").read_text().split())
    assert 2 <= starts <= 5, "a start at each look would make ten"


def test_a_worker_that_outgrows_the_bound_is_replaced_one_at_a_time(tmp_path: Path) -> None:
    with supervised(tmp_path, "echo x >> starts; exec sleep 60", max_rss=1) as supervisor:
        for _ in range(4):
            time.sleep(0.5)
            assert len([slot for slot in supervisor.slots if slot.stopping_since is not None]) <= 1
        eventually(lambda: len((tmp_path / "starts").read_text().split()) > 4)


def test_a_worker_that_holds_too_many_files_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of open files it would leave out frames, and nobody would be told."""
    monkeypatch.setattr("mapserver.workers.MOST_OPEN_FILES", 30)
    hold = "; ".join(f"exec {number}</dev/null" for number in range(3, 10))
    with supervised(tmp_path, f"echo x >> starts; {hold}; exec sleep 60", count=1):
        time.sleep(2)
        assert len((tmp_path / "starts").read_text().split()) == 1, "so many are fine"
        monkeypatch.setattr("mapserver.workers.MOST_OPEN_FILES", 5)
        eventually(lambda: len((tmp_path / "starts").read_text().split()) > 1)


def test_workers_move_into_the_folder_of_mapfiles_when_there_is_one(tmp_path: Path) -> None:
    """Over a new archive that may only be read there is none: no worker started, and the map server ended again and again."""
    mapfiles = tmp_path / "mapfiles"
    with supervised(tmp_path, "exec sleep 60", mapfiles=mapfiles) as supervisor:
        eventually(lambda: len(pids(supervisor)) == 2)
        mapfiles.mkdir()
        eventually(lambda: [Path(f"/proc/{pid}/cwd").readlink() for pid in pids(supervisor)] == [mapfiles] * 2)


def test_workers_deaf_to_sigterm_are_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, "trap '' TERM; while :; do sleep 1; done") as supervisor:
        eventually(lambda: len(pids(supervisor)) == 2)
        time.sleep(0.3)
        last = pids(supervisor)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_a_connection_that_its_server_closed_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert not disconnected(os.getpid(), port)
            assert not anybody_disconnected(port)
            accepted.close()
            eventually(lambda: disconnected(os.getpid(), port))
            assert anybody_disconnected(port)


def test_a_socket_file_left_behind_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path / "sock").close()
    with listen(tmp_path / "sock"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
