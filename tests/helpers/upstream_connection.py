"""One connection of the scripted upstream: requests in, one script's answer out for each.

The script says what happens, `upstream_script.py` what it looks like in bytes; here are the socket,
the clock and the record of what became of each request.

It may not know which script answers what, nor llmrelay: it asks the `ScriptedUpstream` it belongs
to. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tests.helpers.upstream_script import (
    CleanEnd,
    Cut,
    Delta,
    Encoder,
    Event,
    Garbage,
    Headers,
    NoAnswer,
    Pause,
    ReadBody,
    Silence,
    Status,
    Step,
    Together,
    WaitFor,
    Wire,
    head,
    whole,
)

if TYPE_CHECKING:
    from tests.helpers.upstream import ScriptedUpstream

# More of an upload than that waits in the kernel, and there in its sender's way.
MAX_BUFFERED_BYTES = 64 * 1024

# --- What was asked -----------------------------------------------------------------------------


@dataclass(eq=False)
class Recorded:
    """One request and its fate. Times are `time.monotonic()`, to compare across threads."""

    number: int
    """Counts all requests, from 1."""
    connection: int
    """Counts connections, from 1: equal numbers mean that keep-alive was used."""
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    """Of an upload, what was read of it so far."""
    opened_at: float
    """When the request was read to its end; of an upload, its head."""
    closed_at: float | None = None
    """When its answer was complete, or else when its connection was lost or cut."""
    completed: bool = False
    """Every step of the script was carried out (a `Cut` too)."""
    sent_bytes: int = 0
    """What was handed to the transport, chunked coding included; stands still when unread."""
    delta_sent_at: list[float] = field(default_factory=list)
    """For each Delta when it was written."""
    client_closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed the connection before the answer was complete."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with `closed_at`, whoever ended it."""
    body_read: asyncio.Event = field(default_factory=asyncio.Event)
    """A `ReadBody` has what it asks for."""
    parts: AsyncIterator[bytes] | None = None
    """What is left of an upload's body, for `ReadBody`."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# --- One connection -----------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client's connection: a Protocol, so that its loss is seen at once, even in a pause."""

    def __init__(self, upstream: ScriptedUpstream, number: int) -> None:
        self._upstream = upstream
        self._number = number
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._current: Recorded | None = None
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]

    # The loop's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from neither
        self._upstream.join(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(self._done)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self._transport.pause_reading()
        self._more.set()

    def eof_received(self) -> bool:
        # A client of an API that ends its side has left; no half-closed request is answered here.
        self._client_left()
        self._transport.abort()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self._client_left()
        self._lost.set()
        self._task.cancel()
        if self._task.done():
            self._upstream.leave(self)

    def _client_left(self) -> None:
        recorded, self._current = self._current, None
        if recorded is not None:
            recorded.client_closed.set()
            _finish(recorded)

    def _done(self, task: asyncio.Task[None]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._upstream.failures.append(failure)
            self._end_from_here()
        if self._lost.is_set():
            self._upstream.leave(self)

    async def stop(self) -> None:
        self._end_from_here()
        await self._lost.wait()
        await asyncio.wait([self._task])

    def _end_from_here(self) -> None:
        # Before the abort: a request that ends from this side does not count as client_closed.
        recorded, self._current = self._current, None
        if recorded is not None:
            _finish(recorded)
        self._transport.abort()

    # Requests.

    async def _serve(self) -> None:
        while not self._transport.is_closing():
            recorded = await self._read_request()
            self._current = recorded
            self._upstream.record(recorded)
            ending = await Answer(recorded, self._upstream, self._write).run()
            self._current = None
            _finish(recorded, completed=True)
            if ending == "reset":
                self._reset()
            elif ending == "close" or recorded.headers.get("connection", "").lower() == "close":
                self._transport.close()
            elif recorded.parts is not None:
                # As servers do, whose answer an RST would overtake (RFC 9112, section 9.6).
                async for _ in recorded.parts:
                    pass
                self._transport.close()

    async def _read_request(self) -> Recorded:
        lines = (await self._take_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _version = lines[0].split(" ")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"not a header: {line!r}")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts = self._body(headers)
        upload = path.partition("?")[0] in self._upstream.uploads
        body = b"" if upload else b"".join([part async for part in parts])
        number = len(self._upstream.requests) + 1
        recorded = Recorded(number, self._number, method, path, headers, body, time.monotonic())
        recorded.parts = parts if upload else None
        return recorded

    async def _body(self, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """A request's body, as it comes."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            async for part in self._take_up_to(int(headers.get("content-length", "0"))):
                yield part
            return
        while size := int((await self._take_until(b"\r\n")).split(b";")[0], 16):
            async for part in self._take_up_to(size):
                yield part
            await self._take_until(b"\r\n")
        while await self._take_until(b"\r\n"):  # trailers
            pass

    async def _take_up_to(self, count: int) -> AsyncIterator[bytes]:
        while count:
            while not self._buffer:
                await self._wait_for_more()
            taken = bytes(self._buffer[:count])
            del self._buffer[: len(taken)]
            count -= len(taken)
            yield taken

    async def _take_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._wait_for_more()
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return taken

    async def _wait_for_more(self) -> None:
        # The end of the connection needs no case: it cancels this task.
        self._more.clear()
        self._transport.resume_reading()
        await self._more.wait()

    # Answers.

    async def _write(self, data: bytes) -> None:
        self._transport.write(data)
        # One turn of the loop for each write: code under test in the same loop sees the events
        # apart, as from a machine of its own, and a long script does not hold everybody up.
        await asyncio.sleep(0)
        await self._writable.wait()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _finish(recorded: Recorded, *, completed: bool = False) -> None:
    if recorded.closed_at is None:
        recorded.closed_at = time.monotonic()
        recorded.completed = completed
        recorded.finished.set()


# --- One answer ---------------------------------------------------------------------------------


class Answer:
    """Carries out one script. `run` says what becomes of the connection: keep, close or reset."""

    def __init__(
        self,
        recorded: Recorded,
        upstream: ScriptedUpstream,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._recorded = recorded
        self._upstream = upstream
        self._write = write
        self._encoder = Encoder(recorded.number, _model(recorded))
        self._head: Headers | None = None

    async def run(self) -> str:
        for step in self._upstream.script_for(self._recorded):
            ending = await self._step(step)
            if ending:
                return ending
        return await self._end()

    async def _step(self, step: Step) -> str | None:
        match step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case WaitFor(gate):
                await (self._upstream.gate(gate) if isinstance(gate, str) else gate).wait()
            case Headers():
                await self._send(self._begin(step))
            case Wire(data):
                await self._send(data)
            case ReadBody(least_bytes):
                await self._read(least_bytes)
            case Silence():
                await asyncio.Event().wait()  # until the connection's loss cancels it
            case NoAnswer():
                self._must_be_first(step)
                await asyncio.Event().wait()
            case Cut(reset):
                return "reset" if reset else "close"
            case CleanEnd():
                return await self._end()
            case Status() | Garbage():
                self._must_be_first(step)
                await self._send(step.data if isinstance(step, Garbage) else whole(step))
                return "close" if isinstance(step, Garbage) else "keep"
            case _:
                await self._event(step)
        return None

    async def _read(self, least_bytes: int | None) -> None:
        recorded = self._recorded
        if recorded.parts is None:
            raise ValueError("this body was read before")
        async for part in recorded.parts:
            recorded.body += part
            if least_bytes is not None and len(recorded.body) >= least_bytes:
                break
        else:
            recorded.parts = None
        recorded.body_read.set()

    async def _event(self, event: Event) -> None:
        head = b"" if self._head else self._begin(Headers())
        data = self._encoder.encode(event)
        assert self._head is not None
        if data:  # an empty chunk would be the last one
            data = b"%x\r\n%b\r\n" % (len(data), data) if self._head.chunked else data
        events = event.events if isinstance(event, Together) else (event,)
        now = time.monotonic()
        self._recorded.delta_sent_at += [now for each in events if isinstance(each, Delta)]
        await self._send(head + data)

    async def _end(self) -> str:
        head = b"" if self._head else self._begin(Headers())
        assert self._head is not None
        await self._send(head + (b"0\r\n\r\n" if self._head.chunked else b""))
        return "keep" if self._head.chunked else "close"

    def _begin(self, step: Headers) -> bytes:
        self._must_be_first(step)
        self._head = step
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        if step.chunked:
            fixed["transfer-encoding"] = "chunked"
        else:
            fixed["connection"] = "close"
        return head(step.status, {**fixed, "x-request-id": _request_id(self._recorded)}, step)

    def _must_be_first(self, step: Step) -> None:
        if self._head is not None:
            raise ValueError(f"a script cannot say {step} after the head was sent")

    async def _send(self, data: bytes) -> None:
        self._recorded.sent_bytes += len(data)
        await self._write(data)


def _request_id(recorded: Recorded) -> str:
    return f"req-scripted-{recorded.number}"


def _model(recorded: Recorded) -> str:
    try:
        return str(recorded.json["model"])
    except (ValueError, KeyError, TypeError):
        return "scripted"
