"""What the process of a run does that was forked from the run server: the same as `dagster api execute_run`.

The server itself is in ``run_server.py``; the worker processes of a run's frames are in `ls4_assets.processing.pool`.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
import tempfile
import traceback
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
from dagster._cli import api

# By name: the definitions stand on this package.
DEFINITIONS = "ls4_assets.definitions"
# Modules that Dagster imports only when a run starts.
PRELOAD = (
    "dagster_postgres",
    "dagster._core.execution.api",
    "dagster._core.executor.in_process",
    "dagster._core.storage.fs_io_manager",
    "resources.s3_storage",
)


def warm_up() -> set[str]:
    """Build what every run builds, so that a fork finds it; returns the asset groups."""
    definitions: dg.Definitions = importlib.import_module(DEFINITIONS).defs()
    repository = definitions.get_repository_def()
    repository.get_job("__ASSET_JOB")
    resource_tracker.ensure_running()
    return {spec.group_name for spec in definitions.resolve_all_asset_specs() if spec.group_name}


def set_process_name(name: str) -> None:
    """Give this process its own name in `ps` and `top`, where a fork has that of the server."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def execute(arguments: str) -> NoReturn:
    """Execute the run in this process, which was just forked, and exit with the status of `dagster api execute_run`."""
    status = 1
    try:
        set_process_name("ls4-run")
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # Not the handler of SIGINT, which is ignored where the server was started in the background.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        start_pool_server()
        assert api.execute_run_command.callback is not None
        api.execute_run_command.callback(arguments, None)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # the process exits, whatever happened
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start_pool_server() -> None:
    """Fork the server that forks this run's workers while this process still has one thread.

    `multiprocessing` would start its fork server as a new Python process, which imports everything again. This one is a fork of
    warm code, and `multiprocessing` uses it as its own, because the variables that it checks name it.
    """
    address = tempfile.mktemp(prefix="ls4-pool-")  # noqa: S306  # bind fails when the name is taken
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    Path(address).chmod(0o600)
    listener.listen()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        try:
            set_process_name("ls4-pool")
            forkserver.main(listener.detach(), read_end, [])
        finally:
            # Reached after the end of the run, also when it was killed.
            Path(address).unlink(missing_ok=True)
            os._exit(0)
    os.close(read_end)
    listener.close()
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, write_end, pid
