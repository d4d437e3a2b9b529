"""What the HTTP/1.1 parser says: the events of one request, in order.

A request is one `Request`, any number of `Data`, one `EndOfMessage`. Between them the parser may
answer NEED_DATA: nothing more can be said before more bytes are fed.

Tuples where there is one per request: a frozen dataclass takes three times as long to make.

Knows no bytes on the wire, no socket and no time. Made by http11.py, read by connection.py, and
`Request` by the whole application.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple


@dataclass(frozen=True, slots=True, repr=False)
class Headers:
    """Header fields in the order in which they came: lower-case names, values read as Latin-1.

    Latin-1 maps every byte to one character and back, so no value is ever lost or rejected for its
    charset (RFC 9110, section 5.5).
    """

    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """The value of the first field of that name, or None; `name` in any case."""
        wanted = name.lower()
        for field, value in self.fields:
            if field == wanted:
                return value
        return None

    def get_all(self, name: str) -> list[str]:
        """The values of all fields of that name, in order."""
        wanted = name.lower()
        values = []
        for field, value in self.fields:
            if field == wanted:
                values.append(value)
        return values

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        # Values hold tokens and cookies; a repr ends in logs.
        return f"Headers({', '.join(name for name, _ in self.fields)})"


class Request(NamedTuple):
    """A request's head.

    Attributes:
        method: as sent; methods are case-sensitive (RFC 9110, section 9.1).
        target: the request target as sent, in any form (RFC 9112, section 3.2).
        path: the target's path, still percent-encoded; `*` for `OPTIONS *`.
        query: what follows the `?`, still percent-encoded; empty if there is none.
        scheme: `http` or `https` of a target in absolute-form, else empty.
        authority: `host[:port]` that the request is for: the target's own in absolute-form, else
            Host's; empty only for HTTP/1.0 without Host.
        version: (1, 0), or (1, 1) also for higher minor versions (RFC 9110, section 6.2).
        headers: all header fields.
        keep_alive: whether the client wants another exchange on the connection.
        expect_continue: whether it waits for "100 Continue" before it sends the body; never
            without one.
        framing: the body's length in bytes, "chunked", or None without a body.
    """

    method: str
    target: str
    path: str
    query: str
    scheme: str
    authority: str
    version: tuple[int, int]
    headers: Headers
    keep_alive: bool
    expect_continue: bool
    framing: int | Literal["chunked"] | None


class Data(NamedTuple):
    """A piece of the body, with chunked coding removed; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The request is whole. Trailers, if any, were read and dropped."""


class NeedData(enum.Enum):
    """The type of NEED_DATA."""

    NEED_DATA = enum.auto()


NEED_DATA: Final = NeedData.NEED_DATA

Event = Request | Data | EndOfMessage
