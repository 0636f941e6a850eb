"""A distant bucket: a proxy in front of the S3 server that delays and counts each request.

`python -m benchmarks.serve_storage <port of the S3 server> <seconds>` prints its own port and serves until it is stopped. It runs
in its own process, so that its CPU time does not slow the measured clients. Request signatures stay valid, because the proxy
passes the Host header through.
"""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

_COUNTS = b"GET /-/counts "
_MAX_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Traffic:
    """The number of requests to the bucket, and the bytes of its response bodies."""

    requests: int
    size: int

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(self.requests - before.requests, self.size - before.size)


@dataclass(frozen=True)
class FarBucket:
    """The address of the proxy."""

    port: int

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def traffic(self) -> Traffic:
        """The traffic since the start."""
        with closing(http.client.HTTPConnection(self.server, timeout=60)) as connection:
            connection.request("GET", "/-/counts")
            return Traffic(*json.loads(connection.getresponse().read()))


@contextmanager
def far_bucket(s3_port: int, seconds: float) -> Iterator[FarBucket]:
    command = [sys.executable, "-m", "benchmarks.serve_storage", str(s3_port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout
        try:
            yield FarBucket(int(proxy.stdout.readline()))
        finally:
            proxy.terminate()


class _Proxy:
    def __init__(self, s3_port: int, seconds: float) -> None:
        self.s3_port, self.seconds = s3_port, seconds
        self.requests = self.size = 0

    async def serve(self) -> None:
        server = await asyncio.start_server(self.handle_connection, "127.0.0.1", 0, limit=_MAX_HEADER_BYTES, backlog=512)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def handle_connection(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Serve one connection of a client through one connection to the S3 server."""
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # A client that disconnects, even during a response, ends only its own connection.
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                if head.startswith(_COUNTS):
                    body = json.dumps([self.requests, self.size]).encode()
                    answers.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    continue
                self.requests += 1
                await asyncio.sleep(self.seconds)
                far = far or await asyncio.open_connection("127.0.0.1", self.s3_port, limit=_MAX_HEADER_BYTES)
                far[1].write(head)
                await self._answer(far[0], answers, has_body=not head.startswith(b"HEAD "))
        for writer in (answers, far[1] if far else None):
            if writer:
                writer.close()

    async def _answer(self, far: asyncio.StreamReader, answers: asyncio.StreamWriter, *, has_body: bool) -> None:
        head = await far.readuntil(b"\r\n\r\n")
        answers.write(head)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if not has_body or head.split()[1] in (b"204", b"304"):
            left = 0
        elif b"chunked" in fields.get(b"transfer-encoding", b""):
            left = await self._chunks(far, answers)
        else:
            left = int(fields[b"content-length"])
        self.size += left
        while left:
            part = await far.read(min(left, 2**17))
            if not part:
                raise ConnectionResetError("The S3 server closed the connection during a response.")
            left -= len(part)
            answers.write(part)
            await answers.drain()

    async def _chunks(self, far: asyncio.StreamReader, answers: asyncio.StreamWriter) -> int:
        """Forward a body of unknown length (a listing) up to its last chunk; returns 0, the bytes that remain."""
        while True:
            line = await far.readline()
            size = int(line.split(b";")[0], 16)
            answers.write(line + await far.readexactly(size + 2))
            self.size += size
            if size == 0:
                return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_Proxy(int(sys.argv[1]), float(sys.argv[2])).serve())
