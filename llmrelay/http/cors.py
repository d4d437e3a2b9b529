"""Which web pages of other origins may ask, and what a browser has to read to let them.

The CORS protocol of the Fetch Standard. A browser sends a page's simple requests at once, and asks
before others with a preflight. The page may read an answer only if the answer names its origin,
errors included; so every answer gets `headers`. No answer allows credentials: a page's token is a
header that it sets itself, and cookies mean nothing here.

Pure; knows no path. guard.py refuses what is not allowed here, connection.py sends the headers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from ..errors import BadRequest
from .events import Request
from .grammar import TOKEN
from .responses import Header

ANY: Final = "*"

# What a page may read beside the headers that it may always.
_EXPOSED: Final = "X-Request-Id, X-Error-Code, Retry-After"
# A preflight costs a round trip; Chromium remembers none for longer than two hours.
_MAX_AGE_S: Final = 7200

_TOKEN: Final = re.compile(TOKEN)


class Policy:
    """The origins whose pages may ask.

    Args:
        origins: as browsers write them, or `*` for all.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def allows(self, request: Request) -> bool:
        """Whether a page may have sent it: its origin is named, or all are."""
        if not self._origins:
            return False
        if ANY in self._origins:
            return True
        origins = request.headers.get_all("origin")
        return bool(origins) and self._origins.issuperset(origins)

    def is_preflight(self, request: Request) -> bool:
        """Whether it is a CORS-preflight request of a page that may ask.

        Raises:
            BadRequest: it asks for what can be no method or no header.
        """
        if request.method != "OPTIONS" or not self._origin(request):
            return False
        methods = request.headers.get_all("access-control-request-method")
        if not methods:
            return False
        if len(methods) > 1 or not _TOKEN.fullmatch(methods[0]):
            raise BadRequest("Access-Control-Request-Method has to be one method.")
        if not all(map(_TOKEN.fullmatch, _asked_headers(request))):
            raise BadRequest("Access-Control-Request-Headers has to be names of headers.")
        return True

    def headers(self, request: Request) -> list[Header]:
        """For every answer to the request, whatever it says."""
        if not self._origins:
            return []
        # Also for other origins, and for none: a cache may not give one's answer to another.
        headers = [("Vary", "Origin")]
        if origin := self._origin(request):
            headers += [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Expose-Headers", _EXPOSED),
            ]
        return headers

    def preflight_headers(self, request: Request) -> list[Header]:
        """For the answer to a preflight, in place of `headers`.

        What it asks for is allowed: which methods and headers there are is the application's to
        say, and it says so to the request itself.
        """
        headers = [
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            ("Access-Control-Allow-Origin", self._origin(request)),
            ("Access-Control-Allow-Methods", request.headers.get("access-control-request-method")),
            ("Access-Control-Allow-Headers", ", ".join(_asked_headers(request))),
            ("Access-Control-Max-Age", str(_MAX_AGE_S)),
        ]
        # Chromium asked so for a while, before pages may reach into a local network.
        if request.headers.get("access-control-request-private-network") == "true":
            headers.append(("Access-Control-Allow-Private-Network", "true"))
        return [(name, value) for name, value in headers if value]

    def _origin(self, request: Request) -> str:
        """What Access-Control-Allow-Origin says; empty if that is nothing."""
        origins = request.headers.get_all("origin")
        if len(origins) != 1:
            return ""
        if ANY in self._origins:
            return ANY
        return origins[0] if origins[0] in self._origins else ""


def _asked_headers(request: Request) -> list[str]:
    values = request.headers.get_all("access-control-request-headers")
    names = [name.strip(" \t") for value in values for name in value.split(",")]
    return [name for name in names if name]
