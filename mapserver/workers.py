"""The supervisor of the FastCGI workers: `python -m mapserver.workers` opens the socket and keeps N mapserv processes running.

MapServer leaves process management to others: it exits on some read errors, and its memory grows with what it caches. So the
supervisor restarts a worker that exited, and replaces one that grew too large, lost its database or hangs. A worker is replaced
while it has no request, so no request is lost. Which worker gets a request is decided in `dispatcher`; nginx is started by
`__main__` or `ls4_assets.local`.
"""

import argparse
import asyncio
import logging
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ls4_assets import logs
from ls4_assets.domain.backoff import Backoff
from mapserver.connections import is_any_disconnected, is_disconnected
from mapserver.dispatcher import REQUEST_SECONDS, Dispatcher, Exchange, Worker

POLL_SECONDS = 0.5
# Reading the kernel's table of connections takes 20 ms on a busy machine.
INSPECT_SECONDS = 2.0
_RESTART_POLL_SECONDS = 0.01
# A worker that exits sooner than this after its start, without a request, is restarted with backoff.
MIN_UPTIME_SECONDS = 5.0
_START_BACKOFF = Backoff(first_seconds=0.5, longest_seconds=30)
# After a crash in a request. The penalty of the client limits such crashes, so the other clients need not wait.
_CRASH_BACKOFF = Backoff(first_seconds=0.05, longest_seconds=1)
GRACE_SECONDS = 5.0
# Frames stay open between requests, and the usual limit is 1,024 files per process.
MAX_OPEN_FILES = 600
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# The workers read everything else from mapserver.conf: a worker that was taken over must not find a password here.
ENVIRONMENT = {"PATH": os.defpath}


@dataclass
class WorkerSlot:
    """One of the N workers, with the socket from which mapserv takes its requests.

    start_failures: exits in a row that came within MIN_UPTIME_SECONDS and without a request. crashes: exits in a row in the first
    request. has_crashed: in a request, and it has not been started again. drain_reason: why the process is to be replaced as soon
    as it has no request; empty: it stays. cwd: the folder in which it was started. Times are of time.monotonic().
    """

    listener: socket.socket
    socket_path: str
    process: subprocess.Popen[bytes] | None = None
    exchange: Exchange | None = None
    started_at: float = 0.0
    start_failures: int = 0
    crashes: int = 0
    has_crashed: bool = False
    retry_after: float = 0.0
    drain_reason: str = ""
    cwd: Path = Path("/")

    @property
    def accepts_requests(self) -> bool:
        return self.process is not None and not self.drain_reason


