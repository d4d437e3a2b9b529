"""One request and its answer: what the application gets to work with.

The answer is either whole (`respond`) or streamed (`start`, `write` ..., `finish`). One that breaks
midway is `cut`: then nothing that the client reads looks like its end. `write` is the hot path: no
task, no future, no timer, and one transport write for all deltas of a loop turn.

Knows no socket's life and no other exchange: connection.py makes one per request and reads from it
how the answer ended. Called by the application, in the event loop's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from .events import Request
from .forwarded import Origin
from .incoming import Incoming
from .outgoing import Outbox, reset
from .responses import CONTINUE, Header, encode_head, encode_last_chunk, http_date
from .wire import Wire

# RFC 9110, sections 6.4.1 and 8.6: these never have a body, and 204 no Content-Length either.
_BODYLESS: Final = frozenset({204, 304})
# The server's to say: a response never carries two framings, or one that its bytes do not follow.
_OWN_HEADERS: Final = frozenset({"connection", "content-length", "date", "transfer-encoding"})
# Beyond this, to write what waits costs less than to copy it.
_MUCH_BYTES: Final = 16 * 1024
# Leading zeros of a chunk size that ask a silent client whether it is there.
_MAX_ZEROS: Final = 2


def new_request_id() -> str:
    """A name for a request that cannot be guessed or repeated."""
    return "req_" + os.urandom(12).hex()


class Exchange:
    """A request and the means to answer it.

    Attributes:
        request: its head.
        request_id: random, sent as X-Request-Id.
        trusted: the client may see more than a stranger may, such as the names of hosts.
        common_headers: those that the response has whatever it says.
        client_address: where the request comes from, as far as it can be trusted (forwarded.py).
        token: the name of the token that it was let in with, if any.
        log_fields: more fields for the access log's line; never prompt or answer text.
        started: a response was begun; its status cannot change any more.
        finished: nothing more will be written: the response is whole, or was cut.
        complete: the response is whole, and was handed over while the client was there.
        client_gone: the client went away before that.
        status: the response's, None before it was begun.
        bytes_written: of the payload.
        first_byte_at_s: the loop's time when the response was begun, in seconds.
        keep_alive: whether the connection is for another exchange after this one; the response's
            head tells the client, so it may be set until then.
    """

    def __init__(
        self,
        request: Request,
        request_id: str,
        incoming: Incoming,
        wire: Wire,
        outbox: Outbox,
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.trusted = False
        self.common_headers: list[Header] = []
        self.client_address: Origin = None
        self.token: str | None = None
        self.log_fields: dict[str, object] = {}
        self.started = False
        self.finished = False
        self.complete = False
        self.client_gone = False
        self.status: int | None = None
        self.bytes_written = 0
        self.first_byte_at_s: float | None = None
        self.keep_alive = request.keep_alive
        self._incoming = incoming
        self._wire = wire
        self._transport = wire.transport  # the hot path goes straight to it
        self._outbox = outbox
        # What goes out at the end of this loop turn.
        self._unsent = b""
        self._chunked = False
        self._muted = True  # no body goes out: not started, finished, HEAD, 204, 304
        self._continued = False
        self._zeros = 0
        self._part_read_at_s = 0.0
        self._uploading = False  # what has come of the body is wanted, though the answer begins

    @property
    def asker(self) -> str:
        """Whose request it is, among those who get the same share: a token's, or an address's.

        An IPv6 address stands for its /64, of which a host has as many as it likes (RFC 6177).
        """
        if self.token is not None:
            return f"token {self.token}"
        return _share_of(self.client_address)

    # --- The request's body -----------------------------------------------------------------

    async def read_body(self) -> bytes:
        """The request's whole body, of config.max_body_bytes at most; to be called once.

        Sends "100 Continue" first if the client waits for it (RFC 9110, section 10.1.1).

        Raises:
            RelayError: BadRequest, ContentTooLarge or RequestTimeout, for the client as they are.
        """
        return await self._incoming.read_body(self._ask_for_body)

    async def begin_upload(self, most_bytes: int, held_bytes: int) -> tuple[bytes, bool]:
        """The beginning of a body that may have `most_bytes`; to be called once.

        Returns:
            `held_bytes` of it, or a little more; and whether that is all. Else the rest is for
            read_part().

        Raises:
            RelayError: as read_body.
        """
        self._incoming.expect_upload(most_bytes)
        begun = await self._incoming.read_body(self._ask_for_body, held_bytes)
        self._part_read_at_s = self._incoming.now_s()
        self._uploading = not self._incoming.all_taken
        return begun, not self._uploading

    async def read_part(self) -> bytes:
        """The next part of an upload, as the client sends it; empty at its end.

        The time until the next call is not the client's: it is who reads who takes it.

        Raises:
            RelayError: as read_body.
        """
        self._incoming.grant_s(self._incoming.now_s() - self._part_read_at_s)
        part = await self._incoming.read_part(self._ask_for_body)
        self._part_read_at_s = self._incoming.now_s()
        self._uploading = bool(part)
        return part

    def forget_body(self) -> None:
        """The body is in memory no longer: another's may be. Its end does so by itself."""
        self._incoming.let_go()

    def _ask_for_body(self) -> None:
        if self.request.expect_continue and not self._continued:
            self._continued = True
            self.probe()

    def probe(self) -> bool:
        """Send what a client skips and a closed socket answers with RST.

        Before the response that is "100 Continue" (RFC 9110, section 15.2); within a chunked one a
        leading zero of the next chunk's size, which is any number of digits (RFC 9112, section
        7.1). The zeros stay few, as parsers bound the digits: the first one is answered, and the
        second meets the answer.

        Returns:
            Whether there was anything to send.
        """
        if self._transport.is_closing() or self.request.version < (1, 1):
            return False
        if not self.started:
            self._transport.write(CONTINUE)
            return True
        if self._muted or not self._chunked or self._zeros == _MAX_ZEROS:
            return False
        self._zeros += 1
        self._put(b"0")
        return True

    # --- A whole response -------------------------------------------------------------------

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Send a whole response with its Content-Length; without body for HEAD, 204 and 304.

        Raises:
            RelayError: nobody has read the request's body, and it is malformed or over its limit.
            ValueError: a header that cannot be sent, or that is the server's own to send.
            RuntimeError: a response was begun before.
        """
        framing = [] if status in _BODYLESS else [("Content-Length", str(len(body)))]
        head = self._head(status, headers, framing)
        if self.request.method == "HEAD" or status in _BODYLESS:
            body = b""
        if not self._transport.is_closing():
            self._transport.write(head + body)
            self.bytes_written = len(body)
            self.complete = True
        self.client_gone = not self.complete
        self.finished = True

    # --- A streamed response ----------------------------------------------------------------

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send the head of a response whose length is not known.

        HTTP/1.1 clients get chunked coding; for HTTP/1.0 the connection's end is the body's end.

        Raises:
            RelayError, ValueError, RuntimeError: as respond.
        """
        bodyless = status in _BODYLESS
        chunked = self.request.version >= (1, 1) and not bodyless
        if not chunked and not bodyless:
            self.keep_alive = False
        framing = [("Transfer-Encoding", "chunked")] if chunked else []
        head = self._head(status, headers, framing)
        self._chunked = chunked
        self._muted = bodyless or self.request.method == "HEAD"
        self._put(head)

    def write(self, data: bytes) -> None:
        """Send a piece of the body as one chunk. Does nothing if the client is gone, or for HEAD.

        Never waits: a caller that writes much looks at `congested`.

        Raises:
            RuntimeError: no response was begun, or it was finished.
        """
        length = len(data)
        if self._muted:
            self._check_muted()
        elif length:
            self.bytes_written += length
            # responses.encode_chunk and _put, without the calls.
            piece = b"%x\r\n%b\r\n" % (length, data) if self._chunked else data
            if not self._unsent:
                self._unsent = piece
                self._outbox.add(self)
            elif len(self._unsent) < _MUCH_BYTES:
                self._unsent += piece
            else:
                self.send()
                self._put(piece)

    def _put(self, data: bytes) -> None:
        """Have `data` written at the end of this loop turn, with whatever follows by then."""
        if not self._unsent:
            self._outbox.add(self)
        self._unsent += data

    def send(self) -> None:
        """Write what this loop turn has brought so far; the outbox does, at its end."""
        unsent, self._unsent = self._unsent, b""
        if unsent and not self._transport.is_closing():
            self._transport.write(unsent)

    def _check_muted(self) -> None:
        # After a cut the rest of an answer may still be on its way here; after finish it may not.
        if not self.started or self.complete:
            raise RuntimeError("write() outside of start() and finish()")

    def finish(self, trailers: Sequence[Header] = ()) -> None:
        """End a streamed response. Trailers go to HTTP/1.1 clients only, the rest cannot get them.

        Raises:
            ValueError: a trailer that cannot be sent.
            RuntimeError: no streamed response is going on.
        """
        if not self.started or self.finished:
            raise RuntimeError("finish() without start(), or twice")
        end = encode_last_chunk(trailers)
        if self._chunked and not self._muted:
            self._unsent += end
        self.send()
        self.complete = not self._transport.is_closing()
        self.client_gone = not self.complete
        self.finished = self._muted = True

    def cut(self) -> None:
        """End a response that broke midway, so that the client can tell.

        What was written still arrives; then the connection ends without the last chunk. Where a
        plain end would look like a whole answer (HTTP/1.0), it is reset instead. The connection
        closes as soon as the handler returns. Does nothing after the end.
        """
        if self.finished:
            return
        self.finished = self._muted = True
        self.keep_alive = False
        self.send()
        if self.started and not self._chunked:
            reset(self._transport)

    @property
    def ending(self) -> str:
        """How the exchange ended: complete, client_gone, or cut (by us)."""
        if self.complete:
            return "complete"
        return "client_gone" if self.client_gone else "cut"

    # --- The client's pace ------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the client reads so slowly that over outgoing.HIGH_WATER_BYTES wait for it."""
        transport = self._transport
        if transport.is_closing():
            return False
        waiting_bytes = len(self._unsent) + transport.get_write_buffer_size()
        return waiting_bytes > transport.get_write_buffer_limits()[1]

    async def drained(self) -> None:
        """Wait until the client has read most of what waits for it, or is gone.

        There is no limit in here: how long an answer may stand still is the application's to say.
        """
        self.send()
        await self._wire.drained()

    # --- Heads ------------------------------------------------------------------------------

    def _head(self, status: int, headers: Sequence[Header], framing: list[Header]) -> bytes:
        """A final response's head; from here on the response is begun.

        A request whose body nobody read, and which is seen by now to be malformed or over its
        limit, is refused instead: what it says is not known.
        """
        if self.started or self.finished:
            raise RuntimeError("a response was begun before")
        if status < 200:
            raise ValueError(f"{status} is no final status")
        if own := {low for name, _ in headers if (low := name.lower()) in _OWN_HEADERS}:
            raise ValueError(f"the server itself sends {', '.join(sorted(own))}")
        if not self._uploading and (refusal := self._incoming.drop_received()) is not None:
            raise refusal
        self.keep_alive = self.keep_alive and self._incoming.reusable
        head = encode_head(status, [*headers, *framing, *self._server_headers()])
        self.started = True
        self.status = status
        self.first_byte_at_s = self._incoming.now_s()
        return head

    def _server_headers(self) -> list[Header]:
        headers = [
            *self.common_headers,
            ("Date", http_date(int(time.time()))),
            ("X-Request-Id", self.request_id),
        ]
        if not self.keep_alive:
            headers.append(("Connection", "close"))
        elif self.request.version < (1, 1):
            headers.append(("Connection", "keep-alive"))
        return headers


@lru_cache(maxsize=256)
def _share_of(address: Origin) -> str:
    if isinstance(address, IPv6Address):
        return f"network {IPv6Network((address, 64), strict=False)}"
    return f"address {address}"


Handler = Callable[[Exchange], Awaitable[None]]
