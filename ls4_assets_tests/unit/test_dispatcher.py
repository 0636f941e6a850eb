"""The dispatcher between nginx and the workers, with Unix sockets that answer as each test needs instead of mapserv."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mapserver import fastcgi
from mapserver.dispatcher import Dispatcher, Exchange, Worker
from mapserver.workers import listen

pytestmark = pytest.mark.timeout(30)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
PICTURE = fastcgi.write_response("Content-Type: image/png\r\n\r\npicture")
# The record that ends a response has 16 bytes.
PICTURE_WITHOUT_END = PICTURE[:-16]


@dataclass
class FakeWorker:
    """`answer` gets the connection of each request and closes it by returning."""

    socket_path: str
    answer: Answer
    exchange: Exchange | None = None
    has_crashed: bool = False
    accepts_requests: bool = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while not fastcgi.is_complete_request(data) and (part := await reader.read(65536)):
            data += part
        await self.answer(writer)
        writer.close()


@dataclass
class FrontEnd:
    """A dispatcher with its workers. events: the calls of the supervisor, such as ("crash", 0) for the first worker."""

    path: Path
    workers: Sequence[FakeWorker]
    request_seconds: float
    events: list[tuple[str, int]] = field(default_factory=list)
    on_crash: Callable[[FakeWorker], None] = lambda worker: None

    def __post_init__(self) -> None:
        on_crash, on_hang, on_lost_database = map(self._recorder, ("crash", "hang", "lost_database"))
        self.dispatcher = Dispatcher(self.workers, on_crash, on_hang, on_lost_database, self.request_seconds)

    def _recorder(self, name: str) -> Callable[[Worker], None]:
        def record(worker: Worker) -> None:
            number = next(number for number, each in enumerate(self.workers) if each is worker)
            self.events.append((name, number))
            if name == "crash":
                self.on_crash(self.workers[number])

        return record

    async def get(self, client: str = "198.51.100.7") -> bytes:
        """The bytes of the response, as soon as all workers are idle."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(fastcgi.write_request({"REMOTE_ADDR": client, "SCRIPT_NAME": "/wms/x", "QUERY_STRING": "a=b"}))
        response = await reader.read()
        writer.close()
        while any(worker.exchange for worker in self.workers):
            await asyncio.sleep(0.005)
        return response

    def is_proven(self, client: str = "198.51.100.7") -> bool:
        """Whether the client is no suspect when another one crashes a worker."""
        self.dispatcher._penalties.add("203.0.113.1")
        return not self.dispatcher._penalties.is_suspect(client)


@asynccontextmanager
async def front_end(folder: Path, *answers: Answer, request_seconds: float = 20) -> AsyncIterator[FrontEnd]:
    workers = [FakeWorker(str(folder / f"worker-{number}"), answer) for number, answer in enumerate(answers)]
    servers = [await asyncio.start_unix_server(worker.serve, worker.socket_path) for worker in workers]
    stage = FrontEnd(folder / "sock", workers, request_seconds)
    servers.append(await stage.dispatcher.serve(listen(stage.path)))
    try:
        yield stage
    finally:
        for server in servers:
            server.close()


