"""The FastCGI workers: `python -m mapserver.workers` opens the socket, starts N mapserv on it and keeps N of
them alive.

MapServer leaves a worker's life to others: it exits on some read errors, grows with what it caches, and acts
on SIGTERM only at its next request. So a dead worker is started again (with back-off, when it died young), an
overgrown one is replaced, and at the end each is killed that has not gone by itself. The listening socket
stays open all the while: a request that comes when no worker is free waits in its backlog.
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

BACKLOG = 512
POLL_SECONDS = 0.5
YOUNG_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 30.0
GRACE_SECONDS = 5.0
# Frames stay open between requests, and a process may usually hold 1,024 files.
MOST_OPEN_FILES = 600
PROC_NET_CLOSE_WAIT = "08"

# The shortest FastCGI request (begin as a responder, then no parameters): what an idle worker waits for.
WAKING_REQUEST = bytes((1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + bytes((1, 4, 0, 1, 0, 0, 0, 0))


@dataclass
class Slot:
    """One worker's place. `failures` counts deaths in a row at a young age; `stopping_since` is set once it
    was told to go; `stands` is where it was started."""

    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    not_before: float = 0.0
    stopping_since: float | None = None
    stands: Path = Path("/")


class Supervisor:
    """Keeps `count` processes of `argv` alive, each with `listener` as its standard input."""

    def __init__(
        self,
        argv: Sequence[str],
        listener: socket.socket,
        cwd: Path,
        *,
        count: int,
        max_rss: int,
        database_port: int | None,
    ) -> None:
        self.argv, self.listener, self.cwd = argv, listener, cwd
        self.max_rss, self.database_port = max_rss, database_port
        self.slots = [Slot() for _ in range(count)]
        self.stopping = False

    def run(self) -> None:
        """Until `stop` is called: start, bury, recycle."""
        while not self.stopping:
            now = time.monotonic()
            for slot in self.slots:
                self._tend(slot, now)
            self._drop_disconnected(now)
            self._recycle(now)
            time.sleep(POLL_SECONDS)
        self._end_all()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """A signal handler."""
        self.stopping = True

    def _tend(self, slot: Slot, now: float) -> None:
        if slot.process is not None and slot.process.poll() is not None:
            self._bury(slot, now)
        if slot.process is None and now >= slot.not_before:
            # Before the first map of an archive that may only be read here, there may be no folder of mapfiles.
            slot.stands = self.cwd if self.cwd.is_dir() else Path("/")
            slot.process = subprocess.Popen(self.argv, stdin=self.listener.fileno(), cwd=slot.stands)
            slot.started, slot.stopping_since = now, None

    def _bury(self, slot: Slot, now: float) -> None:
        """A worker that lived is replaced at once, one that dies young again and again ever more slowly."""
        assert slot.process is not None
        expected = slot.stopping_since is not None
        if not expected:
            logs.event("mapserv_ended", logging.ERROR, pid=slot.process.pid, code=slot.process.returncode)
        young = now - slot.started < YOUNG_SECONDS and not expected
        slot.failures = slot.failures + 1 if young else 0
        slot.not_before = now + (min(LONGEST_WAIT_SECONDS, 0.25 * 2**slot.failures) if young else 0.0)
        slot.process = None

    def _drop_disconnected(self, now: float) -> None:
        """After a restart of PostgreSQL each worker would fail one more request on its dead connection, and
        answer it with HTTP 200: better to lose the worker, which nginx does notice."""
        if self.database_port is None or not anybody_disconnected(self.database_port):
            return
        for slot in self.slots:
            if slot.process is not None and disconnected(slot.process.pid, self.database_port):
                logs.event("mapserv_replaced", logging.WARNING, pid=slot.process.pid, reason="it has lost the database")
                slot.process.kill()
                slot.stopping_since = now

    def _recycle(self, now: float) -> None:
        """One at a time, so that the others go on serving. It finishes what it draws; a request that it drops
        as it leaves is given to another worker by nginx."""
        for slot in self.slots:
            if slot.process is None or slot.stopping_since is None:
                continue
            if now - slot.stopping_since > GRACE_SECONDS:
                slot.process.kill()
            return
        for slot in self.slots:
            if slot.process is not None and (reason := self._why_replaced(slot.process.pid, slot.stands)):
                logs.event("mapserv_replaced", pid=slot.process.pid, reason=reason)
                slot.process.terminate()
                slot.stopping_since = now
                return

    def _why_replaced(self, pid: int, stands: Path) -> str:
        """Empty for a worker that stays."""
        if resident_bytes(pid) > self.max_rss or open_files(pid) > MOST_OPEN_FILES:
            return "it has grown too large"
        return "there is a folder of mapfiles now" if stands != self.cwd and self.cwd.is_dir() else ""

    def _end_all(self) -> None:
        alive = [slot.process for slot in self.slots if slot.process is not None]
        for process in alive:
            process.terminate()
        for _ in alive:
            self._wake_one()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wake_one(self) -> None:
        """Let an idle worker notice the signal it was sent; when the socket is gone the grace period does
        it."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(self.listener.getsockname())
            client.sendall(WAKING_REQUEST)


def resident_bytes(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def open_files(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(psutil.Process(pid).num_fds())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def anybody_disconnected(port: int) -> bool:
    """Whether any process holds a connection to `port` that its peer closed: cheap, so it is asked first."""
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == PROC_NET_CLOSE_WAIT for row in rows)


def disconnected(pid: int, port: int) -> bool:
    """Whether the peer has closed a TCP connection to `port` that the process still holds."""
    try:
        held = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    closed = [each.raddr for each in held if each.status == psutil.CONN_CLOSE_WAIT]
    return any(address.port == port for address in closed)


def become(user: str) -> None:
    """Drop root for good, groups included."""
    account = pwd.getpwnam(user)
    os.setgroups(os.getgrouplist(user, account.pw_gid))
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def listen(path: Path) -> socket.socket:
    """The socket that nginx connects to. One left by an earlier start is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(BACKLOG)
    return listener


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m mapserver.workers", description="Supervise mapserv workers.")
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="unix socket to listen on")
    add("--workers", type=int, default=4, help="about 2 a core on local files, 4 on S3")
    add("--config", type=Path, required=True, help="mapserver.conf")
    add("--mapfiles", type=Path, required=True, help="folder of the mapfiles, where the workers stand")
    add("--mapserv", type=Path, default=Path("/usr/lib/cgi-bin/mapserv"), help="the program")
    add("--user", help="whom to become when started as root")
    add("--max-rss-mb", type=int, default=600, help="a worker that grows over this is replaced")
    add("--database-port", type=int, help="PostgreSQL's TCP port: a worker that loses it is replaced")
    given = parser.parse_args(arguments)
    logs.configure()
    if given.user and os.geteuid() == 0:
        become(given.user)
    # Workers die with this process, however it ends: orphans would go on taking requests from the socket.
    argv = ["setpriv", "--pdeathsig", "KILL", str(given.mapserv), "-conf", str(given.config)]
    supervisor = Supervisor(
        argv,
        listen(given.socket),
        given.mapfiles,
        count=given.workers,
        max_rss=given.max_rss_mb << 20,
        database_port=given.database_port,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    supervisor.run()


if __name__ == "__main__":
    main()
