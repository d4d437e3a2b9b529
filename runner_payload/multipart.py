"""multipart/form-data: a form's bytes -> its parts as they come, and back (RFC 7578, RFC 2046 5.1).

Shared by both sides and sans-IO; knows no field of any API. A part's bytes go through as they come:
at most a delimiter less one byte waits, whatever the file's size. Whatever the client sends parses
or raises InvalidMultipart and nothing else.

What two readers could read in two ways is refused: line ends other than CRLF around boundaries and
in heads, a line that only begins with the boundary, folded or repeated headers, a part whose
Content-Length disagrees with its boundaries. So whoever reads the same bytes behind us reads the
same form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from .multipart_head import InvalidMultipart, PartBegun, boundary_of, escaped, read_head

__all__ = [
    "Event",
    "FormEnded",
    "InvalidMultipart",
    "MultipartDecoder",
    "PartBegun",
    "PartData",
    "PartEnded",
    "boundary_of",
    "encode_end",
    "encode_field",
    "encode_file_head",
    "new_boundary",
]

# Browsers' heads have some hundred bytes; a long file name in UTF-8 has its place.
MAX_HEAD_BYTES = 8 * 1024
# The longest form of the APIs has some twenty fields; several images go with one prompt.
MAX_PARTS = 64

_CR = 0x0D
_CRLF = b"\r\n"
_NO_CRLF = "A line before a boundary of the form does not end with CRLF."
_BLANKS = re.compile(rb"[ \t]*")


@dataclass(frozen=True, slots=True)
class PartData:
    """Some bytes of the part under way.

    Attributes:
        at: where in the whole body the first of them stood.
    """

    data: bytes
    at: int


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is whole."""


@dataclass(frozen=True, slots=True)
class FormEnded:
    """The closing boundary has come."""


Event = PartBegun | PartData | PartEnded | FormEnded


class _State(Enum):
    """What the next byte belongs to."""

    START = auto()  # the first boundary, or a preamble
    PREAMBLE = auto()
    BOUNDARY = auto()  # what follows a boundary: "--", or the rest of its line
    PADDING = auto()
    HEAD = auto()
    FIRST_DATA = auto()  # a part's first bytes, where a boundary may not stand
    DATA = auto()
    CLOSED = auto()  # the rest of the closing boundary's line
    EPILOGUE = auto()


