"""The worker supervisor, with small shell scripts instead of mapserv."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mapserver import connections, fastcgi
from mapserver.connections import is_any_disconnected, is_disconnected
from mapserver.workers import WorkerSupervisor, listen

pytestmark = pytest.mark.timeout(60)


@contextmanager
def running_supervisor(
    folder: Path,
    script: str,
    *,
    mapfiles: Path | None = None,
    count: int = 2,
    max_rss_bytes: int = 1 << 40,
    request_seconds: float = 60,
    database_port: int | None = None,
) -> Iterator[WorkerSupervisor]:
    """Run a supervisor in a thread; its workers run a shell script."""
    listener = listen(folder / "sock")
    argv = ["sh", "-c", script]
    supervisor = WorkerSupervisor(
        argv,
        listener,
        mapfiles or folder,
        count=count,
        max_rss_bytes=max_rss_bytes,
        database_port=database_port,
        request_seconds=request_seconds,
    )
    thread = threading.Thread(target=lambda: asyncio.run(supervisor.run()))
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def running_pids(supervisor: WorkerSupervisor) -> set[int]:
    return {slot.process.pid for slot in supervisor.slots if slot.process and slot.process.poll() is None}


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_worker_is_replaced_and_all_are_stopped_at_the_end(tmp_path: Path) -> None:
    with running_supervisor(tmp_path, "exec sleep 60") as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 2)
        before = running_pids(supervisor)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(running_pids(supervisor) - before) == 1)
        last = running_pids(supervisor)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_workers_that_exit_at_once_are_restarted_with_backoff(tmp_path: Path) -> None:
    with running_supervisor(tmp_path, "echo x >> starts; exit 1", count=1):
        time.sleep(5)
    starts = len((tmp_path / "starts").read_text().split())
    assert 2 <= starts <= 5, "a start at each poll would make ten"


def test_workers_over_the_memory_limit_are_replaced_one_at_a_time(tmp_path: Path) -> None:
    with running_supervisor(tmp_path, "echo x >> starts; exec sleep 60", max_rss_bytes=1) as supervisor:
        for _ in range(4):
            time.sleep(0.5)
            assert len([slot for slot in supervisor.slots if slot.drain_reason]) <= 1
        wait_until(lambda: len((tmp_path / "starts").read_text().split()) > 4)


def test_worker_with_too_many_open_files_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of open files a worker silently left frames out."""
    monkeypatch.setattr("mapserver.workers.MAX_OPEN_FILES", 30)
    hold = "; ".join(f"exec {number}</dev/null" for number in range(3, 10))
    with running_supervisor(tmp_path, f"echo x >> starts; {hold}; exec sleep 60", count=1):
        time.sleep(2)
        assert len((tmp_path / "starts").read_text().split()) == 1, "this number of files is allowed"
        monkeypatch.setattr("mapserver.workers.MAX_OPEN_FILES", 5)
        wait_until(lambda: len((tmp_path / "starts").read_text().split()) > 1)


def test_workers_move_to_the_mapfiles_folder_once_it_exists(tmp_path: Path) -> None:
    """With a new read-only archive the folder was missing: no worker started, and the map server exited again and again."""
    mapfiles = tmp_path / "mapfiles"
    with running_supervisor(tmp_path, "exec sleep 60", mapfiles=mapfiles) as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 2)
        mapfiles.mkdir()
        wait_until(lambda: [Path(f"/proc/{pid}/cwd").readlink() for pid in running_pids(supervisor)] == [mapfiles] * 2)


def test_workers_that_ignore_sigterm_are_killed(tmp_path: Path) -> None:
    with running_supervisor(tmp_path, "trap '' TERM; while :; do sleep 1; done") as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 2)
        time.sleep(0.3)
        last = running_pids(supervisor)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_environment_of_a_worker_has_no_setting_of_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker of a laptop had the passwords of the databases' owners in its environment."""
    monkeypatch.setenv("LS4_DATABASE_URL", "postgresql://ls4:s3cret@127.0.0.1/ls4")
    with running_supervisor(tmp_path, "exec sleep 60", count=1) as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 1)
        (pid,) = running_pids(supervisor)
        wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
        names = {line.split(b"=")[0] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if line}
    assert names <= {b"PATH", b"PWD", b"OLDPWD", b"SHLVL", b"_"}


REQUEST = fastcgi.write_request({"REMOTE_ADDR": "198.51.100.7", "SCRIPT_NAME": "/wms/x", "QUERY_STRING": "a=b"})


