"""`python -m ls4_assets.runtime.run_server SOCKET`: a process that has imported everything a run needs, and forks each run.

A run that starts as a process of its own spends three CPU seconds on imports and definitions; a fork spends none. The server has
one thread and opens no connection, because neither survives a fork. It does not decide which runs start, it does not watch them,
and it keeps no state that a restart would lose: runs go on without it. What a fork does is in ``run_process.py``.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from ls4_assets import logs
from ls4_assets.runtime import run_process
from ls4_assets.settings import load_settings

_PACKAGES = ("ls4_assets", "resources", "sensors", "mapserver")
_PRELOAD = (run_process.DEFINITIONS, "ls4_assets.processing.worker", *run_process.PRELOAD)
_CLIENT_SECONDS = 5.0
_MAX_REQUEST_BYTES = 10_000_000


class RunServer:
    """The server. `listener` is bound and listens; `runs` are the children of the process that this one replaces, by ID.

    `groups`: asset groups that are defined, or were in vain looked for.
    """

    def __init__(self, listener: socket.socket, runs: dict[int, str], groups: set[str]) -> None:
        self._listener = listener
        self._runs = runs
        self._groups = groups
        self._code = code_version()

    def serve(self) -> None:
        """Answer requests until SIGTERM."""
        wakeup, self._wakeup = socket.socketpair()
        for end in (wakeup, self._wakeup, self._listener):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            self._reap()  # runs that ended while this process was replaced
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wakeup:
                        wakeup.recv(4096)
                        self._reap()
                    else:
                        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client has gone
        with connection:
            connection.settimeout(_CLIENT_SECONDS)
            try:
                with connection.makefile("rb") as file:
                    request = json.loads(file.readline(_MAX_REQUEST_BYTES))
                response = self._answer(request, connection)
            except (OSError, ValueError, KeyError, TypeError) as error:
                response = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(response).encode() + b"\n")
            except OSError:
                return  # the client has gone

    def _answer(self, request: dict[str, Any], connection: socket.socket) -> dict[str, object]:
        missing = {*request.get("groups", ()), *request.get("prepare", ())} - self._groups
        if missing or ("start" in request and code_version() != self._code):
            # The client asks again: its connection ends with this process image, the listening socket does not.
            connection.sendall(b'{"reloading": true}\n')
            self._reload(missing)
        if "start" in request:
            return {"pid": self._fork(request["start"], request["arguments"], connection)}
        if "interrupt" in request:
            return {"interrupted": self._interrupt(request["interrupt"])}
        if "runs" in request:
            self._reap()
            return {"runs": {run_id: pid for pid, run_id in self._runs.items()}}
        return {"pid": os.getpid()}

    def _fork(self, run_id: str, arguments: str, connection: socket.socket) -> int:
        if found := find_open_resources():
            raise OSError(f"a fork is unsafe: {', '.join(found)}")
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for end in (self._listener, self._wakeup, connection):
                end.close()
            run_process.execute(arguments)
        self._runs[pid] = run_id
        return pid

    def _interrupt(self, run_id: str) -> bool:
        pids = [pid for pid, run in self._runs.items() if run == run_id]
        for pid in pids:
            os.kill(pid, signal.SIGINT)  # a child that is not reaped yet keeps its process ID
        return bool(pids)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if run_id := self._runs.pop(pid, None):
                # Without its workers, which are children of the run's fork server.
                cpu_seconds = round(usage.ru_utime + usage.ru_stime, 3)
                exit_code = os.waitstatus_to_exitcode(status)
                logs.emit("run_process_ended", run_id=run_id, pid=pid, exit_code=exit_code, cpu_seconds=cpu_seconds)

    def _reload(self, groups: set[str]) -> NoReturn:
        """Replace this process by a new one with the changed code or the new groups; the socket and the runs stay."""
        os.set_inheritable(self._listener.fileno(), True)
        # The new process does not know its runs yet: a stop waits until it serves.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        arguments = [f"--fd={self._listener.fileno()}", json.dumps(self._runs), json.dumps(sorted(groups))]
        os.execv(  # noqa: S606  # not the command of a user
            sys.executable, [sys.executable, "-m", "ls4_assets.runtime.run_server", *arguments]
        )

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        """The machine stops: interrupt the runs, so that they record their end."""
        for pid in self._runs:
            os.kill(pid, signal.SIGTERM)
        sys.exit(0)


def code_version() -> tuple[int, int]:
    """Number and latest change of the source files and of the settings file; changes with the code that a run would import."""
    root = Path(__file__).parents[2]
    files = [file for package in _PACKAGES for file in (root / package).rglob("*.py")]
    files += [Path(os.environ[name]) for name in ("LS4_CONFIG", "LS4_ARCHIVE_FILE") if os.environ.get(name)]
    return len(files), max(file.stat().st_mtime_ns for file in files)


def find_open_resources() -> list[str]:
    """What would not survive a fork: threads of Python or of a library, and network connections."""
    found = [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    process = psutil.Process()
    if not found and (count := process.num_threads()) > 1:
        found.append(f"{count - 1} threads of libraries")
    return found + [f"connection to {connection.raddr}" for connection in process.net_connections("inet")]


def preload() -> set[str]:
    """Import all modules of a run and build the definitions; returns their asset groups. Raises ConfigurationError."""
    settings = load_settings()
    logs.configure(settings.log_file)
    for module in _PRELOAD:
        importlib.import_module(module)
    groups = run_process.warm_up()
    gc.freeze()
    return groups


def main(argument: str, runs: str = "{}", groups: str = "[]") -> None:
    """Serve on a socket path, or on the listening socket `--fd=N` of the process that this one replaces.

    `runs` are the replaced one's, and `groups` are those because of which it was replaced.
    """
    defined = preload()
    if argument.startswith("--fd="):
        listener = socket.socket(fileno=int(argument.removeprefix("--fd=")))
        listener.set_inheritable(False)
    else:
        path = Path(argument)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
    RunServer(listener, {int(pid): run_id for pid, run_id in json.loads(runs).items()}, defined | set(json.loads(groups))).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
