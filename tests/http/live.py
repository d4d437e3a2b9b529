"""A Server on loopback and a client that speaks raw bytes, for the tests of what has a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from llmrelay.config import Config
from llmrelay.errors import RelayError
from llmrelay.http.events import Request
from llmrelay.http.exchange import Exchange, Handler
from llmrelay.http.server import Server
from llmrelay.values import ListenAddress

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, *fields: str) -> bytes:
    return get("/", f"Content-Length: {len(body)}", *fields, method="POST") + body


def render_error(
    request: Request | None, request_id: str, error: RelayError
) -> tuple[int, list[tuple[str, str]], bytes]:
    path = request.path if request else "unread"
    return error.status, [("Content-Type", "text/plain")], f"{path} {error.code}".encode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that nothing announces; the limit is the test's."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def echo(exchange: Exchange) -> None:
    """Answers with the path and the body."""
    body = await exchange.read_body()
    exchange.respond(200, [], exchange.request.path.encode() + b" " + body)


@contextlib.asynccontextmanager
async def serving(handler: Handler = echo, **limits: Any) -> AsyncIterator[Server]:
    """A started server; at the end nothing may be left open."""
    limits.setdefault("listen", (ListenAddress("127.0.0.1", 0),))
    config = Config(**limits)
    server = Server(config, handler, render_error)
    await server.start()
    try:
        yield server
    finally:
        server.abort()
        await server.drain(0)
    assert server.connections == 0


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    trailers: bytes = b""
    interim: list[int] = field(default_factory=list)


class Client:
    """One connection to a server.

    `async with Client(server) as client` connects and closes.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        address = self._server.address
        self.reader, self.writer = await asyncio.open_connection(address.host, address.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def end(self) -> None:
        """Send FIN and go on reading."""
        self.writer.write_eof()

    def close(self) -> None:
        """What the kernel does to a killed client's socket."""
        self.writer.transport.abort()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ask(self, request: bytes) -> Response:
        self.send(request)
        return await self.response("HEAD" if request.startswith(b"HEAD") else "GET")

    async def response(self, method: str = "GET") -> Response:
        """The next response, its framing checked. IncompleteReadError if it was cut."""
        interim = []
        while (response := await self.head()).status < 200:
            interim.append(response.status)
        response.interim = interim
        headers = response.headers
        assert not {"content-length", "transfer-encoding"} <= headers.keys()
        if method == "HEAD" or response.status in (204, 304):
            pass
        elif "content-length" in headers:
            response.body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                response.body += chunk
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                response.trailers += line
        else:
            assert headers["connection"] == "close"
            response.body = await self.reader.read()
        return response

    async def head(self) -> Response:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [field.split(": ", 1) for field in fields]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "a header is there twice"
        return Response(int(status), headers)

    async def chunk(self) -> bytes:
        """The next chunk's data; empty for the last chunk."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        if size == 0:
            return b""
        data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def closed(self) -> bytes:
        """Whatever else comes until the server ends, which it has to do."""
        return await self.reader.read()
