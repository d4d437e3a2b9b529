"""Who the client is when proxies stand between: Forwarded (RFC 7239) and X-Forwarded-For.

Anyone can write these headers, so they count only where the peer is a trusted proxy, and are read
from the right: the last element was added by the peer, and each trusted hop vouches for the one
before it. The first hop that is not trusted is the client; what stands left of it, it may have
written itself. Where a hop is named by no address (`unknown`, `_hidden`, malformed), the proxy that
named it stands for the client.

A proxy writes one of the two headers and may pass the other on as the client sent it: nginx writes
X-Forwarded-For and lets a forged Forwarded through. Nothing in a request tells which one is real,
so where both are there they count if they agree; else the peer stands for the client. That is safe
as long as each trusted proxy writes one of them into every request, and all of them the same one.

Pure: knows no socket and no log. Called by connection.py for every request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Final, Literal

from ..values import UNIX, TrustedProxy
from .events import Headers
from .grammar import QUOTED_STRING, TOKEN

Address = IPv4Address | IPv6Address
# Where a connection or a request comes from; None if that cannot be told any more.
Origin = Address | Literal["unix"] | None

# Elements that are read. Chains have two or three proxies; a client that sits at a trusted address
# itself cannot make more work than this.
MAX_HOPS: Final = 32

# RFC 7239, section 4. It has no blanks around the semicolon, but some proxies write them, as
# RFC 9110, section 5.6.6 does elsewhere. They are matched possessively, so that no row of them can
# be divided in more than one way.
_PAIR: Final = re.compile(rf"({TOKEN})=({TOKEN}|{QUOTED_STRING})")
_ELEMENT: Final = re.compile(rf"(?:{_PAIR.pattern})?(?:[ \t]*+;[ \t]*+(?:{_PAIR.pattern})?)*")
# RFC 7239, section 6, without the names that are no addresses. Only IPv6 has brackets.
_NODE: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?"
)
_BARE_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+")


def parse_address(text: str) -> Address | None:
    """An IP address; IPv4 in IPv6's form, as sockets on [::] show it, is IPv4 (RFC 4291, 2.5.5.2).

    None if it is none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def is_trusted(origin: Origin, trusted: Sequence[TrustedProxy]) -> bool:
    """Whether it is one of the trusted proxies."""
    if not trusted:
        return False
    if origin is None or origin == UNIX:
        return origin in trusted
    return any(origin in network for network in trusted if network != UNIX)


def client_address(peer: Origin, headers: Headers, trusted: Sequence[TrustedProxy]) -> Origin:
    """Where a request comes from: its peer, or the client for which trusted proxies vouch.

    Headers that are malformed or contradict each other are no error; they do not count. Then, as
    for a peer that is not trusted, it is `peer` itself that is returned, and no equal address.
    """
    if not is_trusted(peer, trusted):
        return peer
    said = {
        _first_untrusted(peer, read(_from_the_right(lines, cut)), trusted)
        for name, cut, read in _HEADERS
        if (lines := headers.get_all(name))
    }
    return said.pop() if len(said) == 1 else peer


def _first_untrusted(
    peer: Origin,
    hops: Iterator[Address | None],
    trusted: Sequence[TrustedProxy],
) -> Origin:
    client = peer
    for hop in hops:
        if hop is None:
            break
        client = hop
        if not is_trusted(client, trusted):
            break
    return client


# --- Elements, the last one first ---------------------------------------------------------------

# `before, element` -> (`before`, its comma, `element`), as str.rpartition(",").
_Cut = Callable[[str], tuple[str, str, str]]


def _from_the_right(lines: Sequence[str], cut: _Cut) -> Iterator[str]:
    """The elements of all field lines, empty ones left out (RFC 9110, section 5.6.1.2)."""
    return filter(None, islice(_cut_off(lines, cut), MAX_HOPS))


def _cut_off(lines: Sequence[str], cut: _Cut) -> Iterator[str]:
    for line in reversed(lines):
        rest, comma = line, ","
        while comma:
            rest, comma, element = cut(rest)
            yield element.strip(" \t")


def _cut_unquoted(text: str) -> tuple[str, str, str]:
    """Cut at the last comma that is in no quoted string.

    Read from the right as well, so that no quote that a client left open swallows what a proxy
    added behind it. A quoted string begins at the last `="` before its end, because within it a
    quote is written `\\"`.
    """
    comma, end = text.rfind(","), len(text)
    while (quote := text.rfind('"', 0, end)) > comma:
        end = max(text.rfind('="', 0, quote), 0)
        if comma > end:
            comma = text.rfind(",", 0, end)
    return ("", "", text) if comma < 0 else (text[:comma], ",", text[comma + 1 :])


# --- Elements to addresses ----------------------------------------------------------------------


def _read_forwarded(elements: Iterator[str]) -> Iterator[Address | None]:
    for element in elements:
        pairs = _PAIR.findall(element) if _ELEMENT.fullmatch(element) else []
        nodes = [value for name, value in pairs if name.lower() == "for"]
        # "Each parameter MUST NOT occur more than once per field-value."
        yield _parse_node(_unquoted(nodes[0])) if len(nodes) == 1 else None


def _read_x_forwarded_for(elements: Iterator[str]) -> Iterator[Address | None]:
    """No RFC; written with and without port, and IPv6 with and without brackets."""
    for element in elements:
        bare = _BARE_IPV6.fullmatch(element) and parse_address(element)
        yield bare or _parse_node(element)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _parse_node(text: str) -> Address | None:
    match = _NODE.fullmatch(text)
    return parse_address(match[1] or match[2]) if match else None


_HEADERS: Final = (
    ("forwarded", _cut_unquoted, _read_forwarded),
    ("x-forwarded-for", lambda text: text.rpartition(","), _read_x_forwarded_for),
)
