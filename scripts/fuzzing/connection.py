"""Target: a live connection to a real Server on loopback and uvloop, with very short limits.

The first byte of an input says how the rest is sent and which handler answers, the second how the
client ends. What comes back is held against what the parser says of the same bytes: one answer for
each request, in order, then the refusal, then FIN. A crash is also: a 500, a reset, a connection
that outlives its limits, a line in the error log, a task or a descriptor that is left, or a health
check on another connection that gets no answer. Run by __main__ in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
import sys
from typing import Any, Final

import atheris
import uvloop

with atheris.instrument_imports(include=["llmrelay.http"]):
    from llmrelay.config import Config
    from llmrelay.errors import NotFound, RelayError
    from llmrelay.http.events import Request
    from llmrelay.http.exchange import Exchange
    from llmrelay.http.server import Server
    from llmrelay.values import ListenAddress
    from tests.http.corpus import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS
    from tests.http.parsing import parse

from .seeds import STAYS

# Of the server, in seconds: for a head, a body, an idle connection.
LIMIT_S: Final = 0.05
# No connection outlives this: all three limits, and what the machine needs beside them.
HANG_S: Final = 5.0
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# Of the second byte, beside STAYS; all others: the client ends its bytes and reads on.
LEAVES: Final = 1
RESETS: Final = 3
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # a close is a reset
# Inputs between two health checks, each of which also looks for what was left.
BATCH: Final = 50

# No body here has such a line, and each ends in a line end.
_STATUS: Final = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
_HANDLERS: Final = ["echo", "streamed", "refusing", "breaking"]


class Hang(AssertionError):
    """Something took longer than any limit allows; __main__ knows it by its name."""


class _Complaints(logging.Handler):
    """Collects what no client may cause: lines of the error log, asyncio's complaints."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))

    def from_loop(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.said.append(repr(context))


class Target:
    """The server, and the loop that it lives in from input to input."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._complaints = _Complaints()
        logging.getLogger().addHandler(self._complaints)
        self._loop.set_exception_handler(self._complaints.from_loop)
        self._handler = "echo"
        self._inputs = 0
        self._descriptors = 0  # not known before all is open that stays so
        self._loop.run_until_complete(self._start())

    def check(self, data: bytes) -> None:
        """Raises an AssertionError that says what was wrong."""
        try:
            self._loop.run_until_complete(self._check(data))
        except TimeoutError:
            raise Hang(f"nothing ended it in {HANG_S} s") from None

    async def _start(self) -> None:
        config = Config(
            # Where others may connect, any Host is taken.
            listen=(ListenAddress("0.0.0.0", 0),),
            max_head_bytes=MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            max_body_bytes=MAX_BODY_BYTES,
            head_timeout_s=LIMIT_S,
            body_timeout_s=LIMIT_S,
            keep_alive_s=LIMIT_S,
        )
        self._server = Server(config, self._answer, _render_error)
        await self._server.start()
        self._port = self._server.address.port
        await self._look_around()  # the loop opens descriptors of its own when first used
        self._descriptors = _open_descriptors()

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.request.path == "/health":
            exchange.respond(200, [], b"ok\n")
            return
        body = await exchange.read_body()
        if self._handler == "refusing":
            raise NotFound("There is nothing here.")
        if self._handler == "echo":
            exchange.respond(200, [], b"%d\n" % len(body))
            return
        exchange.start(200, [("Content-Type", "text/plain")])
        for piece in (b"one", b"two"):
            exchange.write(piece)
            await asyncio.sleep(0)
        if self._handler == "breaking":
            raise NotFound("It went away midway.")
        exchange.finish([("X-End", "yes")])

    async def _check(self, data: bytes) -> None:
        how, ending, raw = data[0:1] or b"\0", data[1:2] or b"\0", data[2:]
        self._handler = _HANDLERS[how[0] // 64]
        begun_s = self._loop.time()
        async with asyncio.timeout(HANG_S):
            received, reset = await self._converse(raw, how[0] % 64, ending[0] % 16)
        # On a machine that was busy elsewhere the limits may have come first, and rightly.
        if ending[0] % 16 == STAYS or self._loop.time() - begun_s < LIMIT_S / 2:
            self._judge(raw, received, reset, ending[0] % 16)
        self._inputs += 1
        if self._inputs % BATCH == 0:
            async with asyncio.timeout(HANG_S):
                await self._look_around()
            assert self._complaints.said == [], self._complaints.said

    async def _converse(self, raw: bytes, parts: int, ending: int) -> tuple[bytes, bool]:
        """Send in up to four parts, end, read all. What came, and whether a reset ended it."""
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(client, ("127.0.0.1", self._port))
            size = max(1, len(raw) // (1 + parts % 4) + parts)
            received = bytearray()
            try:
                for at in range(0, len(raw), size):
                    await self._loop.sock_sendall(client, raw[at : at + size])
                    await asyncio.sleep(0)
                if ending == LEAVES:
                    return b"", False
                if ending == RESETS:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    return b"", False
                if ending != STAYS:  # else the limit ends it
                    client.shutdown(socket.SHUT_WR)
                while data := await self._loop.sock_recv(client, 65536):
                    received += data
            except (ConnectionResetError, BrokenPipeError):
                return bytes(received), True
            return bytes(received), False

    def _judge(self, raw: bytes, received: bytes, reset: bool, ending: int) -> None:
        """Hold the answers' statuses against what the parser says of the bytes."""
        statuses = [int(status) for status in _STATUS.findall(received)]
        final = [status for status in statuses if status != 100]
        assert 500 not in final, received
        if ending in (LEAVES, RESETS):  # it did not look
            return
        assert not reset or self._handler == "breaking", received
        if self._handler != "echo":
            return
        parsed = parse([raw], end=True)
        expected = []
        for message in parsed.messages:
            if message.whole:
                expected.append({200, 403, 421})  # an Origin; https where there is no TLS
                if not message.request.keep_alive:
                    break
        else:
            if parsed.error is not None:
                # Who does not end is answered at the limit; a handler may refuse before the body.
                expected.append(
                    {parsed.error.status, 403, 421, *([408] if ending == STAYS else [])}
                )
        assert len(final) == len(expected), (received, expected)
        for status, allowed in zip(final, expected, strict=True):
            assert status in allowed, (received, expected)

    async def _look_around(self) -> None:
        """The server answers somebody else, and nothing of those before is left."""
        with socket.socket() as client:
            client.setblocking(False)
            await self._loop.sock_connect(client, ("127.0.0.1", self._port))
            await self._loop.sock_sendall(client, HEALTH)
            answer = b""
            while data := await self._loop.sock_recv(client, 65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 200 "), answer
        while self._server.connections or len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        while self._descriptors and _open_descriptors() > self._descriptors:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _render_error(
    _: Request | None, __: str, error: RelayError
) -> tuple[int, list[tuple[str, str]], bytes]:
    return error.status, [("Content-Type", "text/plain")], f"{error.code}\n".encode()


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    target = Target()
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()