class MultipartDecoder:
    """A form's bytes in any split -> what they tell.

    Not to be fed any more once it has raised.

    Args:
        boundary: see boundary_of().
        max_head_bytes: of one part's header lines, and of a preamble.
        max_parts: of the form.
    """

    def __init__(
        self,
        boundary: bytes,
        *,
        max_head_bytes: int = MAX_HEAD_BYTES,
        max_parts: int = MAX_PARTS,
    ) -> None:
        self._dashed = b"--" + boundary
        self._delimiter = _CRLF + self._dashed
        self._after_lf = b"\n" + self._dashed
        self._after_cr = b"\r" + self._dashed
        self._max_head_bytes = max_head_bytes
        self._max_parts = max_parts
        self._state = _State.START
        self._held = b""
        self._offset = 0  # of _held in the whole body
        self._parts = 0
        self._part_bytes = 0
        self._declared_bytes: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        """What `data` completes.

        Raises:
            InvalidMultipart: the bytes are no form; what came with them is lost.
        """
        data = self._held + data
        events: list[Event] = []
        at = 0
        while True:
            state = self._state
            at = _STEPS[state](self, data, at, events)
            if self._state is state:  # the rest is too short to say more
                break
        self._held = data[at:]
        self._offset += at
        return events

    def finish(self) -> None:
        """No more bytes will come.

        Raises:
            InvalidMultipart: the form is not whole.
        """
        if self._state is _State.CLOSED and not self._held:
            return
        if self._state is not _State.EPILOGUE:
            raise InvalidMultipart(
                "The form ends before its closing boundary."
                if self._state not in (_State.START, _State.PREAMBLE)
                else "The form does not have the boundary that its Content-Type names."
            )

    # Each step reads `data` from `at` on, appends what it has understood, and returns up to where.
    # It changes the state when it is done with it.

    def _start(self, data: bytes, at: int, events: list[Event]) -> int:
        if data.startswith(self._dashed):
            self._state = _State.BOUNDARY
            return len(self._dashed)
        if not self._dashed.startswith(data):
            self._state = _State.PREAMBLE
        return at

    def _preamble(self, data: bytes, at: int, events: list[Event]) -> int:
        found, with_crlf = self._find_delimiter(data, at)
        end = found if found >= 0 else self._settled(data, at)
        if self._offset + end > self._max_head_bytes:
            raise InvalidMultipart(
                "The form does not begin with the boundary that its Content-Type names."
            )
        if found < 0:
            return end
        if not with_crlf:
            raise InvalidMultipart(_NO_CRLF)
        self._state = _State.BOUNDARY
        return end + len(self._delimiter)

    def _boundary(self, data: bytes, at: int, events: list[Event]) -> int:
        rest = data[at : at + 2]
        if rest == b"--":
            events.append(FormEnded())
            self._state = _State.CLOSED
            return at + 2
        if rest not in (b"", b"-"):
            self._state = _State.PADDING
        return at

    def _padding(self, data: bytes, at: int, events: list[Event]) -> int:
        at = self._end_of_line(data, at)
        if data.startswith(_CRLF, at):
            self._state = _State.HEAD
            return at + 2
        return at

    def _head(self, data: bytes, at: int, events: list[Event]) -> int:
        end = data.find(b"\r\n\r\n", at)
        if data.startswith(_CRLF, at):
            raise InvalidMultipart("A part of the form has no headers.")
        if (end if end >= 0 else len(data) - 3) - at > self._max_head_bytes:
            raise InvalidMultipart(
                f"A part of the form has headers of more than {self._max_head_bytes} bytes."
            )
        if end < 0:
            return at
        self._parts += 1
        if self._parts > self._max_parts:
            raise InvalidMultipart(f"The form has more than {self._max_parts} parts.")
        head = data[at:end]
        if self._after_lf in b"\n" + head:
            raise InvalidMultipart("A boundary stands among the headers of a part of the form.")
        begun, self._declared_bytes = read_head(head)
        events.append(begun)
        self._part_bytes = 0
        self._state = _State.FIRST_DATA
        return end + 4

    def _first_data(self, data: bytes, at: int, events: list[Event]) -> int:
        # RFC 2046 lets a part end with its headers: this would be the boundary then, where others
        # read content. No client writes it.
        first = data[at : at + len(self._dashed)]
        if first == self._dashed:
            raise InvalidMultipart("A part of the form has no line between headers and boundary.")
        if not self._dashed.startswith(first):
            self._state = _State.DATA
        return at

    def _data(self, data: bytes, at: int, events: list[Event]) -> int:
        found, with_crlf = self._find_delimiter(data, at)
        end = found if found >= 0 else self._settled(data, at)
        if end > at:
            events.append(PartData(data[at:end], self._offset + at))
            self._part_bytes += end - at
        if found < 0:
            return end
        if not with_crlf:
            raise InvalidMultipart(_NO_CRLF)
        if self._declared_bytes not in (None, self._part_bytes):
            raise InvalidMultipart("A part of the form is not as long as its Content-Length says.")
        events.append(PartEnded())
        self._state = _State.BOUNDARY
        return end + len(self._delimiter)

    def _closed(self, data: bytes, at: int, events: list[Event]) -> int:
        at = self._end_of_line(data, at)
        if data.startswith(_CRLF, at):
            self._state = _State.EPILOGUE
        return at

    def _epilogue(self, data: bytes, at: int, events: list[Event]) -> int:
        return len(data)

    def _end_of_line(self, data: bytes, at: int) -> int:
        """Past the blanks behind a boundary, to what has to be CRLF."""
        blanks = _BLANKS.match(data, at)
        assert blanks is not None  # it matches nothing as well
        at = blanks.end()
        if not _CRLF.startswith(data[at : at + 2]):
            raise InvalidMultipart("Something else than CRLF follows a boundary of the form.")
        return at

    def _find_delimiter(self, data: bytes, at: int) -> tuple[int, bool]:
        """Where the next one begins, or -1, and whether it begins with CRLF."""
        line_feed = data.find(self._after_lf, at)
        carriage = data.find(self._after_cr, at, line_feed if line_feed >= 0 else len(data))
        if carriage >= 0:
            return carriage, False
        # A CR before `at` would have been held back.
        if line_feed > at and data[line_feed - 1] == _CR:
            return line_feed - 1, True
        return line_feed, False

    def _settled(self, data: bytes, at: int) -> int:
        """Up to where no delimiter can begin, whatever comes next."""
        tail = max(at, len(data) - len(self._delimiter) + 1)
        last = max(data.rfind(b"\r", tail), data.rfind(b"\n", tail))
        if last < 0:
            return len(data)
        if last > tail and data[last - 1 : last + 1] == _CRLF:
            last -= 1
        rest = data[last:]
        begun = (self._delimiter, self._after_lf, self._after_cr)
        return last if any(whole.startswith(rest) for whole in begun) else len(data)


_STEPS: dict[_State, Callable[[MultipartDecoder, bytes, int, list[Event]], int]] = {
    _State.START: MultipartDecoder._start,
    _State.PREAMBLE: MultipartDecoder._preamble,
    _State.BOUNDARY: MultipartDecoder._boundary,
    _State.PADDING: MultipartDecoder._padding,
    _State.HEAD: MultipartDecoder._head,
    _State.FIRST_DATA: MultipartDecoder._first_data,
    _State.DATA: MultipartDecoder._data,
    _State.CLOSED: MultipartDecoder._closed,
    _State.EPILOGUE: MultipartDecoder._epilogue,
}


def new_boundary() -> bytes:
    """A boundary that stands in no file, to all likelihood."""
    return b"llmrelay-" + os.urandom(16).hex().encode()


def encode_field(boundary: bytes, name: str, value: str) -> bytes:
    """A whole part that is no file."""
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, _disposition(name), value.encode())


def encode_file_head(
    boundary: bytes, name: str, filename: str, content_type: str = "application/octet-stream"
) -> bytes:
    """What goes before a file's bytes. CRLF goes behind them; encode_end() brings it."""
    disposition = b'%b; filename="%b"' % (_disposition(name), escaped(filename))
    return b"--%b\r\n%b\r\nContent-Type: %b\r\n\r\n" % (
        boundary,
        disposition,
        content_type.encode(),
    )


def encode_end(boundary: bytes, *, after_file: bool = True) -> bytes:
    """The closing boundary; `after_file`: the part before it is a file, else a field."""
    return b"%b--%b--\r\n" % (_CRLF if after_file else b"", boundary)


def _disposition(name: str) -> bytes:
    return b'Content-Disposition: form-data; name="%b"' % escaped(name)
