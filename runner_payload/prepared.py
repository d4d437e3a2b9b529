"""Requests that the SDK has made once, to be asked again with another body.

Of one kind are requests with the same method, path and headers, but for those that name the one
request. What the SDK makes of a kind (URL, key, a dozen headers) stays as it is until the key is
renewed, and making it takes the SDK ten times the CPU time of sending it.

Pure: knows httpx2's requests, but asks nothing. Used by upstream.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import httpx2

from .transport import Origin, encode_fields, origin_of

# Of a request's headers those that no other has.
_OWN = ("idempotency-key", "x-client-request-id")
# Its body's; Content-Length is told for each.
_LENGTH = "content-length"
# Paths times what clients say of themselves.
MAX_KINDS = 256


class Prepared(NamedTuple):
    """A kind of requests.

    Attributes:
        begin: the head as far as all of them have it.
    """

    origin: Origin
    begin: bytes

    def __repr__(self) -> str:
        return f"Prepared({self.origin}, ***)"  # the key is in it

    def head(self, told: Mapping[str, str], body: bytes) -> bytes:
        """The head of one of them."""
        own = [(name.encode(), told[name].encode()) for name in _OWN if name in told]
        return b"%bcontent-length: %d\r\n%b\r\n" % (self.begin, len(body), encode_fields(own))


class PreparedRequests:
    """The kinds that have been asked."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], Prepared] = {}

    def find(self, method: str, path: str, told: Mapping[str, object]) -> Prepared | None:
        """The kind of a request, if one like it was made before."""
        return self._kinds.get(_kind(method, path, told))

    def keep(
        self, method: str, path: str, told: Mapping[str, object], request: httpx2.Request
    ) -> None:
        """Keeps what the SDK has made of it."""
        if not all(isinstance(value, str) for value in told.values()):
            return  # the SDK's own signs, no two of which are equal
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        fields = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in (*_OWN, _LENGTH)
        ]
        line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
        kept = Prepared(origin_of(request.url), line + encode_fields(fields))
        self._kinds[_kind(method, path, told)] = kept


def _kind(method: str, path: str, told: Mapping[str, object]) -> tuple[object, ...]:
    return (method, path, *(item for item in told.items() if item[0] not in _OWN))
