"""The metrics of map requests, in Prometheus's text format. Those of the platform come from the monitor.

This image has no Prometheus library; names and values need no escaping.
"""

from collections import Counter
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended. rejected: the client is penalized, or the queue is full; unavailable: no worker or no database;
    expired: it took too long; crashed: it ended the worker; abandoned: the client left before its turn.
    """

    ANSWERED = "answered"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    EXPIRED = "expired"
    CRASHED = "crashed"
    ABANDONED = "abandoned"


# Name, kind, labels, meaning.
REQUESTS = ("ls4_map_requests", "counter", ("outcome",), "requests to MapServer that ended; tiles from the cache are not counted")
WAITING = ("ls4_map_requests_waiting", "gauge", (), "requests that wait for a worker of MapServer")
BUSY = ("ls4_map_workers_busy", "gauge", (), "workers of MapServer that answer a request")
MAP_METRICS = (REQUESTS, WAITING, BUSY)


def render_metrics(outcomes: Counter[Outcome], waiting: int, busy: int) -> str:
    """The text format, version 0.0.4."""
    samples = {
        REQUESTS: [f'ls4_map_requests_total{{outcome="{outcome}"}} {outcomes[outcome]}' for outcome in Outcome],
        WAITING: [f"{WAITING[0]} {waiting}"],
        BUSY: [f"{BUSY[0]} {busy}"],
    }
    lines = []
    for (name, kind, _labels, meaning), values in samples.items():
        full_name = f"{name}_total" if kind == "counter" else name
        lines += [f"# HELP {full_name} {meaning}", f"# TYPE {full_name} {kind}", *values]
    return "\n".join([*lines, ""])
