"""Which clients crash workers, and how long they wait: twice as long after each crash, up to a minute.

A request that crashes mapserv costs the start of a process. A client that repeats it without a pause would occupy the processor.
While workers crash, a client that never got a response is a suspect too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from time import monotonic

from ls4_assets.domain.backoff import Backoff

_BACKOFF = Backoff(first_seconds=1, longest_seconds=60)
# A client without a crash for this long starts over.
_MEMORY_SECONDS = 600.0
_ALERT_SECONDS = 10.0
_MAX_CLIENTS = 10_000


@dataclass
class _Record:
    crash_count: int = 0
    until: float = 0.0


class Penalties:
    """The clients whose requests crashed a worker. `now`: a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._records: dict[str, _Record] = {}
        self._proven: set[str] = set()
        self._alert_until = 0.0

    def remaining_seconds(self, client: str) -> float:
        """How long the client still has to wait; 0 for most."""
        record = self._records.get(client)
        return max(0.0, record.until - self._now()) if record else 0.0

    def is_suspect(self, client: str) -> bool:
        """Whether the next request of the client may well crash a worker: one did in the last ten minutes, or others do now."""
        now, record = self._now(), self._records.get(client)
        if record is not None and record.until + _MEMORY_SECONDS > now:
            return True
        return now < self._alert_until and client not in self._proven

    def add_success(self, client: str) -> None:
        """Record that a worker responded to the client."""
        if len(self._proven) >= _MAX_CLIENTS:
            self._proven.clear()
        self._proven.add(client)

    def add(self, client: str) -> float:
        """Record a crash. Returns the seconds that the client has to wait."""
        now = self._now()
        self._alert_until = now + _ALERT_SECONDS
        if len(self._records) >= _MAX_CLIENTS:
            recent = {each: record for each, record in self._records.items() if record.until + _MEMORY_SECONDS > now}
            self._records = recent if len(recent) < _MAX_CLIENTS else {}
        record = self._records.setdefault(client, _Record())
        if record.until + _MEMORY_SECONDS < now:
            record.crash_count = 0
        record.crash_count += 1
        wait = _BACKOFF.seconds(record.crash_count)
        record.until = now + wait
        return wait


def client_network(address: str) -> str:
    """The client of an address: an IPv4 address itself, or the /64 network of an IPv6 address, in which one client has all.

    An IPv4 address may come as IPv6: ::ffff:192.0.2.1.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address or "unknown"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> 64 << 64)}/64")
