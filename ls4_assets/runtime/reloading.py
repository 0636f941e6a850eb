"""A request to load the definitions again, from code that they contain to the process that serves them (``code_server.py``)."""

from collections.abc import Callable

_reload: Callable[[], None] | None = None


def serve_requests(reload: Callable[[], None]) -> None:
    """Let this process call `reload` when it is asked to load its definitions again."""
    global _reload  # one server per process
    _reload = reload


def request_reload() -> bool:
    """Start to load the definitions again. Returns False in a process that does not serve any, as a run or a test."""
    if _reload is None:
        return False
    _reload()
    return True
