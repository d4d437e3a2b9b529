"""HTTP/1.1 as a client reads it (RFC 9112): a response's head, and its body in any split.

Sans-IO: no socket, no clock. Lenient where servers differ and nothing hangs on it (bare LF behind a
header), strict where two readings would part company: framing that is no framing is NotHTTP, and
so is a body that ends too early. Used by connection.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

MAX_HEAD_BYTES = 64 * 1024
# A chunk's size with its extensions, or a trailer.
MAX_LINE_BYTES = 16 * 1024

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")

Fields = list[tuple[bytes, bytes]]


class NotHTTP(Exception):
    """Upstream's bytes are no response, or not a whole one."""


class BodyDecoder(Protocol):
    """Bytes of a body as they are framed -> the body.

    Attributes:
        done: the body is whole.
        rest: what came behind it.
    """

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """What `data` adds to the body; often all of it, sometimes nothing.

        Raises:
            NotHTTP: the framing is broken.
        """

    def end(self) -> None:
        """The connection has ended.

        Raises:
            NotHTTP: too early.
        """


class Head(NamedTuple):
    """A final response's head.

    Attributes:
        keep_alive: the connection can be used again behind the body.
        decoder: for the body.
    """

    status: int
    reason: bytes
    fields: Fields
    keep_alive: bool
    decoder: BodyDecoder


class HeadReader:
    """Bytes in any split -> the head of the final response; interim ones are skipped."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Head | None:
        """The head, once it is whole; what came behind it is in `rest`.

        Raises:
            NotHTTP: it is none.
        """
        self.rest += data
        while (end := _HEAD_END.search(self.rest)) is not None:
            head = _parse(self.rest[: end.start()])
            self.rest = self.rest[end.end() :]
            if head is not None:
                return head
        if len(self.rest) > MAX_HEAD_BYTES:
            raise NotHTTP(f"a head of more than {MAX_HEAD_BYTES} bytes")
        return None


def _parse(text: bytes) -> Head | None:
    first, *lines = text.split(b"\n")
    matched = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if matched is None:
        raise NotHTTP(f"{first[:40]!r} in the place of a status line")
    minor, status = int(matched[1]), int(matched[2])
    fields: Fields = []
    for line in lines:
        field = _FIELD.fullmatch(line.rstrip(b"\r"))
        if field is None:
            raise NotHTTP(f"{line[:40]!r} in the place of a header")
        fields.append((field[1], field[2]))
    if status == 101:
        raise NotHTTP("it switches to a protocol that nobody asked for")
    if status < 200:
        return None
    options = [option.strip().lower() for option in _joined(fields, b"connection").split(b",")]
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    decoder = _decoder(status, fields)
    keep_alive = keep_alive and not isinstance(decoder, UntilClosed)
    return Head(status, matched[3] or b"", fields, keep_alive, decoder)


def _joined(fields: Fields, name: bytes) -> bytes:
    return b",".join(value for each, value in fields if each.lower() == name)


def _decoder(status: int, fields: Fields) -> BodyDecoder:
    """By RFC 9112, section 6.3, for a request that was neither HEAD nor CONNECT."""
    if status in (204, 304):
        return Counted(0)
    if coding := _joined(fields, b"transfer-encoding"):
        if coding.strip().lower() != b"chunked":
            raise NotHTTP(f"Transfer-Encoding {coding[:40]!r}")
        return Chunked()
    lengths = {length.strip() for length in _joined(fields, b"content-length").split(b",")}
    if lengths == {b""}:
        return UntilClosed()
    if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
        raise NotHTTP("more than one Content-Length, or one that is no number")
    return Counted(int(length))


class Chunked:
    """Chunked transfer coding (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        # Of the chunk under way, with the line end behind it; 0 between two chunks.
        self._left = 0
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes:
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if not self._left:
            # Servers write an event in a chunk, and a read brings just that: told by the size that
            # it would have then.
            size, _, chunk = data.partition(b"\r\n")
            length = len(chunk) - 2
            if length > 0 and size == b"%x" % length and chunk[length:] == b"\r\n":
                return chunk[:length]
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        at = 0
        while not self.done and at < len(data):
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            # What follows is of no use but whole: a line end, a size, a trailer.
            line_end = data.find(b"\n", at) + 1
            if not line_end:
                break
            self._take_line(data[at:line_end])
            at = line_end
        self.rest = data[at:]
        if len(self.rest) > MAX_LINE_BYTES and not self.done:
            raise NotHTTP(f"a line of more than {MAX_LINE_BYTES} bytes between chunks")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_line(self, line: bytes) -> None:
        if self._left:
            if line != b"\r\n":
                raise NotHTTP("a chunk that is longer than its size")
            self._left = 0
        elif self._in_trailers:
            self.done = line in (b"\r\n", b"\n")
        else:
            size = _CHUNK_LINE.fullmatch(line)
            if size is None:
                raise NotHTTP(f"{line[:40]!r} in the place of a chunk's size")
            length = int(size[1], 16)
            self._in_trailers = not length
            self._left = length + 2 if length else 0

    def end(self) -> None:
        if not self.done:
            raise NotHTTP("the connection ended before the last chunk")


class Counted:
    """A body with a Content-Length (RFC 9112, section 6.2)."""

    def __init__(self, length: int) -> None:
        self.done = not length
        self.rest = b""
        self._left = length

    def feed(self, data: bytes) -> bytes:
        piece = data if len(data) <= self._left else data[: self._left]
        self._left -= len(piece)
        self.done = not self._left
        self.rest = data[len(piece) :]
        return piece

    def end(self) -> None:
        if not self.done:
            raise NotHTTP(f"the connection ended {self._left} bytes before the body's end")


class UntilClosed:
    """A body that ends with its connection (RFC 9112, section 6.3, number 8)."""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.done = True
