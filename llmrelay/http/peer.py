"""Who holds the other end of a connection: for the log, and as an address for the limits.

Knows transports, no request. What a proxy says of its own client is forwarded.py's to read.
"""

from __future__ import annotations

import asyncio
import socket
from functools import lru_cache

from ..values import UNIX
from .forwarded import Origin, parse_address

# A client comes back. What proxies say is not parsed here: an address of theirs is never the very
# object that a peer's is (connection.py).
_address = lru_cache(maxsize=256)(parse_address)


def peer_origin(transport: asyncio.BaseTransport) -> Origin:
    """Its address; None where there is none any more."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return _address(name[0])
    sock = transport.get_extra_info("socket")
    unix = sock is not None and sock.family == getattr(socket, "AF_UNIX", None)
    return UNIX if unix else None


def peer_name(transport: asyncio.BaseTransport) -> str:
    """`address:port`, `unix`, or empty where there is none any more."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return str(peer_origin(transport) or "")
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