def sending(*parts: bytes, seconds: float = 0) -> Answer:
    """Sends the parts as they are, then waits."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        await asyncio.sleep(seconds)

    return answer


def with_errors(errors: str) -> bytes:
    return fastcgi.write_response("Content-Type: text/xml\r\n\r\n<exception/>", errors.encode())


@pytest.mark.parametrize(
    "errors",
    [
        # As MapServer 8.0 writes them.
        'Database connection failed (connection to server at "127.0.0.1", port 5432 failed: Connection timed out\n',
        "msDrawMap(): x\nDatabase connection failed (FATAL:  sorry, too many clients already\n) with connect string",
        "PostgreSQL database connection gone bad (server closed) in msPostGISLayerOpen()",
        "msPostGISLayerWhichShapes(): Error (FATAL:  terminating connection due to administrator command\n) executing query: x\n",
        "Error executing SQL: (SELECT postgis_version()) in msPostGISRetrieveVersion()msPostGISRetrieveVersion(): Query error.",
        "msPostGISLayerGetShape(): Error (server closed the connection unexpectedly\n) executing SQL: x\n",
    ],
)
def test_map_without_a_database_is_a_503(tmp_path: Path, errors: str) -> None:
    """A map was an exception with status 200, and its client was proven by it."""

    async def run() -> None:
        async with front_end(tmp_path, sending(with_errors(errors))) as stage:
            assert b"Status: 503" in await stage.get()
            assert stage.events == [("lost_database", 0)]
            assert not stage.is_proven()

    asyncio.run(run())


@pytest.mark.parametrize(
    "errors",
    [
        "msWFSGetFeature(): WFS server error. TYPENAME 'too many connections' doesn't exist in this server.\n",
        "msWFSGetFeature(): WFS server error. TYPENAME 'Database connection failed (x)' doesn't exist in this server.\n",
        'msPostGISLayerWhichShapes(): Error (ERROR:  invalid input syntax: "server closed the connection"\n) executing query',
        "msPostGISLayerWhichShapes(): Error (ERROR:  x\n) executing query: select 'terminating connection'\n",
        "msWFSGetFeature(): WFS server error. TYPENAME 'Error executing SQL: (SELECT postgis_version()) in' doesn't exist.\n",
        # The connection is still good.
        "msPostGISLayerWhichShapes(): Error (ERROR:  canceling statement due to statement timeout\n) executing query: x\n",
    ],
)
def test_message_that_quotes_a_request_is_not_a_lost_database(tmp_path: Path, errors: str) -> None:
    """One anonymous client had one worker after another replaced with a name such as "too many connections"."""

    async def run() -> None:
        async with front_end(tmp_path, sending(with_errors(errors))) as stage:
            assert b"<exception/>" in await stage.get()
            assert stage.events == []
            assert stage.is_proven()

    asyncio.run(run())


def test_response_that_stops_is_closed_and_not_followed_by_another(tmp_path: Path) -> None:
    """The sentence of a 503 was the end of a picture, which nginx kept for a day."""

    async def run() -> None:
        async with front_end(tmp_path, sending(PICTURE_WITHOUT_END, seconds=5), request_seconds=0.3) as stage:
            assert await stage.get() == PICTURE_WITHOUT_END
            assert stage.events == [("hang", 0)]
            assert not stage.is_proven()

    asyncio.run(run())


@pytest.mark.parametrize("response", [b"", PICTURE_WITHOUT_END, PICTURE[:-1], PICTURE[:20]])
def test_worker_that_crashes_in_its_response_is_a_crash(tmp_path: Path, response: bytes) -> None:
    """A request that crashed its worker after the first bytes had no penalty and no event, and proved its client."""

    async def run() -> None:
        async with front_end(tmp_path, sending(response)) as stage:
            received = await stage.get()
            assert received == response or (len(response) <= 20 and b"Status: 503" in received)
            assert stage.events == [("crash", 0)]
            assert b"wait" in await stage.get(), "it has a penalty"
            assert not stage.is_proven()

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100_000])
def test_response_in_parts_of_any_size_is_a_success(tmp_path: Path, size: int) -> None:
    response = fastcgi.write_response("Content-Type: image/png\r\n\r\n" + "picture" * 900, b"msDrawMap(): x")
    parts = [response[start : start + size] for start in range(0, len(response), size)]

    async def run() -> None:
        async with front_end(tmp_path, sending(*parts)) as stage:
            assert await stage.get() == response
            assert stage.events == []
            assert stage.is_proven()

    asyncio.run(run())


def test_end_of_a_response_is_found_in_parts_of_any_size() -> None:
    for size in range(1, len(PICTURE) + 1):
        records = fastcgi.RecordFollower()
        for start in range(0, len(PICTURE), size):
            assert not records.is_at_end
            records.add(PICTURE[start : start + size])
        assert records.is_at_end


def test_suspects_share_one_worker_also_while_it_starts_again(tmp_path: Path) -> None:
    """Ten hostile clients crashed all workers: the one that had just crashed was not counted as theirs."""

    async def run() -> None:
        async with front_end(tmp_path, sending(), sending(), sending(PICTURE)) as stage:
            stage.on_crash = lambda worker: setattr(worker, "has_crashed", True)
            await stage.get("198.51.100.1")
            others = [asyncio.create_task(stage.get(f"198.51.100.{number}")) for number in (2, 3, 4)]
            await asyncio.sleep(0.3)
            assert stage.events == [("crash", 0)]
            for worker in stage.workers:
                worker.has_crashed = False
            stage.dispatcher.dispatch()
            await asyncio.sleep(0.3)
            assert stage.events == [("crash", 0), ("crash", 1)]
            for task in others:
                task.cancel()

    asyncio.run(run())


def test_worker_that_cannot_be_reached_is_no_fault_of_the_client(tmp_path: Path) -> None:
    """The client of a request that no worker had received waited, as if it had crashed one."""

    async def run() -> None:
        async with front_end(tmp_path, sending(PICTURE)) as stage:
            path = Path(stage.workers[0].socket_path)
            hidden = path.rename(path.with_name("hidden"))
            assert b"not responding" in await stage.get()
            assert stage.events == []
            hidden.rename(path)
            assert await stage.get() == PICTURE

    asyncio.run(run())


def test_time_limit_of_a_request_ends_with_it(tmp_path: Path) -> None:
    """At a thousand requests per second the dispatcher held sixty thousand of them, and their responses, for a minute."""

    async def run() -> None:
        async with front_end(tmp_path, sending(PICTURE)) as stage:
            for _ in range(20):
                assert await stage.get() == PICTURE
            await asyncio.sleep(0.1)
            gc.collect()
            assert not [each for each in gc.get_objects() if isinstance(each, Exchange)]

    asyncio.run(run())
