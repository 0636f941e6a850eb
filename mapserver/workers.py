"""The supervisor of the FastCGI workers: `python -m mapserver.workers` opens the socket and keeps N mapserv processes running.

MapServer leaves process management to others: it exits on some read errors, its memory grows with what it caches, and it handles
SIGTERM only at its next request. So the supervisor restarts a worker that exited (with backoff when it ran only briefly),
replaces one that grew too large, and kills those that ignore SIGTERM at shutdown. The listening socket stays open throughout: a
request that arrives while no worker is free waits in its backlog. nginx is started by `__main__` or `ls4_assets.local`.
"""

import argparse
import logging
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from ls4_assets import logs
from ls4_assets.domain.backoff import Backoff

LISTEN_BACKLOG = 512
POLL_SECONDS = 0.5
# A worker that exits sooner than this after its start is restarted with backoff.
MIN_UPTIME_SECONDS = 5.0
_BACKOFF = Backoff(first_seconds=0.5, longest_seconds=30)
GRACE_SECONDS = 5.0
# Frames stay open between requests, and the usual limit is 1,024 files per process.
MAX_OPEN_FILES = 600
PROC_NET_CLOSE_WAIT = "08"

# The shortest FastCGI request (begin as a responder, then no parameters). It wakes an idle worker.
WAKE_UP_REQUEST = bytes((1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + bytes((1, 4, 0, 1, 0, 0, 0, 0))


@dataclass
class WorkerSlot:
    """One of the N workers.

    failures: exits in a row that came within MIN_UPTIME_SECONDS. stopping_since: when the supervisor signaled the worker.
    cwd: the folder in which the worker was started. Times are of time.monotonic().
    """

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    retry_after: float = 0.0
    stopping_since: float | None = None
    cwd: Path = Path("/")


class WorkerSupervisor:
    """Keeps `count` processes of `argv` running, each with `listener` as its standard input."""

    def __init__(
        self,
        argv: Sequence[str],
        listener: socket.socket,
        cwd: Path,
        *,
        count: int,
        max_rss_bytes: int,
        database_port: int | None,
    ) -> None:
        self.argv, self.listener, self.cwd = argv, listener, cwd
        self.max_rss_bytes, self.database_port = max_rss_bytes, database_port
        self.slots = [WorkerSlot() for _ in range(count)]
        self.is_stopping = False

    def run(self) -> None:
        """Supervise until `stop` is called, then stop all workers."""
        while not self.is_stopping:
            now = time.monotonic()
            for slot in self.slots:
                self._ensure_running(slot, now)
            self._kill_disconnected(now)
            self._recycle(now)
            time.sleep(POLL_SECONDS)
        self._stop_all()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Make `run` return. Can be installed as a signal handler."""
        self.is_stopping = True

    def _ensure_running(self, slot: WorkerSlot, now: float) -> None:
        if slot.process is not None and slot.process.poll() is not None:
            self._on_exit(slot, now)
        if slot.process is None and now >= slot.retry_after:
            # A read-only archive has no folder of mapfiles before its first map.
            slot.cwd = self.cwd if self.cwd.is_dir() else Path("/")
            slot.process = subprocess.Popen(self.argv, stdin=self.listener.fileno(), cwd=slot.cwd)
            slot.started_at, slot.stopping_since = now, None

    def _on_exit(self, slot: WorkerSlot, now: float) -> None:
        """Schedule the restart: at once, or with exponential backoff when the worker keeps exiting soon after its start."""
        assert slot.process is not None
        was_signaled = slot.stopping_since is not None
        if not was_signaled:
            logs.emit("mapserv_exited", logging.ERROR, pid=slot.process.pid, code=slot.process.returncode)
        is_early = now - slot.started_at < MIN_UPTIME_SECONDS and not was_signaled
        slot.failures = slot.failures + 1 if is_early else 0
        slot.retry_after = now + _BACKOFF.seconds(slot.failures)
        slot.process = None

    def _kill_disconnected(self, now: float) -> None:
        """Kill workers whose database connection was closed.

        After a restart of PostgreSQL each worker would fail one more request and answer it with HTTP 200. nginx does notice a
        killed worker, and retries the request.
        """
        if self.database_port is None or not is_any_disconnected(self.database_port):
            return
        for slot in self.slots:
            if slot.process is not None and is_disconnected(slot.process.pid, self.database_port):
                logs.emit("mapserv_replaced", logging.WARNING, pid=slot.process.pid, reason="its database connection was closed")
                slot.process.kill()
                slot.stopping_since = now

    def _recycle(self, now: float) -> None:
        """Replace at most one worker at a time, so that the others keep serving.

        The worker finishes the request that it is drawing; nginx sends a request that it drops at exit to another worker.
        """
        for slot in self.slots:
            if slot.process is None or slot.stopping_since is None:
                continue
            if now - slot.stopping_since > GRACE_SECONDS:
                slot.process.kill()
            return
        for slot in self.slots:
            if slot.process is not None and (reason := self._replacement_reason(slot.process.pid, slot.cwd)):
                logs.emit("mapserv_replaced", pid=slot.process.pid, reason=reason)
                slot.process.terminate()
                slot.stopping_since = now
                return

    def _replacement_reason(self, pid: int, cwd: Path) -> str:
        """Empty for a worker that need not be replaced."""
        if resident_bytes(pid) > self.max_rss_bytes or count_open_files(pid) > MAX_OPEN_FILES:
            return "it uses too much memory or too many open files"
        return "the folder of mapfiles was created" if cwd != self.cwd and self.cwd.is_dir() else ""

    def _stop_all(self) -> None:
        processes = [slot.process for slot in self.slots if slot.process is not None]
        for process in processes:
            process.terminate()
        for _ in processes:
            self._wake_one()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wake_one(self) -> None:
        """Wake an idle worker so that it handles its SIGTERM. Without a socket, the grace period ends it."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(self.listener.getsockname())
            client.sendall(WAKE_UP_REQUEST)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it does not exist."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def count_open_files(pid: int) -> int:
    """Number of open file descriptors of a process; 0 when it does not exist."""
    try:
        return int(psutil.Process(pid).num_fds())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def is_any_disconnected(port: int) -> bool:
    """Whether any process of the machine has a connection to `port` that the peer closed. Cheaper than `is_disconnected`."""
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == PROC_NET_CLOSE_WAIT for row in rows)


def is_disconnected(pid: int, port: int) -> bool:
    """Whether the process has a TCP connection to `port` that the peer closed."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    closed = [connection.raddr for connection in connections if connection.status == psutil.CONN_CLOSE_WAIT]
    return any(address.port == port for address in closed)


def drop_privileges(user: str) -> None:
    """Change from root to `user` for good, groups included."""
    account = pwd.getpwnam(user)
    os.setgroups(os.getgrouplist(user, account.pw_gid))
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def listen(path: Path) -> socket.socket:
    """Open the Unix socket that nginx connects to; replaces one that an earlier start left behind."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(LISTEN_BACKLOG)
    return listener


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m mapserver.workers", description="Supervise mapserv workers.")
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="Unix socket to listen on")
    add("--workers", type=int, default=4, help="number of workers: about 2 per core on local files, 4 on S3")
    add("--config", type=Path, required=True, help="mapserver.conf")
    add("--mapfiles", type=Path, required=True, help="folder of the mapfiles, the workers' working directory")
    add("--mapserv", type=Path, default=Path("/usr/lib/cgi-bin/mapserv"), help="the mapserv program")
    add("--user", help="account to run as when started as root")
    add("--max-rss-mb", type=int, default=600, help="replace a worker whose resident memory exceeds this")
    add("--database-port", type=int, help="PostgreSQL's TCP port: a worker whose connection to it was closed is replaced")
    options = parser.parse_args(arguments)
    logs.configure()
    if options.user and os.geteuid() == 0:
        drop_privileges(options.user)
    # The kernel kills the workers with this process, however it ends: orphans would keep taking requests from the socket.
    argv = ["setpriv", "--pdeathsig", "KILL", str(options.mapserv), "-conf", str(options.config)]
    supervisor = WorkerSupervisor(
        argv,
        listen(options.socket),
        options.mapfiles,
        count=options.workers,
        max_rss_bytes=options.max_rss_mb << 20,
        database_port=options.database_port,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    supervisor.run()


if __name__ == "__main__":
    main()
