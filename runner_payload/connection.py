"""A connection to upstream: one request and its answer at a time.

An answer's body is read piece by piece (`async for`), or poured into a sink, in the very callback
that reads the socket: no task, no future and no timer per delta. That, and one pass over the bytes,
is why it is ours: through an HTTP client of the SDK's choice the same delta costs three times as
much (docs/performance.md).

Knows http1.py's bytes and sockets, but no pool, no SDK and no frames. Failures are httpx2's, which
the SDK understands. In the flow: transport -> here -> upstream's socket, and back to relaying or
chatting.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import cast

import httpx2

from .http1 import LAST_CHUNK, BodyDecoder, Head, HeadReader, NotHTTP
from .reply import Sink

# Of a body that nobody has asked for yet: then upstream waits.
HELD_BYTES = 64 * 1024
_NO_ANSWER = "the connection ended without an answer"


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        on_idle: called when an answer has ended and another request may follow.
        on_lost: called when it has ended.

    Attributes:
        idle_since_s: the loop's time when it became idle.
    """

    __slots__ = (
        "_body",
        "_head",
        "_keep_alive",
        "_loop",
        "_on_idle",
        "_on_lost",
        "_reader",
        "_said",
        "_transport",
        "_upload",
        "_writable",
        "idle_since_s",
    )

    def __init__(
        self,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.idle_since_s = 0.0
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._said: select.poll | None = None
        # Made when upstream first holds up a request.
        self._writable: asyncio.Event | None = None
        # Of the answer under way: its head while it comes, then its body.
        self._reader: HeadReader | None = None
        self._head: asyncio.Future[tuple[Head, Body]] | None = None
        self._body: Body | None = None
        self._keep_alive = False
        self._upload: asyncio.Task[None] | None = None

    @property
    def closing(self) -> bool:
        """It has ended, or is about to."""
        return self._transport.is_closing()

    def quiet(self) -> bool:
        """Whether another request may be sent: upstream has said nothing since, not even its end.

        The loop would tell, too, but only in its next turn.
        """
        if self.closing:
            return False
        if self._said is None:
            self._said = select.poll()
            self._said.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._said.poll(0)

    async def ask(
        self, head: bytes, content: bytes | AsyncIterable[bytes], *, chunked: bool
    ) -> tuple[Head, Body]:
        """Sends a request; returns when the head of its answer has come, though that be early.

        Args:
            chunked: `content` comes bit by bit, and its length is not known.

        Raises:
            httpx2.TransportError: no answer came.
        """
        if self.closing:
            # As good as lost before anybody waited: connection_lost() would find nobody to tell.
            raise httpx2.RemoteProtocolError(_NO_ANSWER)
        self._reader = HeadReader()
        self._head = self._loop.create_future()
        if isinstance(content, bytes):
            self._transport.write(head + content)
        else:
            self._transport.write(head)
            self._upload = self._loop.create_task(self._send(content, chunked=chunked))
        try:
            return await self._head
        except BaseException:
            await self.abort()
            raise

    async def _send(self, content: AsyncIterable[bytes], *, chunked: bool) -> None:
        try:
            async for piece in content:
                if self._transport.is_closing():
                    return
                if piece:
                    size = b"%x\r\n" % len(piece) if chunked else b""
                    self._transport.write(b"%b%b\r\n" % (size, piece) if chunked else piece)
                    if self._writable is not None:
                        await self._writable.wait()
            if chunked:
                self._transport.write(LAST_CHUNK)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer's reader gets it
            self._fail(error)

    async def abort(self) -> None:
        """Ends the connection now, whatever is under way."""
        self._transport.abort()
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.wait([self._upload])

    def close(self) -> None:
        """Ends a connection that nobody waits for."""
        self._transport.abort()

    def pause(self) -> None:
        """Reads no more until resume()."""
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    # --- What asyncio calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        body = self._body
        try:
            if body is None:
                self._read_head(data)
            else:
                body.receive(data)
        except NotHTTP as error:
            self._fail(httpx2.RemoteProtocolError(str(error)))

    def _read_head(self, data: bytes) -> None:
        reader = self._reader
        if reader is None or self._head is None:
            self._transport.abort()  # nobody has asked
            return
        head = reader.feed(data)
        if head is not None:
            self._reader = None
            body = self._body = Body(self, head.body(), self._answered)
            self._keep_alive = head.keep_alive
            if not self._head.done():
                self._head.set_result((head, body))
            body.receive(reader.rest)

    def _answered(self, clean: bool) -> None:
        """The answer is whole; not `clean` if something came behind it."""
        self._reader = self._head = self._body = None
        sent = self._upload is None or self._upload.done()
        # What is left of a request that was answered early, upstream may never read.
        sent = sent and not self._transport.get_write_buffer_size()
        if self._keep_alive and clean and sent and not self.closing:
            self._upload = None
            self.resume()
            self.idle_since_s = self._loop.time()
            self._on_idle(self)
        else:
            self._transport.abort()

    def eof_received(self) -> None:
        # Nothing more can come, and close() would wait until upstream has read what is unsent.
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)
        self.resume_writing()
        if self._upload is not None:
            # It may be waiting for its source, which nobody feeds once the call is over.
            self._upload.cancel()
        if self._body is None:
            how = str(exc) if exc else _NO_ANSWER
            self._fail(httpx2.ReadError(how) if exc else httpx2.RemoteProtocolError(how))
        else:
            self._body.fail(httpx2.ReadError(str(exc)) if exc else self._body.cut_short())

    def _fail(self, error: Exception) -> None:
        """The answer breaks off, or never comes."""
        if self._body is not None:
            self._body.fail(error)
        elif self._head is not None and not self._head.done():
            self._head.set_exception(error)
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable = self._writable or asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()


