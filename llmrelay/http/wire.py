"""A client's socket as the loop's callbacks see it: what comes, what it takes, that it is lost.

Bytes go to the receiver in the callback that brings them: no stream and no task stands between, as
a task that only waits costs a request more than to read it. Knows no HTTP. Made by server.py, and
by connection.py for what is behind a TLS handshake; incoming.py is the receiver.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast


class Receiver(Protocol):
    """Who gets what a client sends."""

    def data_received(self, data: bytes) -> None:
        """The next bytes."""

    def end_received(self) -> None:
        """There are no more: the client has ended its side, or has gone."""

    def lost(self, error: Exception | None) -> None:
        """The connection is closed, by whomever; by a failure, if there is an `error`."""


class Wire(asyncio.Protocol):
    """One connection, or the TLS in it.

    Attributes:
        transport: its writing side, once there is one.
        receiver: to be set by then.
        lost: done once the transport is closed, by whomever.
    """

    __slots__ = ("_drained", "_paused", "_streams", "lost", "receiver", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.receiver: Receiver | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._streams: tuple[asyncio.StreamWriter, asyncio.BaseProtocol] | None = None

    def take_over(self, writer: asyncio.StreamWriter) -> None:
        """Stands in the place of the streams that asyncio.start_server has made."""
        transport = writer.transport
        # They are kept: the writer's end would close the transport (since Python 3.12, where the
        # protocol does not hold it).
        self._streams = writer, transport.get_protocol()
        transport.set_protocol(self)
        self.connection_made(transport)

    async def drained(self) -> None:
        """Returns when less than the high water mark is unsent, or the connection is lost."""
        if self._paused:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.receiver is not None:
            self.receiver.data_received(data)

    def eof_received(self) -> bool:
        if self.receiver is not None:
            self.receiver.end_received()
        # A client that has ended its side may still read. TLS has no half-close with asyncio.
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].connection_lost(None)  # else they hold each other, until they are collected
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)
