"""The client's bytes on one connection: who reads them, for how long, and how far ahead.

At any time one coroutine waits for bytes: `next_request` between exchanges, a running handler in
`read_body`, `discard_body` and `linger` after it. While nobody waits they are read ahead, so that a
client that goes is noticed, and its watch told. Every wait has a deadline that was set before it
began; no byte resets one.

Knows no response and no application. Held by connection.py, fed by wire.py; turns bytes into events
by http11.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, Protocol

from ..config import Config
from ..errors import RelayError, RequestTimeout
from .bodies import BodyMemory
from .events import NEED_DATA, Data, EndOfMessage, Request
from .http11 import RequestParser
from .wire import Wire

# Read while nobody waits for it, so that a client's going is noticed; more waits in the kernel.
READ_AHEAD_BYTES: Final = 64 * 1024
# Parts of a body that are taken in one turn of the loop: ten thousand chunks of a byte fit in one
# read, and are a tenth of a second's work that would hold up everyone else's answers.
PARTS_PER_TURN: Final = 500
# A body that nobody wanted is read to its end if that is cheaper than a new connection.
DISCARD_BYTES: Final = 64 * 1024
DISCARD_S: Final = 1.0
# How long and how much is read for an error to arrive (RFC 9112, section 9.6).
LINGER_BYTES: Final = 16 * 1024 * 1024
LINGER_S: Final = 2.0


class Watch(Protocol):
    """Who wants to know how a client fares while its handler runs."""

    def blind(self) -> None:
        """Nothing more is read: that the client has gone does not show any more by itself."""

    def lost(self) -> None:
        """It has gone."""


class Incoming:
    """The reading side of one connection: its wire's receiver.

    Attributes:
        watch: told of the client while a handler runs; then `blind` and `gone` say what was before.
        ended: the client has sent its last byte; it may still read.
        gone: the connection is lost.
        now_s: the loop's clock, in seconds.
    """

    def __init__(self, config: Config, memory: BodyMemory) -> None:
        self.watch: Watch | None = None
        self.ended = self.gone = False
        self._config = config
        self._memory = memory
        self._held_bytes = 0  # of that
        self._parser = RequestParser(
            config.max_head_bytes, config.max_headers, config.max_body_bytes
        )
        self._loop = asyncio.get_running_loop()
        self.now_s = self._loop.time
        self._paused = False  # the wire brings nothing: what is here is enough
        self._error: Exception | None = None  # by which the connection was lost
        # Of who waits for bytes: that there are some, or no more, or that it is too late for them.
        self._waiter: asyncio.Future[bool] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._idle = False  # what is waited for is a request's first byte
        self._idle_s = config.keep_alive_s
        self._due_s = 0.0  # when that, or the whole head, has to be there
        self._linger_bytes: int | None = None  # so many more are dropped as they come
        self._body_due_s = 0.0  # when the body has to be there, apart from what its length allows
        self._body_bytes = 0  # that have come
        self._parts = 0  # in which they came
        self._unread: int | None = 0  # of the request's body; None if its length is unsaid
        self._unasked = False  # the client may be waiting for "100 Continue" and send nothing
        self._broken = False

    # --- What the wire calls ----------------------------------------------------------------

    def read_from(self, wire: Wire) -> None:
        """The connection's bytes come over `wire` from now on."""
        self._wire = wire
        wire.receiver = self

    def data_received(self, data: bytes) -> None:
        if self._linger_bytes is None:
            self._parser.feed(data)
        else:
            self._linger_bytes -= len(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)
        elif self._parser.buffered >= READ_AHEAD_BYTES and not self._paused:
            self._paused = True
            self._wire.transport.pause_reading()
            self._tell_blind()

    def end_received(self) -> None:
        if not self.ended:
            self.ended = True
            self._parser.feed_eof()
            self._wake(True)
            self._tell_blind()

    def lost(self, error: Exception | None) -> None:
        self.gone = True
        self._error = error
        if error is None:
            self.end_received()
        if self.watch is not None:
            self.watch.lost()
        else:
            self._wake(True)

    # --- Waiting for bytes ------------------------------------------------------------------

    async def _more(self, due_s: float) -> bool:
        """Wait until some have come, or the last one has; False if that was not before `due_s`.

        Raises:
            OSError: the connection is lost. Beside a watch it is for that one to say.
        """
        if self._error is not None and self.watch is None:
            raise self._error
        self._read_on()
        self._waiter = self._loop.create_future()
        self._limit = self._loop.call_at(due_s, self._wake, False)
        try:
            come = await self._waiter
        finally:
            self._limit.cancel()
            self._waiter = self._limit = None
        if self._error is not None and self.watch is None:
            raise self._error
        return come

    def _wake(self, come: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(come)

    def _read_on(self) -> None:
        if self._paused and not self._wire.transport.is_closing():
            self._paused = False
            self._wire.transport.resume_reading()

    @property
    def blind(self) -> bool:
        """Whether no more can be read before the exchange is over."""
        return self.ended or (self._paused and self._unread == 0)

    def _tell_blind(self) -> None:
        if self.watch is not None and self.blind:
            self.watch.blind()

    # --- A request's head -------------------------------------------------------------------

    async def next_request(self, begun: Callable[[], None]) -> Request | None:
        """Wait for the next request's head.

        Args:
            begun: called when its first byte has come, unless the whole head came at once.

        Returns:
            None if none came: the client ended, or was idle for keep_alive_s or `wait_at_most`.

        Raises:
            RelayError: the head is refused; RequestTimeout if it was not whole head_timeout_s after
                its first byte.
            OSError: the connection is lost.
        """
        self._idle = True
        self._due_s = self.now_s() + self._idle_s
        try:
            request = await self._read_head(begun)
        except RelayError:
            self._broken = True
            raise
        finally:
            self._idle = False
        if request is not None:
            self._unread = None if request.framing == "chunked" else request.framing or 0
            self._unasked = request.expect_continue
            self._parser.max_body_bytes = self._config.max_body_bytes
            self._body_bytes = self._parts = 0
            self._body_due_s = self.now_s() + self._config.body_timeout_s
            if self._unread == 0:
                self._parser.next_event()  # EndOfMessage: there is nothing to wait for
            if self._paused and self._parser.buffered < READ_AHEAD_BYTES:
                self._read_on()
        return request

    async def _read_head(self, begun: Callable[[], None]) -> Request | None:
        while not isinstance(event := self._parser.next_event(), Request):
            if self.ended:
                return None
            if self._idle and self._parser.begun:
                self._idle = False
                begun()
                self._due_s = self.now_s() + self._config.head_timeout_s
            if not await self._more(self._due_s):
                if self._idle:
                    return None
                raise RequestTimeout("The request's head did not arrive in time.")
        return event

    def wait_at_most(self, idle_s: float) -> None:
        """Let `next_request` wait only so long, from now on, for a request that has not begun."""
        self._idle_s = idle_s
        if self._idle:
            self._due_s = self.now_s() + idle_s
            if self._limit is not None:
                self._limit.cancel()
                self._limit = self._loop.call_at(self._due_s, self._wake, False)

    # --- Its body ---------------------------------------------------------------------------

    async def read_body(
        self, before_wait: Callable[[], None], most_bytes: int = sys.maxsize
    ) -> bytes:
        """Take the body up to `most_bytes` or a part more.

        Its memory is counted until `let_go`.

        Args:
            before_wait: as read_part.

        Raises:
            RelayError: as read_part; or too large with all others (503).
        """
        body = bytearray()  # no list: a chunk of one byte may cost no more than that
        while len(body) < most_bytes and (part := await self.read_part(before_wait)):
            self._memory.take(len(part))
            self._held_bytes += len(part)
            if not body and self._unread == 0:  # most come in one part: no copy is made of it
                self._next_body_event()
                return part
            body += part
        return bytes(body)

    async def read_part(self, before_wait: Callable[[], None]) -> bytes:
        """Take a part of the body; empty at its end.

        Args:
            before_wait: called before each wait for bytes: time to send "100 Continue".

        Raises:
            RelayError: malformed, too large (413), or too slow (408): body_timeout_s, and a second
                more per body_rate_bytes that came.
        """
        while (event := self._next_body_event()) is None:
            before_wait()
            self._unasked = False
            due_s = self._body_due_s + self._body_bytes / self._config.body_rate_bytes
            if not await self._more(due_s):
                self._broken = True
                raise RequestTimeout("The request's body did not arrive in time.")
        if isinstance(event, EndOfMessage):
            return b""
        self._body_bytes += len(event.data)
        self._parts += 1
        if self._parts % PARTS_PER_TURN == 0:
            await asyncio.sleep(0)
        return event.data

    def expect_upload(self, most_bytes: int) -> None:
        """The body may be so long; to be said before it is read."""
        self._parser.max_body_bytes = most_bytes

    def grant_s(self, seconds: float) -> None:
        """The body has so much longer: it was not its client that was waited for."""
        self._body_due_s += seconds

    def let_go(self) -> None:
        """The exchange is over, and its body with it."""
        self._memory.give_back(self._held_bytes)
        self._held_bytes = 0

    @property
    def method(self) -> str | None:
        """Of the request that is being read, as soon as it is known."""
        return self._parser.method

    @property
    def all_taken(self) -> bool:
        """Whether the body is known to have been taken to its end."""
        return self._unread == 0

    @property
    def reusable(self) -> bool:
        """Whether the connection is likely to be good for another request after this one."""
        if self._broken or self._unasked:
            return False
        return self._unread is None or self._unread <= DISCARD_BYTES

    @property
    def all_read(self) -> bool:
        """Whether nothing more is known to come: no rest of a request, and no further one."""
        return self.ended or (self._unread == 0 and not self._broken and not self._parser.buffered)

    def drop_received(self) -> RelayError | None:
        """Drop what has come of a body that nobody read, if it is little.

        Returns:
            What refuses the request, or None: the body is malformed, or over its limit.
        """
        if self._unread == 0:
            return None
        left = DISCARD_BYTES
        # It may be an upload to where those are taken, refused for another reason: that one counts.
        limit = max(self._parser.max_body_bytes, self._config.max_upload_bytes)
        self._parser.max_body_bytes = limit
        try:
            if not self._broken and (self._unread or 0) > self._parser.max_body_bytes:
                self._next_body_event()  # raises: that is known before a byte of it has come
            for _ in range(PARTS_PER_TURN):
                if self._unread == 0 or left <= 0 or not self.reusable:
                    break
                if not isinstance(event := self._next_body_event(), Data):
                    break
                left -= len(event.data)
        except RelayError as error:
            return error
        return None

    async def discard_body(self) -> bool:
        """Read what is left of the body, after the handler has ended, if it is little.

        Returns:
            Whether the next request can be read.

        Raises:
            OSError: the connection is lost.
        """
        if not self.reusable:
            return False
        if self._parser.whole:
            self._parser.next_cycle()
            return True
        left = DISCARD_BYTES
        parts = 0
        due_s = self.now_s() + DISCARD_S
        try:
            while not isinstance(event := self._next_body_event(), EndOfMessage):
                if event is None:
                    if not await self._more(due_s):
                        return False
                    continue
                left -= len(event.data)
                if left < 0:
                    return False
                parts += 1
                if parts % PARTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        except RelayError:
            return False
        self._parser.next_cycle()
        return True

    async def linger(self) -> None:
        """Read and drop until the client ends, so that no RST overtakes what it has yet to read.

        "A server ... first performs a half-close by closing only the write side ... then continues
        to read from the connection until it receives a corresponding close" (RFC 9112, 9.6).

        Raises:
            OSError: the connection is lost.
        """
        self._linger_bytes = LINGER_BYTES
        due_s = self.now_s() + LINGER_S
        while self._linger_bytes > 0 and not self.ended and await self._more(due_s):
            pass

    def _next_body_event(self) -> Data | EndOfMessage | None:
        """The body's next event; None if bytes are needed."""
        try:
            event = self._parser.next_event()
        except RelayError:
            self._broken = True
            raise
        if event is NEED_DATA:
            return None
        if isinstance(event, Data):
            if self._unread is not None:
                self._unread -= len(event.data)
        else:
            assert isinstance(event, EndOfMessage), "a request inside a request"
            self._unread = 0
            self._unasked = False
        if self._paused and self._parser.buffered < READ_AHEAD_BYTES:
            self._read_on()
        elif self._paused:
            self._tell_blind()
        return event
