"""Why we take what h11 or llhttp refuses: every disagreement that is allowed, as data.

Each names the sentence of the RFC that decides it, and carries an example, so that a reason that
no longer holds fails a test. Used by test_differential.py and by scripts/fuzz compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from .differential import DIFFERENT, THEY_REFUSE, WE_WAIT, Disagreement, Read

# Those of llhttp's list that the streams have; a name that is not among them is new to it.
_KNOWN_METHODS: Final = {
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
    b"PROPFIND",
}  # fmt: skip
_BAD_WHITE_SPACE: Final = re.compile(rb"[ \t][;=]|[;=][ \t]")


@dataclass(frozen=True)
class Reason:
    """`applies` says whether it explains a disagreement of those kinds with one of the peers."""

    name: str
    peers: frozenset[str]
    kinds: frozenset[str]
    source: str
    example: bytes
    applies: Callable[[Disagreement], bool]

    def explains(self, found: Disagreement) -> bool:
        return found.peer in self.peers and found.kind in self.kinds and self.applies(found)


def explain(found: Disagreement) -> Reason | None:
    """The first reason that explains it."""
    return next((reason for reason in REASONS if reason.explains(found)), None)


def _has(request: Read | None, names: Iterable[bytes]) -> bool:
    return request is not None and bool({name for name, _ in request.headers} & {*names})


def _judges_trailers(found: Disagreement) -> bool:
    """Their error is about a framing header, and the head has no such error."""
    said = found.detail.lower()
    headers = dict(found.request.headers) if found.request else {}
    if headers.get(b"transfer-encoding") != b"chunked" or b"content-length" in headers:
        return False
    return "content-length" in said or "transfer-encoding" in said or "multiple" in said


_BOTH: Final = frozenset({"h11", "llhttp"})
_CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

REASONS: Final = [
    Reason(
        name="a method that is not in llhttp's list",
        peers=frozenset({"llhttp"}),
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9110, section 9.1: "Additional methods, outside the scope of this '
        'specification, have been specified for use in HTTP." A method is any token; one that '
        "is not known is answered 501.",
        example=b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        applies=lambda found: (
            found.request is not None and found.request.method not in _KNOWN_METHODS
        ),
    ),
    Reason(
        name="white space around the `;` and `=` of a chunk extension",
        peers=_BOTH,
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9112, section 7.1.1, has BWS there; RFC 9110, section 5.6.3: "A recipient '
        'MUST parse for such bad whitespace and remove it".',
        example=_CHUNKED + b"3 ; a = b\r\nabc\r\n0\r\n\r\n",
        applies=lambda found: (
            "chunk" in found.detail and _BAD_WHITE_SPACE.search(found.raw) is not None
        ),
    ),
    Reason(
        name="a blank behind `chunked`",
        peers=frozenset({"llhttp"}),
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9112, section 5.1: "The field line value does not include that leading or '
        'trailing whitespace".',
        example=b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
        applies=lambda found: (
            "Transfer-Encoding" in found.detail
            and re.search(rb"chunked[ \t]+\r\n", found.raw, re.IGNORECASE) is not None
        ),
    ),
    Reason(
        name="a framing header among the trailers",
        peers=_BOTH,
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9112, section 7.1.2: "A recipient that removes the chunked coding from a '
        'message MAY selectively retain or discard the received trailer fields." We drop all; '
        'of those that describe framing RFC 9110, section 6.5.1, says that they "cannot be '
        'processed outside the header section".',
        example=_CHUNKED + b"0\r\nContent-Length: x\r\n\r\n",
        applies=_judges_trailers,
    ),
    Reason(
        name="empty lines before a request",
        peers=frozenset({"h11"}),
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9112, section 2.2: "a server that is expecting to receive and parse a '
        'request-line SHOULD ignore at least one empty line (CRLF)". We ignore four.',
        example=b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        applies=lambda found: (
            (found.detail == "no request line received" and b"\r\n" in found.raw)
            # Half of one: we wait for the rest, and nothing else is left.
            or (found.request is None and found.raw.endswith(b"\r"))
        ),
    ),
    Reason(
        name="a minor version above 1",
        peers=frozenset({"llhttp"}),
        kinds=frozenset({THEY_REFUSE}),
        source='RFC 9110, section 2.5: who receives "a minor version number higher than what it '
        'implements SHOULD process the message as if it was in the highest minor version".',
        example=b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        applies=lambda found: found.detail == "Invalid HTTP version" and b" HTTP/1." in found.raw,
    ),
    Reason(
        name="llhttp stops reading HTTP where a request asks for an upgrade",
        peers=frozenset({"llhttp"}),
        kinds=frozenset({DIFFERENT, WE_WAIT}),
        source='RFC 9110, section 7.8: "A server MAY ignore a received Upgrade header field if it '
        "wishes to continue using the current protocol\". The body is the request's, then.",
        example=b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        applies=lambda found: _has(found.request, [b"upgrade"]),
    ),
]
