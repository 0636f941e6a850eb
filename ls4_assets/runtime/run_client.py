"""The client of the run server: start a run in a warm process, interrupt it, and list what is running.

One request and one response, each a line of JSON, over a Unix socket. The server is ``run_server.py``; ``local_launcher.py`` uses
it on one machine, and ``warm_service.py`` in a container of its own.
"""

import json
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ls4_assets.errors import Ls4Error

# The variable that names the socket. Without it runs start in the code server.
SOCKET_VARIABLE = "LS4_RUN_SERVER"
# The server forks in a few milliseconds; while it reloads changed code it answers after its imports.
_TIMEOUT_SECONDS = 20.0


class RunServerError(Ls4Error):
    """The run server did not answer, so it is unknown whether it started the run."""


class RunServerUnavailableError(RunServerError):
    """The run server is not running, or rejected the request: nothing was started."""


def server_socket() -> Path | None:
    """The socket of this installation's run server; None: it has no run server."""
    path = os.environ.get(SOCKET_VARIABLE)
    return Path(path) if path else None


def start_run(path: Path, run_id: str, arguments: str, groups: Collection[str]) -> int:
    """Start a run; returns its process ID. `arguments`: what `dagster api execute_run` takes. Raises RunServerError.

    `groups`: asset groups that the run may need. A server that has loaded its definitions before they came into use loads them
    again.
    """
    return int(_request(path, {"start": run_id, "arguments": arguments, "groups": sorted(groups)})["pid"])


def prepare(path: Path, groups: Collection[str]) -> None:
    """Have the server load its definitions again if it lacks one of these asset groups, before a run needs it. Does not wait."""
    with suppress(RunServerError):
        _exchange(path, {"prepare": sorted(groups)})


def interrupt_run(path: Path, run_id: str) -> bool:
    """Interrupt a run as Ctrl-C would; returns False when the server has no process of it. Raises RunServerError."""
    return bool(_request(path, {"interrupt": run_id})["interrupted"])


def list_runs(path: Path) -> dict[str, int]:
    """The process IDs of the running runs, by run ID. Raises RunServerError."""
    runs: dict[str, int] = _request(path, {"runs": True})["runs"]
    return runs


def is_running(path: Path) -> bool:
    """Whether the server answers."""
    try:
        return "pid" in _request(path, {"ping": True})
    except RunServerError:
        return False


def _request(path: Path, request: dict[str, object]) -> dict[str, Any]:
    response = _exchange(path, request)
    while "reloading" in response:
        response = _exchange(path, request)
    if "error" in response:
        raise RunServerUnavailableError(f"The run server rejected the request: {response['error']}.")
    return response


def _exchange(path: Path, request: dict[str, object]) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            try:
                connection.connect(str(path))
            except OSError as error:
                raise RunServerUnavailableError(f"The run server cannot be reached: {error}.") from error
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as file:
                response: dict[str, Any] = json.loads(file.readline())
                return response
    except (OSError, ValueError) as error:
        raise RunServerError(f"The run server does not answer: {error}.") from error
