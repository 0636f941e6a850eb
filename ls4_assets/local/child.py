"""Call a function in a child process, so that the hundred megabytes of libraries that it imports go with it.

``ls4 demo`` runs for days and only keeps services running. What it does once, at its start, needs Dagster, GDAL and SQLAlchemy.
"""

import pickle
import pkgutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from ls4_assets.errors import Ls4Error

_POLL_SECONDS = 0.5
_FORK = get_context("fork")


class ChildError(Ls4Error):
    """The child process ended without a result."""


def call_in_child(function: str, *arguments: object, while_waiting: Callable[[], None] = lambda: None) -> Any:
    """Return what the function `module:name` returns in a child process, or raise what it raises.

    `while_waiting` is called twice a second. The child is killed when the call is interrupted.
    """
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        while not receiver.poll(_POLL_SECONDS):
            while_waiting()
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise ChildError(f"{function} ended with status {process.exitcode}; start again.") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def _call(sender: Connection, function: str, arguments: tuple[object, ...]) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        sender.send((pkgutil.resolve_name(function)(*arguments), None))
    except Exception as error:  # noqa: BLE001  # the parent raises it
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301  # its own
        except Exception:  # noqa: BLE001  # some errors cannot be copied
            error = ChildError(f"{type(error).__name__}: {error}; fix it and start again.")
        sender.send((None, error))