class Body(httpx2.AsyncByteStream):
    """An answer's body; what its reader has no room for stays in the socket.

    Args:
        on_over: called when it is whole, and whether anything came behind it.
    """

    def __init__(
        self, connection: Connection, decoder: BodyDecoder, on_over: Callable[[bool], None]
    ) -> None:
        self._connection = connection
        self._decoder = decoder
        self._on_over = on_over
        self._over = False
        self._error: Exception | None = None
        self._held = bytearray()
        # Of the sink that it is poured into.
        self._take: Callable[[bytes], bool] | None = None
        self._wake: asyncio.Future[None] | None = None

    # --- For whoever reads it -------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing is still to come from upstream."""
        return self._over

    async def pour(self, sink: Sink) -> None:
        """Gives `sink` all of it, or as much as it wants, as each read brings it.

        Raises:
            httpx2.TransportError: it broke off.
        """
        while not (sink.done or self._ended()):
            if self._held:
                if not sink.take(self._take_held()):
                    await sink.ready()
                continue
            # From here on receive() gives it each piece in the callback that has read it.
            self._take = sink.take
            try:
                await self._more()
            finally:
                self._take = None
            await sink.ready()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._ended():
            if self._held:
                yield self._take_held()
            else:
                await self._more()

    def _ended(self) -> bool:
        """Whether all has been read.

        Raises:
            Exception: how it broke off.
        """
        if self._held or not self._over:
            return False
        if self._error is not None:
            raise self._error
        return True

    def _take_held(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held

    async def aclose(self) -> None:
        """The rest is not wanted: the connection ends, unless there is none."""
        if not self._over:
            self._over = True
            await self._connection.abort()

    async def _more(self) -> None:
        """Returns when there is something to do.

        Raises:
            Exception: what the sink raised.
        """
        self._wake = asyncio.get_running_loop().create_future()
        self._connection.resume()
        try:
            await self._wake
        finally:
            self._wake = None

    def _wake_up(self, error: Exception | None = None) -> None:
        if self._wake is None or self._wake.done():
            return
        if error is None:
            self._wake.set_result(None)
        else:
            self._wake.set_exception(error)

    # --- For the connection ---------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """The hot path: what a read has brought.

        Raises:
            NotHTTP: it is no body.
        """
        decoder, take = self._decoder, self._take
        piece = decoder.feed(data)
        if piece:
            if take is None:
                self._hold(piece)
            else:
                try:
                    if not take(piece):
                        self._stop()
                except Exception as error:  # noqa: BLE001 - it is for whoever pours
                    self._stop(error)
        if decoder.done and not self._over:
            self._over = True
            self._on_over(not decoder.rest)
            self._wake_up()

    def _stop(self, error: Exception | None = None) -> None:
        """The sink takes no more for now: its coroutine goes on."""
        # Another read may come before that one has its turn.
        self._take = None
        if not self._decoder.done:
            self._connection.pause()
        self._wake_up(error)

    def _hold(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) > HELD_BYTES:
            self._connection.pause()
        self._wake_up()

    def cut_short(self) -> Exception | None:
        """What it lacks now that the connection has ended; None if that is how it ends."""
        try:
            self._decoder.end()
        except NotHTTP as error:
            return httpx2.RemoteProtocolError(str(error))
        return None

    def fail(self, error: Exception | None) -> None:
        """It breaks off with `error`, or has just ended with its connection."""
        if not self._over:
            self._over = True
            self._error = error
            self._wake_up()
