"""The bytes of one connection, read as HTTP/1.1 requests (RFC 9112): a sans-IO core, server role.

Feed bytes in any portions; take events until NEED_DATA; after EndOfMessage, `next_cycle` goes on to
the next request. The grammar is written as generators that wait for bytes by yielding NEED_DATA, so
that the code reads in the order of the message. Work is linear in the bytes fed, however they are
split, and what is held is bounded by the limits, whatever comes.

Knows no socket, clock, task or logger. Anything wrong is a RelayError, never another exception,
and stays: the end of a message after it cannot be known. Driven by connection.py.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Generator
from typing import Final

from ..errors import (
    BadRequest,
    ContentTooLarge,
    HeadTooLarge,
    NotImplementedHere,
    RelayError,
    UriTooLong,
)
from .events import NEED_DATA, Data, EndOfMessage, Event, NeedData
from .grammar import QUOTED_STRING, TOKEN
from .head import RequestLine, make_request, parse_field_line, parse_head, parse_request_line

# RFC 9112, section 2.2 asks to ignore "at least one" empty line before a request: old clients send
# one after a body. A few do; more are no request.
MAX_LEADING_CRLFS: Final = 4
# A chunk's size takes 16 digits at most. Extensions have no known use, so a short line does, and
# all of them together may not make a small body an endless one (CVE-2023-39326's class).
MAX_CHUNK_LINE_BYTES: Final = 256
MAX_EXTENSION_BYTES: Final = 16 * 1024

# A part of a body at most, so that a long one lets others have their turn.
PART_BYTES: Final = 64 * 1024

# RFC 9112, section 7.1: no sign, prefix or blank; 16 digits fit 64 bits. Extensions are checked
# by their grammar (section 7.1.1) and then dropped.
_EXTENSION: Final = rf"[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED_STRING}))?"
_CHUNK_LINE: Final = re.compile(rf"([0-9A-Fa-f]{{1,16}})((?:{_EXTENSION})*)".encode())
_TOKEN_START: Final = re.compile(TOKEN[:-1].encode())
_END_OF_HEAD: Final = b"\r\n\r\n"
_HEAD: Final = b"HEAD "  # as a request line begins with it

Parsing = Generator[Event | NeedData, None, None]
Head = tuple[RequestLine, list[tuple[str, str]]]


class RequestParser:
    """The requests on one connection.

    Args:
        max_head_bytes: request line and header lines together, line ends included; the trailer
            section as much again.
        max_headers: header lines in a head, and in a trailer section.

    Attributes:
        max_body_bytes: a body without its chunked coding; of the request that is being read, so
            it may be another one once that one's head is known.
        method: of the request that is being read, once its line is read; HEAD as soon as it has
            come, as a refusal of the rest depends on it.
        whole: EndOfMessage was said of that one.
    """

    def __init__(self, max_head_bytes: int, max_headers: int, max_body_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self.max_body_bytes = max_body_bytes
        self._buffer = bytearray()
        self._ended = False
        self.whole = False
        self._error: RelayError | None = None
        self.method: str | None = None
        self._parsing = self._messages()

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not yet said in an event."""
        return len(self._buffer)

    @property
    def begun(self) -> bool:
        """Whether a byte of a request has come, empty lines before it apart."""
        return self.method is not None or not self._no_line_yet

    @property
    def _no_line_yet(self) -> bool:
        """Where a line begins: nothing has come, or what may become an empty line."""
        return not self._buffer or self._buffer == b"\r"

    def feed(self, data: bytes) -> None:
        """Take bytes that came from the client."""
        assert not self._ended, "bytes after the end"
        if self._error is None:  # after an error nothing is read again; hold nothing
            self._buffer += data

    def feed_eof(self) -> None:
        """Take note that no more bytes will come."""
        self._ended = True

    def next_event(self) -> Event | NeedData:
        """The next event, or NEED_DATA; EndOfMessage again and again until `next_cycle`.

        Once the client's bytes have ended, NEED_DATA means that they ended between two requests.

        Raises:
            RelayError: the request is refused; every further call raises the same. A body over its
                limit is refused after its Request was returned, all else in the head before it.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            return next(self._parsing)
        except RelayError as error:
            # Not the one that is raised: its traceback holds whoever reads here, who holds this.
            self._error = copy.copy(error)
            self._buffer.clear()
            raise

    def next_cycle(self) -> None:
        """Go on to the next request, after EndOfMessage."""
        assert self.whole, "the request before is not whole"
        self.whole = False
        self.method = None

    def _messages(self) -> Parsing:
        """HTTP-message after HTTP-message (RFC 9112, section 2.1)."""
        while True:
            while self._no_line_yet:
                yield NEED_DATA
            request_line, fields = self._whole_head() or (yield from self._head())
            self.method = request_line.method
            request = make_request(request_line, fields)
            yield request
            if request.framing == "chunked":
                yield from self._chunked_body()
            elif request.framing is not None:
                self._check_length(request.framing, self.max_body_bytes)
                yield from self._body(request.framing)
            self.whole = True
            del request_line, fields, request  # an idle connection does without them
            while self.whole:  # until next_cycle
                yield EndOfMessage()

    def _whole_head(self) -> Head | None:
        """A head that has come as a whole and has nothing wrong in its lines; else None."""
        end = self._buffer.find(_END_OF_HEAD, 0, self._max_head_bytes)
        if end < 0:
            return None
        head = parse_head(bytes(self._buffer[:end]))
        if head is None or len(head[1]) > self._max_headers:
            return None
        del self._buffer[: end + len(_END_OF_HEAD)]
        return head

    def _head(self) -> Generator[NeedData, None, Head]:
        """Line by line, as they come."""
        line = yield from self._request_line()
        budget = self._max_head_bytes - len(line) - 2
        request_line = parse_request_line(line)
        self.method = request_line.method
        return request_line, (yield from self._fields(budget))

    def _request_line(self) -> Generator[NeedData, None, bytes]:
        """The first line that is not empty."""
        for _ in range(MAX_LEADING_CRLFS + 1):
            while self._no_line_yet:
                yield NEED_DATA
            # Bytes of another protocol often have no line end: tell at once, not at the limit.
            if self._buffer[0] not in b"\r\n" and not _TOKEN_START.match(self._buffer):
                raise BadRequest("This is no HTTP request (is it TLS, or another protocol?).")
            while (start := bytes(self._buffer[: len(_HEAD)])) != _HEAD and _HEAD.startswith(start):
                yield self._wait()
            if start == _HEAD:
                self.method = "HEAD"
            try:
                line = yield from self._line(self._max_head_bytes, UriTooLong)
            except UriTooLong:
                # "A server that receives a method longer than any that it implements SHOULD
                # respond with a 501" (section 3).
                if b" " not in self._buffer[: self._max_head_bytes]:
                    raise NotImplementedHere("No method has so long a name.") from None
                raise
            if line:
                return line
        raise BadRequest("There are too many empty lines before the request.")

    def _fields(self, budget: int) -> Generator[NeedData, None, list[tuple[str, str]]]:
        """Field lines up to the empty one, in `budget` bytes."""
        fields: list[tuple[str, str]] = []
        while line := (yield from self._line(budget, HeadTooLarge)):
            budget -= len(line) + 2
            if len(fields) == self._max_headers:
                raise HeadTooLarge(f"There are more than {self._max_headers} header lines.")
            fields.append(parse_field_line(line))
        return fields

    def _chunked_body(self) -> Parsing:
        """chunked-body (RFC 9112, section 7.1)."""
        left = self.max_body_bytes
        extensions_left = MAX_EXTENSION_BYTES
        while True:
            line = yield from self._line(MAX_CHUNK_LINE_BYTES, BadRequest)
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BadRequest("A chunk's size line is malformed.")
            extensions_left -= len(match[2])
            if extensions_left < 0:
                raise BadRequest("There are too many chunk extensions.")
            size = int(match[1], 16)
            if size == 0:
                break
            self._check_length(size, left)
            left -= size
            yield from self._body(size)
            yield from self._end_of_chunk()
        # "A recipient MAY ... discard the received trailer fields": nobody here needs one.
        yield from self._fields(self._max_head_bytes)

    def _check_length(self, length: int, limit: int) -> None:
        if length > limit:
            raise ContentTooLarge(f"The body is over {self.max_body_bytes} bytes.")

    def _body(self, left: int) -> Parsing:
        """`left` bytes, as they come."""
        while left:
            while not self._buffer:
                yield self._wait()
            data = bytes(self._buffer[: min(left, PART_BYTES)])
            del self._buffer[: len(data)]
            left -= len(data)
            yield Data(data)

    def _end_of_chunk(self) -> Generator[NeedData, None, None]:
        """The CRLF behind a chunk's data."""
        while (end := bytes(self._buffer[:2])) != b"\r\n":
            if not b"\r\n".startswith(end):
                raise BadRequest("A chunk is longer than its size.")
            yield self._wait()
        del self._buffer[:2]

    def _line(self, limit: int, too_long: type[RelayError]) -> Generator[NeedData, None, bytes]:
        """A line without its CRLF; `limit` counts the CRLF."""
        searched = 0  # never look at a byte twice: clients may send one at a time
        while True:
            end = self._buffer.find(b"\n", searched)
            seen = end if end >= 0 else len(self._buffer)
            # A CR belongs before the LF alone. One that does not is told when it comes: its LF may
            # never, and what is refused first may not depend on how the bytes are split.
            inside = max(0, min(seen, limit + 1) - 1)
            if self._buffer.find(b"\r", max(0, searched - 1), inside) >= 0:
                raise BadRequest("A line has a CR without LF.")
            if (end + 1 or len(self._buffer)) > limit:
                raise too_long("A line of the request is over its limit.")
            if end >= 0:
                break
            searched = len(self._buffer)
            yield self._wait()
        # RFC 9112, section 2.2 allows a recipient to take a bare LF. We do not: a peer in front of
        # us that does not would see another message.
        if self._buffer[end - 1 : end] != b"\r":
            raise BadRequest("A line ends in LF without CR.")
        line = bytes(self._buffer[: end - 1])
        del self._buffer[: end + 1]
        return line

    def _wait(self) -> NeedData:
        """NEED_DATA inside a message, where the end of the bytes is an error (section 8)."""
        if self._ended:
            raise BadRequest("The connection ended before the request was whole.")
        return NEED_DATA