def ask(folder: Path, request: bytes = REQUEST) -> str:
    """The response to a request, as nginx would get it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(folder / "sock"))
        client.sendall(request)
        data = b"".join(iter(lambda: client.recv(65536), b""))
    return b"".join(content for kind, content in fastcgi.read_records(data) if kind == fastcgi.RecordType.STDOUT).decode()


def test_worker_that_hangs_is_replaced_and_its_client_gets_503(tmp_path: Path) -> None:
    """A worker that never answered was never replaced."""
    with running_supervisor(tmp_path, "echo x >> starts; exec sleep 60", count=1, request_seconds=1) as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 1)
        before = running_pids(supervisor)
        assert ask(tmp_path).startswith("Status: 503")
        wait_until(lambda: bool(running_pids(supervisor)) and running_pids(supervisor) != before)
        # It is not the client's fault.
        assert "crashed" not in ask(tmp_path)


_WORKER = """
import socket
port = {port}
database = socket.create_connection(("127.0.0.1", port)) if port else None
listener = socket.socket(fileno=0)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall({response!r})
    connection.close()
"""


def write_worker(folder: Path, response: bytes, port: int | None = None) -> str:
    """A script that gives each request the same response, with a connection to the database at `port`."""
    (folder / "worker.py").write_text(_WORKER.format(port=port, response=response))
    return f"exec {sys.executable} {folder / 'worker.py'}"


def test_worker_that_only_closed_its_connection_has_not_crashed_for_good(tmp_path: Path) -> None:
    """Clients under suspicion had no worker until the next restart."""
    with running_supervisor(tmp_path, write_worker(tmp_path, b""), count=1) as supervisor:
        wait_until(lambda: len(running_pids(supervisor)) == 1)
        assert "cannot answer" in ask(tmp_path)
        wait_until(lambda: supervisor.slots[0].has_crashed)
        before = running_pids(supervisor)
        wait_until(lambda: not supervisor.slots[0].has_crashed)
        assert running_pids(supervisor) == before


def test_worker_that_reports_a_lost_database_is_replaced_only_if_its_connection_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request with the text of a database error had one worker after another replaced, half a second for each."""
    monkeypatch.setattr("mapserver.workers.POLL_SECONDS", 5)
    response = fastcgi.write_response("Content-Type: text/xml\r\n\r\n", b"Database connection failed (x)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = write_worker(tmp_path, response, port)
        with running_supervisor(tmp_path, script, count=1, database_port=port) as supervisor:
            connection, _ = server.accept()
            before = running_pids(supervisor)
            for _ in range(3):
                assert "database" in ask(tmp_path)
            time.sleep(0.5)  # the dispatcher has responded before it judges the worker
            assert running_pids(supervisor) == before
            connection.close()
            (pid,) = before
            wait_until(lambda: is_disconnected(pid, port))
            assert "database" in ask(tmp_path)
            wait_until(lambda: bool(running_pids(supervisor) - before), 2)


def test_incomplete_and_malformed_requests_do_not_stop_the_dispatcher(tmp_path: Path) -> None:
    with running_supervisor(tmp_path, "exec sleep 60", count=1, request_seconds=1):
        for data in (b"GET / HTTP/1.0\r\n\r\n", bytes(64), b"\xff" * 300_000, REQUEST[:40]):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "sock"))
                with suppress(BrokenPipeError):
                    client.sendall(data)
        malformed = REQUEST.replace(b"REMOTE_ADDR", b"\xff\xff\xff\xff-------")
        assert ask(tmp_path, malformed).startswith("Status: 503")


@pytest.mark.parametrize("has_sock_diag", [True, False])
@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_connection_closed_by_the_server_is_detected(
    monkeypatch: pytest.MonkeyPatch, address: str, family: int, has_sock_diag: bool
) -> None:
    if not has_sock_diag:
        monkeypatch.setattr(connections, "_NETLINK_SOCK_DIAG", 999)
    try:
        opened = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine does not have {address}")
    with opened as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)):
            accepted, _ = server.accept()
            assert not is_disconnected(os.getpid(), port)
            assert not is_any_disconnected(port)
            accepted.close()
            wait_until(lambda: is_disconnected(os.getpid(), port))
            assert is_any_disconnected(port)
            assert not is_any_disconnected(port + 1)


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path / "sock").close()
    with listen(tmp_path / "sock"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
