"""The client's bytes on one connection: who reads them, for how long, and how far ahead.

At any time one coroutine reads the socket: `next_request` between exchanges, `read_ahead` beside a
running handler (which takes the body with `read_body`), `discard_body` and `linger` after it. Every
wait has a deadline that was set before it began; no byte resets one.

Knows no response and no application. Held by connection.py; turns bytes into events by http11.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from ..config import Config
from ..errors import RelayError, RequestTimeout
from .bodies import BodyMemory
from .events import NEED_DATA, Data, EndOfMessage, Request
from .http11 import RequestParser

READ_BYTES: Final = 64 * 1024
# Read beside a running handler, so that its client's going is noticed; more waits in the kernel.
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


class Incoming:
    """The reading side of one connection.

    Attributes:
        reader: where the bytes come from; to be set before they are waited for.
        ended: the client has sent its last byte; it may still read.
    """

    def __init__(self, config: Config, memory: BodyMemory) -> None:
        self.reader: asyncio.StreamReader
        self._config = config
        self._memory = memory
        self._held_bytes = 0  # of that
        self._parser = RequestParser(
            config.max_head_bytes, config.max_headers, config.max_body_bytes
        )
        self._loop = asyncio.get_running_loop()
        self._idle_limit: asyncio.Timeout | None = None  # while waiting for a first byte
        self._idle_s = config.keep_alive_s
        # Made for each exchange: 1.5 KiB that an idle connection does without.
        self._received: asyncio.Event
        self._taken: asyncio.Event
        self._body_due_s = 0.0  # when the body has to be there, apart from what its length allows
        self._body_bytes = 0  # that have come
        self._parts = 0  # in which they came
        self._unread: int | None = 0  # of the request's body; None if its length is unsaid
        self._unasked = False  # the client may be waiting for "100 Continue" and send nothing
        self._broken = False
        self.ended = False

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
        try:
            async with asyncio.timeout(self._idle_s) as limit:
                self._idle_limit = limit
                request = await self._read_head(limit, begun)
        except TimeoutError:
            if self._idle_limit is not None:
                return None
            self._broken = True
            raise RequestTimeout("The request's head did not arrive in time.") from None
        except RelayError:
            self._broken = True
            raise
        finally:
            self._idle_limit = None
        if request is not None:
            self._received, self._taken = asyncio.Event(), asyncio.Event()
            self._unread = None if request.framing == "chunked" else request.framing or 0
            self._unasked = request.expect_continue
            self._parser.max_body_bytes = self._config.max_body_bytes
            self._body_bytes = self._parts = 0
            self._body_due_s = self._loop.time() + self._config.body_timeout_s
            if self._unread == 0:
                self._parser.next_event()  # EndOfMessage: there is nothing to wait for
        return request

    async def _read_head(self, limit: asyncio.Timeout, begun: Callable[[], None]) -> Request | None:
        while True:
            event = self._parser.next_event()
            if isinstance(event, Request):
                return event
            if self.ended:
                return None
            if self._idle_limit is not None and self._parser.begun:
                self._idle_limit = None
                begun()
                limit.reschedule(self._loop.time() + self._config.head_timeout_s)
            await self._receive()

    def wait_at_most(self, idle_s: float) -> None:
        """Let `next_request` wait only so long, from now on, for a request that has not begun."""
        self._idle_s = idle_s
        if self._idle_limit is not None and not self._idle_limit.expired():
            self._idle_limit.reschedule(self._loop.time() + idle_s)

    async def read_ahead(self) -> None:
        """Read, within READ_AHEAD_BYTES, until the client ends.

        Returns too when no more can be read before the exchange is over.

        Raises:
            OSError: the connection is lost.
        """
        while not self.ended:
            if self._parser.buffered < READ_AHEAD_BYTES:
                await self._receive()
                self._received.set()
            elif self._unread == 0:
                return
            else:
                self._taken.clear()
                await self._taken.wait()

    async def read_body(
        self, before_wait: Callable[[], None], most_bytes: int = sys.maxsize
    ) -> bytes:
        """Take the body up to `most_bytes` or a part more, while `read_ahead` reads.

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
            body += part
        return bytes(body)

    async def read_part(self, before_wait: Callable[[], None]) -> bytes:
        """Take a part of the body, while `read_ahead` reads; empty at its end.

        Args:
            before_wait: called before each wait for bytes: time to send "100 Continue".

        Raises:
            RelayError: malformed, too large (413), or too slow (408): body_timeout_s, and a second
                more per body_rate_bytes that came.
        """
        while (event := self._next_body_event()) is None:
            before_wait()
            self._unasked = False
            self._received.clear()
            due_s = self._body_due_s + self._body_bytes / self._config.body_rate_bytes
            try:
                async with asyncio.timeout_at(due_s):
                    await self._received.wait()
            except TimeoutError:
                self._broken = True
                raise RequestTimeout("The request's body did not arrive in time.") from None
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
        left = DISCARD_BYTES
        parts = 0
        try:
            async with asyncio.timeout(DISCARD_S):
                while not isinstance(event := self._next_body_event(), EndOfMessage):
                    if event is None:
                        await self._receive()
                        continue
                    left -= len(event.data)
                    if left < 0:
                        return False
                    parts += 1
                    if parts % PARTS_PER_TURN == 0:
                        await asyncio.sleep(0)
        except (TimeoutError, RelayError):
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
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not self.ended:
                    data = await self.reader.read(READ_BYTES)
                    self.ended = not data
                    left -= len(data)
        except TimeoutError:
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
            self._taken.set()
            return event
        assert isinstance(event, EndOfMessage), "a request inside a request"
        self._unread = 0
        self._unasked = False
        return event

    async def _receive(self) -> None:
        data = await self.reader.read(READ_BYTES)
        if data:
            self._parser.feed(data)
        else:
            self._parser.feed_eof()
            self.ended = True