class WorkerSupervisor:
    """Keeps `count` processes of `argv` running and gives them the requests that arrive at `listener`."""

    def __init__(
        self,
        argv: Sequence[str],
        listener: socket.socket,
        cwd: Path,
        *,
        count: int,
        max_rss_bytes: int,
        database_port: int | None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.argv, self.listener, self.cwd = argv, listener, cwd
        self.max_rss_bytes, self.database_port = max_rss_bytes, database_port
        path = Path(listener.getsockname())
        paths = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(count)]
        self.slots = [WorkerSlot(listen(path), str(path)) for path in paths]
        self.dispatcher = Dispatcher(self.slots, self._on_crash, self._on_hang, self._on_lost_database, request_seconds)
        self._stopping = False
        self._restarts: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Supervise until `stop` is called, then stop all workers."""
        server = await self.dispatcher.serve(self.listener)
        inspected_at = -INSPECT_SECONDS
        while not self._stopping:
            if time.monotonic() - inspected_at >= INSPECT_SECONDS:
                inspected_at = time.monotonic()
                self._inspect()
            for slot in self.slots:
                self._ensure_running(slot)
            self.dispatcher.dispatch()
            await asyncio.sleep(POLL_SECONDS)
        server.close()
        await self._stop_all()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping = True

    def _ensure_running(self, slot: WorkerSlot) -> None:
        now = time.monotonic()
        if slot.process is not None and slot.process.poll() is not None:
            self._on_exit(slot, now)
        if slot.process is not None and slot.drain_reason and not slot.exchange:
            logs.emit("mapserv_replaced", pid=slot.process.pid, reason=slot.drain_reason)
            self._end_process(slot)
        if slot.process is None and now >= slot.retry_after:
            # A read-only archive has no folder of mapfiles before its first map.
            slot.cwd = self.cwd if self.cwd.is_dir() else Path("/")
            slot.process = subprocess.Popen(self.argv, stdin=slot.listener.fileno(), cwd=slot.cwd, env=ENVIRONMENT)
            slot.started_at, slot.has_crashed = now, False

    def _on_exit(self, slot: WorkerSlot, now: float) -> None:
        """Schedule the restart: at once, or with exponential backoff when the worker keeps exiting after its start."""
        assert slot.process is not None
        logs.emit("mapserv_exited", logging.ERROR, pid=slot.process.pid, code=slot.process.returncode)
        is_early = now - slot.started_at < MIN_UPTIME_SECONDS
        had_request = slot.has_crashed or slot.exchange is not None
        slot.start_failures = slot.start_failures + 1 if is_early and not had_request else 0
        slot.crashes = slot.crashes + 1 if is_early and had_request else 0
        slot.retry_after = now + _START_BACKOFF.seconds(slot.start_failures) + _CRASH_BACKOFF.seconds(slot.crashes - 1)
        slot.process, slot.drain_reason = None, ""

    def _end_process(self, slot: WorkerSlot) -> None:
        """End a worker. SIGKILL, because mapserv handles SIGTERM only at its next request, which it then drops."""
        assert slot.process is not None
        slot.process.kill()
        slot.process.wait()
        slot.process, slot.drain_reason = None, ""

    def _on_crash(self, worker: Worker) -> None:
        slot = self._slot(worker)
        slot.has_crashed = True
        task = asyncio.get_running_loop().create_task(self._restart_crashed(slot))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart_crashed(self, slot: WorkerSlot) -> None:
        """Restart a crashed worker as soon as the kernel has ended it, and not at the next poll."""
        crashed = slot.process
        for _ in range(round(POLL_SECONDS / _RESTART_POLL_SECONDS)):
            await asyncio.sleep(_RESTART_POLL_SECONDS)
            if self._stopping:
                return
            self._ensure_running(slot)
            if slot.process is not crashed and slot.process is not None:
                self.dispatcher.dispatch()
                return
        # It closed the connection only, or was restarted before the dispatcher saw the crash. Otherwise its start is delayed.
        if slot.process is not None:
            slot.has_crashed = False

    def _on_hang(self, worker: Worker) -> None:
        slot = self._slot(worker)
        if slot.process is not None:
            logs.emit("mapserv_replaced", logging.WARNING, pid=slot.process.pid, reason="its request took too long")
            self._end_process(slot)
            # A worker that had not accepted the request would leave it to the next.
            slot.listener.close()
            slot.listener = listen(Path(slot.socket_path))

    def _on_lost_database(self, worker: Worker) -> None:
        """Replace the worker at once if the kernel confirms it, because the message may quote a request, and then all others."""
        slot = self._slot(worker)
        if slot.process is None or any(each.drain_reason for each in self.slots) or not self._has_lost_database(slot.process.pid):
            return
        slot.drain_reason = "its database connection failed"
        self._ensure_running(slot)
        self._inspect()

    def _has_lost_database(self, pid: int) -> bool:
        return self.database_port is not None and is_disconnected(pid, self.database_port)

    def _slot(self, worker: Worker) -> WorkerSlot:
        return next(slot for slot in self.slots if slot is worker)

    def _inspect(self) -> None:
        """Choose the workers to replace.

        After a restart of PostgreSQL each worker would fail one more request. Of those that are too large, one at a time is
        replaced, because the others keep what they have cached.
        """
        disconnected = self.database_port is not None and is_any_disconnected(self.database_port)
        is_any_draining = any(slot.drain_reason for slot in self.slots)
        for slot in self.slots:
            if slot.process is None or slot.drain_reason:
                continue
            if disconnected and self._has_lost_database(slot.process.pid):
                slot.drain_reason = "its database connection was closed"
            elif not is_any_draining and (reason := self._replacement_reason(slot.process.pid, slot.cwd)):
                slot.drain_reason, is_any_draining = reason, True

    def _replacement_reason(self, pid: int, cwd: Path) -> str:
        """Empty for a worker that need not be replaced."""
        if resident_bytes(pid) > self.max_rss_bytes or count_open_files(pid) > MAX_OPEN_FILES:
            return "it uses too much memory or too many open files"
        return "the folder of mapfiles was created" if cwd != self.cwd and self.cwd.is_dir() else ""

    async def _stop_all(self) -> None:
        """End the workers as soon as they have no request, at the latest after GRACE_SECONDS."""
        deadline = time.monotonic() + GRACE_SECONDS
        while any(slot.exchange for slot in self.slots) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for slot in self.slots:
            if slot.process is not None:
                self._end_process(slot)
            slot.listener.close()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it does not exist. Read directly, because psutil costs ten times as much."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def count_open_files(pid: int) -> int:
    """Number of open file descriptors of a process; 0 when it does not exist."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def drop_privileges(user: str) -> None:
    """Change from root to `user` for good, groups included."""
    account = pwd.getpwnam(user)
    os.setgroups(os.getgrouplist(user, account.pw_gid))
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def listen(path: Path) -> socket.socket:
    """Open a Unix socket; replaces one that an earlier start left behind."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o660)
    # Of a worker: it has one request at a time.
    listener.listen(1)
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
    asyncio.run(_run_until_signaled(supervisor))


async def _run_until_signaled(supervisor: WorkerSupervisor) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    await supervisor.run()


if __name__ == "__main__":
    main()
