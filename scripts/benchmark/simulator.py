"""The upstream simulator: a process that speaks chat completions at a given pace.

The prompt says how many deltas, how far apart (records.Plan). An event is made once per call but
for its number and time, so that a delta costs a format and a write. Paced deltas leave on ticks of
a millisecond, which is as fine as libuv's timers are: of 100 calls with a delta per 10 ms, ten
speak in every tick. A call that its reader holds up is not caught up on later. One whose plan says
so falls silent midway, and all such calls go on when a line comes from stdin.

Prints its port, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import defaultdict
from typing import cast

import uvloop

from .records import RECORD_FORMAT, Plan

BACKLOG = 16384

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_NO_PLAN = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"benchmark","choices":[{"index":0,"delta":%b,"logprobs":null,'
    b'"finish_reason":%b}]}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_BEGIN = _HEAD + _chunk(_EVENT % (b'{"role":"assistant","content":""}', b"null"))
_END = _chunk(_EVENT % (b"{}", b'"stop"')) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _delta_format(record_bytes: int) -> bytes:
    """A chunk with one delta in it, in which a record's three numbers are still missing."""
    padding = b"x" * (record_bytes - len(RECORD_FORMAT % (0, 0, 0)))
    chunk = _chunk(_EVENT % (b'{"content":"%b"}' % (b"\0" * record_bytes), b"null"))
    return chunk.replace(b"\0" * record_bytes, RECORD_FORMAT + padding)


class Ticks:
    """Whose turn it is at which millisecond, and who is silent until told to go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.silent: list[Connection] = []
        self._loop = loop
        self._due: defaultdict[int, list[Connection]] = defaultdict(list)
        self._next = 0

    def now(self) -> int:
        return int(self._loop.time() * 1000)

    def add(self, tick: int, connection: Connection) -> None:
        if not self._due:
            self._next = self.now()
            self._loop.call_soon(self._tick)
        self._due[max(tick, self._next)].append(connection)

    def go_on(self) -> None:
        silent, self.silent = self.silent, []
        for connection in silent:
            connection.go_on()

    def _tick(self) -> None:
        now = self.now()
        while self._next <= now:
            turn = self._due.pop(self._next, ())
            self._next += 1
            for connection in turn:
                connection.speak()
        if self._due:
            self._loop.call_later(0.001, self._tick)


class Connection(asyncio.Protocol):
    """One connection, request after request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ticks: Ticks) -> None:
        self._loop = loop
        self._ticks = ticks
        self._request = b""
        self._paused = False
        self._speaking = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._speaking = False

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, found, body = self._request.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if found and len(body) >= int(length or 0):
            self._request = b""
            plan = Plan.find(body)
            if plan is None:
                self._transport.write(_NO_PLAN)
            else:
                self._begin(plan)

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._format = _delta_format(plan.record_bytes)
        self._number = 0
        self._speaking = True
        self._transport.write(_BEGIN)
        self._tick = self._ticks.now() + plan.phase_ms
        self._next()

    def _next(self) -> None:
        if not self._plan.gap_ms:
            self._loop.call_soon(self.speak)
        else:
            self._ticks.add(self._tick, self)

    def speak(self) -> None:
        """Says the next delta, and sees to the one after it."""
        if not self._speaking or self._paused:
            return
        plan = self._plan
        now_ns = time.monotonic_ns()
        self._transport.write(self._format % (plan.call, self._number, now_ns))
        self._number += 1
        if self._number == plan.deltas:
            self._speaking = False
            self._transport.write(_END)
        elif self._number == plan.silent_after:
            self._ticks.silent.append(self)
        else:
            self._tick += plan.gap_ms
            self._next()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.go_on()

    def go_on(self) -> None:
        if self._speaking:
            self._tick = self._ticks.now()
            self._next()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ticks = Ticks(loop)
    server = await loop.create_server(
        lambda: Connection(loop, ticks), "127.0.0.1", 0, backlog=BACKLOG
    )
    over = asyncio.Event()

    def told() -> None:
        if os.read(sys.stdin.fileno(), 4096):
            ticks.go_on()
        else:
            over.set()

    loop.add_reader(sys.stdin.fileno(), told)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await over.wait()


if __name__ == "__main__":
    gc.disable()
    uvloop.run(_serve())
