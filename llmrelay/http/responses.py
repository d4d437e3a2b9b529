"""What the server sends, as bytes: heads, chunks, the date (RFC 9112, sections 4 to 7).

Every header passes `encode_head`, which refuses what could split it. So no text of a client or of
upstream can end a header early, wherever it came from.

Pure functions; knows no request, no socket and no clock. Used by exchange.py and connection.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from .grammar import TOKEN

Header = tuple[str, str]

# An interim response, which every HTTP/1.1 client skips (RFC 9110, section 15.2).
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_NAME: Final = re.compile(TOKEN)
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def encode_head(status: int, headers: Iterable[Header]) -> bytes:
    """Status line and header section, with the empty line that ends it.

    The version is always our own, HTTP/1.1 (RFC 9110, section 6.2). The reason phrase is Python's;
    a status that it does not know gets none, which is as good (RFC 9112, section 4).

    Raises:
        ValueError: a status out of range, or a header that would not be one: a bug of the caller.
    """
    if not 100 <= status <= 599:
        raise ValueError(f"{status} is no HTTP status")
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _reason(status), _encode_fields(headers))


def encode_chunk(data: bytes) -> bytes:
    """One chunk; `data` may not be empty, because an empty chunk ends the body."""
    if not data:
        raise ValueError("an empty chunk ends the body")
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Iterable[Header] = ()) -> bytes:
    """The end of a chunked body, with its trailer section.

    Raises:
        ValueError: as encode_head.
    """
    return b"0\r\n%b\r\n" % _encode_fields(trailers)


@functools.lru_cache(maxsize=1)
def http_date(unix_second: int) -> str:
    """A time as IMF-fixdate (RFC 9110, section 5.6.7); made once for all answers of a second."""
    return formatdate(unix_second, usegmt=True)


@functools.cache
def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def _encode_fields(headers: Iterable[Header]) -> bytes:
    return "".join([_line(name, value) for name, value in headers]).encode("latin-1")


@functools.lru_cache(maxsize=64)  # most answers have what the one before had
def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if not _VALUE.fullmatch(value):
        # The value may be a secret; the name is enough to find the bug.
        raise ValueError(f"the value of {name} has a character that no header may have")
    return f"{name}: {value}\r\n"
