"""The dispatcher between nginx and the workers: it gives each request to one idle worker, and records which request a worker had.

mapserv takes its requests from a socket. If all workers took them from one socket, a request that crashes mapserv could reach one
worker after another, also long after its client has gone. So each worker has a socket of its own, and:

- a request is never given to a second worker;
- a request whose client has gone is removed from the queue, and the queue is short;
- no client occupies the last idle worker, and waiting clients take turns;
- a client whose request crashed a worker waits, twice as long each time.

Processes are started and replaced in `workers`; limits on clients that crash nothing are in nginx.conf.
"""

import asyncio
import logging
import re
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, cast

from ls4_assets import logs
from mapserver import fastcgi
from mapserver.metrics import Outcome, render_metrics
from mapserver.penalties import Penalties, client_network

# nginx waits no longer (fastcgi.conf), so the worker hangs or draws for nobody.
REQUEST_SECONDS = 60.0
_MAX_WAITING_PER_WORKER = 16
# Of accepted connections. The requests wait in the dispatcher.
_LISTEN_BACKLOG = 256
_MAX_REQUEST_BYTES = 1 << 18
_PARAMETERS = frozenset({b"REMOTE_ADDR", b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING"})
_HEALTH = "/health/"
# nginx's address for the metrics of this process (nginx.conf).
_METRICS = "/metrics?"
_MAX_LOGGED = 2000
_MAX_CLIENTS = 10_000
# How MapServer's error messages begin; they precede its response, which itself has status 200, 400 or 404. What follows may quote
# the request, so nothing but the beginning of a line counts. A parameter with a line break can still look like one: `workers`
# asks the kernel before it replaces a worker.
_DATABASE_ERROR = re.compile(
    rb"^(?:Database connection failed \(|PostgreSQL database connection gone bad \("
    # The first statement of each request, on a connection that has broken since the last one.
    rb"|Error executing SQL: \(SELECT postgis_version\(\)\) in "
    rb"|msPostGIS[A-Za-z]+\(\): Error \((?:FATAL: +)?"
    rb"(?:server closed the connection|terminating connection|no connection to the server|the database system is))",
    re.MULTILINE,
)

UNAVAILABLE = "The map server is not responding: try again in a few seconds."
_NO_DATABASE = "The database of the map server is not available: try again in a few seconds."
_CRASHED = "The map server cannot answer this request: change its parameters."
_PENALIZED = "Your last request crashed the map server: wait, and do not repeat it."


class Worker(Protocol):
    """What the dispatcher needs of a worker."""

    socket_path: str
    exchange: "Exchange | None"
    has_crashed: bool
    """In a request, and it is not running again."""

    @property
    def accepts_requests(self) -> bool: ...


class Request(asyncio.Protocol):
    """A connection from nginx, with one request. `client` and `address` are set when the request is complete."""

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher, self._data = dispatcher, bytearray()
        self.exchange: Exchange | None = None
        self.client = self.address = ""
        self.transport: asyncio.Transport | None = None

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self.client or not fastcgi.is_complete_request(self._data):
            if len(self._data) > _MAX_REQUEST_BYTES:
                self.close()
            return
        try:
            parameters = fastcgi.read_parameters(self._data, _PARAMETERS)
        except ValueError:
            self.close()
            return
        self.client = client_network(parameters.get(b"REMOTE_ADDR", ""))
        self.address = (
            f"{parameters.get(b'SCRIPT_NAME', '')}{parameters.get(b'PATH_INFO', '')}?{parameters.get(b'QUERY_STRING', '')}"
        )
        self._dispatcher.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._dispatcher.discard(self)
        if self.exchange:
            self.exchange.resume()

    def pause_writing(self) -> None:
        if self.exchange:
            self.exchange.pause()

    def resume_writing(self) -> None:
        if self.exchange:
            self.exchange.resume()

    def write(self, data: bytes) -> None:
        """Send a part of the response, unless the client has gone."""
        if self.transport:
            self.transport.write(data)

    def reject(self, message: str, *, retry_after_seconds: float = 1, errors: bytes = b"") -> None:
        """Respond with status 503 and close. `errors`: what nginx logs."""
        header = f"Status: 503 Service Unavailable\r\nRetry-After: {retry_after_seconds:.0f}\r\nContent-Type: text/plain"
        self.write(fastcgi.write_response(f"{header}\r\n\r\n{message}\n", errors))
        self.close()

    def answer(self, text: str) -> None:
        """Respond with a text and close."""
        self.write(fastcgi.write_response(f"Content-Type: text/plain\r\n\r\n{text}"))
        self.close()

    def close(self) -> None:
        if self.transport:
            self.transport.close()


class Exchange(asyncio.Protocol):
    """A connection to a worker, with one request and its response."""

    def __init__(self, request: Request, worker: Worker, on_end: Callable[["Exchange"], None]) -> None:
        self.request, self.worker, self._on_end = request, worker, on_end
        self._transport: asyncio.Transport | None = None
        self._head: bytearray | None = bytearray()
        self._records = fastcgi.RecordFollower()
        self.time_limit: asyncio.TimerHandle | None = None
        self.has_response = self.lost_database = self.is_expired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.request.data)

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has arrived."""
        return self._records.is_at_end

    def data_received(self, data: bytes) -> None:
        self._records.add(data)
        if self._head is None:
            self.request.write(data)
            return
        self._head += data
        errors = b""
        for kind, content in fastcgi.read_records(self._head):
            if kind == fastcgi.RecordType.STDERR:
                errors += content
            else:
                self._start_response(errors)
                return

    def _start_response(self, errors: bytes) -> None:
        """The first record that is not an error message: from here on the response passes through."""
        assert self._head is not None
        self.has_response = True
        self.lost_database = _DATABASE_ERROR.search(errors) is not None
        if self.lost_database:
            self.request.reject(_NO_DATABASE, errors=errors)
        else:
            self.request.write(bytes(self._head))
        self._head = None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_end(self)

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport:
            with suppress(RuntimeError):  # it was not paused
                self._transport.resume_reading()


@dataclass
class Dispatcher:
    """Gives the requests that arrive at a socket to the workers.

    on_crash: called with a worker that closed its connection without a complete response. on_hang: with a worker whose request
    takes too long. on_lost_database: with a worker that reported a lost database.
    """

    workers: Sequence[Worker]
    on_crash: Callable[[Worker], None]
    on_hang: Callable[[Worker], None]
    on_lost_database: Callable[[Worker], None]
    request_seconds: float = REQUEST_SECONDS
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    _waiting: list[Request] = field(default_factory=list)
    _penalties: Penalties = field(default_factory=Penalties)
    _connecting: set[asyncio.Task[None]] = field(default_factory=set)
    # The last turn of each worker and of each client.
    _idle_since: Counter[int] = field(default_factory=Counter)
    _turns: Counter[str] = field(default_factory=Counter)
    _turn: int = 0

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Accept connections of nginx until the server is closed."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: Request(self), sock=listener, backlog=_LISTEN_BACKLOG)

    def add(self, request: Request) -> None:
        """Queue a request. Reject it for a client under penalty. When the queue is full, reject the last of the longest line."""
        if request.address == _METRICS:
            request.answer(self.metrics())
            return
        if self._reject_penalized(request):
            return
        self._waiting.append(request)
        if len(self._waiting) > _MAX_WAITING_PER_WORKER * len(self.workers):
            lines = Counter(each.client for each in self._waiting)
            client = max(lines, key=lambda each: (self._penalties.is_suspect(each), lines[each]))
            last = next(each for each in reversed(self._waiting) if each.client == client)
            self._waiting.remove(last)
            last.reject(UNAVAILABLE)
            self.outcomes[Outcome.REJECTED] += 1
        self.dispatch()

    def discard(self, request: Request) -> None:
        """Remove a request whose client has gone."""
        if request in self._waiting:
            self._waiting.remove(request)
            self.outcomes[Outcome.ABANDONED] += 1

    def metrics(self) -> str:
        """The metrics of the requests so far."""
        return render_metrics(self.outcomes, len(self._waiting), sum(worker.exchange is not None for worker in self.workers))

    def dispatch(self) -> None:
        """Give waiting requests to idle workers."""
        while self._waiting:
            idle = [number for number, worker in enumerate(self.workers) if worker.accepts_requests and not worker.exchange]
            request = self._next_request()
            if not idle or request is None:
                return
            self._waiting.remove(request)
            number = min(idle, key=lambda each: self._idle_since[each])
            self._take_turn(request, number)
            self._start(request, self.workers[number])

    def _reject_penalized(self, request: Request) -> bool:
        wait = self._penalties.remaining_seconds(request.client)
        # Not the health check: its client may be a load balancer that nobody declared, with all clients behind it.
        if wait <= 0 or request.address.startswith(_HEALTH):
            return False
        request.reject(_PENALIZED, retry_after_seconds=wait + 1)
        self.outcomes[Outcome.REJECTED] += 1
        return True

    def _next_request(self) -> Request | None:
        """The next request of the client that occupies the fewest workers and had its last turn longest ago.

        Suspects come last, and share one worker: the others must not wait for it to start again.
        """
        busy = Counter(worker.exchange.request.client for worker in self.workers if worker.exchange)
        limit = max(1, len(self.workers) - 1)
        suspects = {each.client for each in self._waiting if self._penalties.is_suspect(each.client)}
        # A worker that crashed is that of the suspects until it runs again. Otherwise they would crash the others meanwhile.
        has_suspect = any(worker.has_crashed for worker in self.workers) or any(map(self._penalties.is_suspect, busy))
        candidates = [
            request
            for request in self._waiting
            if busy[request.client] < limit and not (has_suspect and request.client in suspects)
        ]
        return min(
            candidates, key=lambda each: (each.client in suspects, busy[each.client], self._turns[each.client]), default=None
        )

    def _take_turn(self, request: Request, number: int) -> None:
        self._turn += 1
        self._idle_since[number] = self._turn
        if len(self._turns) > _MAX_CLIENTS:
            self._turns.clear()
        self._turns[request.client] = self._turn

    def _start(self, request: Request, worker: Worker) -> None:
        exchange = Exchange(request, worker, self._end)
        request.exchange = worker.exchange = exchange
        task = asyncio.get_running_loop().create_task(self._run(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _run(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: exchange, exchange.worker.socket_path)
        except OSError:
            # The worker never had the request, so the request is not the cause.
            exchange.worker.exchange = exchange.request.exchange = None
            exchange.request.reject(UNAVAILABLE)
            self.outcomes[Outcome.UNAVAILABLE] += 1
            self.dispatch()
            return
        if exchange.worker.exchange is exchange:  # otherwise it has ended
            exchange.time_limit = loop.call_later(self.request_seconds, self._on_time_limit, exchange)

    def _on_time_limit(self, exchange: Exchange) -> None:
        exchange.is_expired = True
        if exchange.has_response:
            exchange.request.close()  # a second response would become a part of the first
        else:
            exchange.request.reject(UNAVAILABLE)
        self.on_hang(exchange.worker)
        exchange.abort()

    def _end(self, exchange: Exchange) -> None:
        worker, request = exchange.worker, exchange.request
        worker.exchange = request.exchange = None
        if exchange.time_limit:
            exchange.time_limit.cancel()
        if exchange.has_response:
            request.close()
        self.outcomes[_outcome(exchange)] += 1
        if exchange.is_complete and exchange.lost_database:
            self.on_lost_database(worker)
        elif exchange.is_complete:
            self._penalties.add_success(request.client)
        elif not exchange.is_expired:
            self._on_crash(exchange)
        self.dispatch()

    def _on_crash(self, exchange: Exchange) -> None:
        request = exchange.request
        wait = self._penalties.add(request.client)
        fields = {"client": request.client, "address": request.address[:_MAX_LOGGED], "penalty_seconds": wait}
        logs.emit("mapserv_crashed", logging.ERROR, **fields)
        if not exchange.has_response:
            request.reject(_CRASHED)
        self._waiting = [each for each in self._waiting if not self._reject_penalized(each)]
        self.on_crash(exchange.worker)


def _outcome(exchange: Exchange) -> Outcome:
    if exchange.is_complete:
        return Outcome.UNAVAILABLE if exchange.lost_database else Outcome.ANSWERED
    return Outcome.EXPIRED if exchange.is_expired else Outcome.CRASHED
