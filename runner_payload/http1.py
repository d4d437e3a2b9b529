"""HTTP/1.1 as a client reads it (RFC 9112): a response's head, and its body in any split.

Sans-IO: no socket, no clock. Lenient where servers differ and nothing hangs on it (bare LF behind a
header), strict where two readings would part company: framing that is no framing is NotHTTP, and
so is a body that ends too early. Used by connection.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

# With the empty line behind it.
MAX_HEAD_BYTES = 64 * 1024
# A chunk's size with its extensions, or a trailer; with its line end.
MAX_LINE_BYTES = 16 * 1024

_BEGIN = b"HTTP/1."
_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?")
# Spaces around the value are stripped elsewhere: a pattern for them would go back and forth in a
# long row of them for hours, and hold up every call meanwhile.
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)\r?$", re.MULTILINE)
# A header's line that goes on in the next one (RFC 9112, section 5.2), as old servers have it.
_FOLD = re.compile(rb"\r?\n[ \t]+")
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
        headers: the fields, by their names in lower case; a name's values as one.
        body: makes a decoder for the body.
    """

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    headers: Mapping[str, str]
    body: Callable[[], BodyDecoder]


def _headers(fields: Fields) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1").lower(), _text(value)
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class HeadReader:
    """Bytes in any split -> the head of the final response; interim ones are skipped."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Head | None:
        """The head, once it is whole; what came behind it is in `rest`.

        Raises:
            NotHTTP: it is none.
        """
        self.rest += data
        while (end := _HEAD_END.search(self.rest)) is not None:
            _limit(end.end())
            head = _parse(self.rest[: end.start()])
            self.rest = self.rest[end.end() :]
            if head is not None:
                return head
        _limit(len(self.rest) + 1)
        # Of what speaks another protocol an empty line may never come.
        if not self.rest.startswith(_BEGIN[: len(self.rest)]):
            raise _no_status_line(self.rest)
        return None


def _limit(head_bytes: int) -> None:
    if head_bytes > MAX_HEAD_BYTES:
        raise NotHTTP(f"a head of more than {MAX_HEAD_BYTES} bytes")


def _no_status_line(text: bytes) -> NotHTTP:
    return NotHTTP(f"{text[:40]!r} in the place of a status line")


# A server near by says the same head again and again, but for the second in its Date.
@functools.lru_cache(maxsize=16)
def _parse(text: bytes) -> Head | None:
    first, _, lines = text.partition(b"\n")
    matched = _STATUS_LINE.fullmatch(first.removesuffix(b"\r"))
    if matched is None:
        raise _no_status_line(first)
    minor, status = int(matched[1]), int(matched[2])
    fields = _fields(lines)
    named: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        named.setdefault(name.lower(), []).append(value)
    if status == 101:
        raise NotHTTP("it switches to a protocol that nobody asked for")
    if status < 200:
        return None
    options = b",".join(named.get(b"connection", ())).lower().split(b",")
    options = [option.strip() for option in options]
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    body = _body(status, named)
    if body is UntilClosed or _doubtful(minor, named):
        keep_alive = False
    reason = matched[3] or b""
    return Head(status, reason, tuple(fields), keep_alive, _headers(fields), body)


def _fields(lines: bytes) -> Fields:
    if lines.find(b"\n ") >= 0 or lines.find(b"\n\t") >= 0:
        lines = _FOLD.sub(b" ", lines)
    found: Fields = _FIELD.findall(lines)
    if lines and len(found) <= lines.count(b"\n"):
        line = next(line for line in lines.split(b"\n") if not _FIELD.fullmatch(line))
        raise NotHTTP(f"{line[:40]!r} in the place of a header")
    return [(name, value.strip(b" \t")) for name, value in found]


def _doubtful(minor: int, named: Mapping[bytes, list[bytes]]) -> bool:
    """Whether something on the way may have read another length (RFC 9112, section 6.1)."""
    return b"transfer-encoding" in named and (minor == 0 or b"content-length" in named)


def _body(status: int, named: Mapping[bytes, list[bytes]]) -> Callable[[], BodyDecoder]:
    """By RFC 9112, section 6.3, for a request that was neither HEAD nor CONNECT."""
    if status in (204, 304):
        return functools.partial(Counted, 0)
    codings = named.get(b"transfer-encoding")
    if codings is not None:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise NotHTTP(f"Transfer-Encoding {b', '.join(codings)[:40]!r}")
        return Chunked
    given = named.get(b"content-length")
    if given is None:
        return UntilClosed
    lengths = {length.strip(b" \t") for length in b",".join(given).split(b",")}
    if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
        raise NotHTTP("more than one Content-Length, or one that is no number")
    return functools.partial(Counted, int(length))


def _long_line() -> NotHTTP:
    return NotHTTP(f"a line of more than {MAX_LINE_BYTES} bytes between chunks")


LAST_CHUNK = b"0\r\n\r\n"
# In the place of a chunk's length: the last one has come.
_TRAILERS = -1


# Size lines that have come, with their ends, and how long chunks are with them and the line end
# behind: streams say the same few again and again, and looking one up costs a third of reading it.
_sizes: dict[bytes, int] = {}
_MAX_SIZES = 4096
_MAX_KEPT_BYTES = 8


class Chunked:
    """Chunked transfer coding (RFC 9112, section 7.1)."""

    __slots__ = ("_left", "_line_bytes", "_next_bytes", "done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        # Of the chunk under way, with the line end behind it; 0 between two chunks.
        self._left = 0
        # Of the newest size line; the next one is as long most of the time.
        self._line_bytes = 4
        # The same if nothing is held back and a size line comes next; else 0.
        self._next_bytes = self._line_bytes

    def feed(self, data: bytes) -> bytes:
        # The hot path: servers write an event in a chunk, and a read brings just that.
        at = self._next_bytes
        if _sizes.get(data[:at]) == len(data) and data[-2:] == b"\r\n":
            return data[at:-2]
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        if self.rest:
            data = self.rest + data
            self.rest = b""
        pieces: list[bytes] = []
        at = 0
        while not self.done and at < len(data):
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            if not self._left:
                at = self._whole_chunks(data, at, pieces)
                if data[at : at + 6] == LAST_CHUNK:
                    self.done, self._next_bytes = True, 0
                    return b"".join(pieces)
            # What follows is of no use but whole: a line end, a size, a trailer.
            line_end = data.find(b"\n", at) + 1
            if not line_end:
                break
            self._take_line(data[at:line_end])
            at = line_end
        self.rest = data[at:]
        self._next_bytes = 0 if self.rest or self._left else self._line_bytes
        if len(self.rest) >= MAX_LINE_BYTES and not self.done:
            raise _long_line()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _whole_chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Takes chunks that are whole, and of sizes that have come before; where that ends."""
        line_bytes = self._line_bytes
        while True:
            size = _sizes.get(data[at : at + line_bytes])
            if size is None:
                # It may be of another length than the one before it.
                line_bytes = max(0, data.find(b"\n", at) + 1 - at)
                size = _sizes.get(data[at : at + line_bytes])
                if size is None:
                    return at
                self._line_bytes = line_bytes
            end = at + size
            if data[end - 2 : end] != b"\r\n":
                return at
            pieces.append(data[at + line_bytes : end - 2])
            at = end

    def _take_line(self, line: bytes) -> None:
        if self._left > 0:
            if line != b"\r\n":
                raise NotHTTP("a chunk that is longer than its size")
            self._left = 0
            return
        if len(line) > MAX_LINE_BYTES:
            raise _long_line()
        if self._left == _TRAILERS:
            self.done = line in (b"\r\n", b"\n")
            return
        size = _CHUNK_LINE.fullmatch(line)
        if size is None:
            raise NotHTTP(f"{line[:40]!r} in the place of a chunk's size")
        length = int(size[1], 16)
        self._left = length + 2 if length else _TRAILERS
        if length:
            self._line_bytes = len(line)
            if self._line_bytes <= _MAX_KEPT_BYTES and len(_sizes) < _MAX_SIZES:
                _sizes[line] = self._line_bytes + length + 2

    def end(self) -> None:
        if not self.done:
            raise NotHTTP("the connection ended before the last chunk")


class Counted:
    """A body with a Content-Length (RFC 9112, section 6.2)."""

    __slots__ = ("_left", "done", "rest")

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

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.done = True
