"""The ways in which the writing side of a connection ends.

TCP tells a client two things: FIN, "that was all", and RST, "something is missing". Which one
goes out decides whether a client takes a part for the whole, so the choice is made here alone.

Knows transports, no HTTP. Used by connection.py and exchange.py.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

# Above this an answer waits for its client, who is some minutes of text behind by then.
HIGH_WATER_BYTES: Final = 64 * 1024

_NO_LINGER: Final = struct.pack("ii", 1, 0)


async def flush(writer: asyncio.StreamWriter, limit_s: float) -> bool:
    """Wait until the kernel has taken all that was written.

    Returns:
        Whether it has, within `limit_s` seconds.

    Raises:
        OSError: the connection is lost.
    """
    transport = writer.transport
    if transport.is_closing():  # uvloop's takes no limits then
        return False
    # A TLS transport holds none at all to be above 0.
    transport.set_write_buffer_limits(high=0 if transport.can_write_eof() else 1)
    try:
        async with asyncio.timeout(limit_s):
            await writer.drain()
    except TimeoutError:
        return False
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
    return not transport.is_closing()


def reset(transport: asyncio.WriteTransport) -> None:
    """End the connection with RST.

    One that is closing already ends at once: over TLS it may wait for a client that does not read,
    whom the missing close_notify tells what RST does.
    """
    sock = None if transport.is_closing() else transport.get_extra_info("socket")
    if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def close(transport: asyncio.WriteTransport) -> None:
    """End the connection now: with FIN if all that was written is out, else with RST."""
    if transport.get_write_buffer_size():
        reset(transport)
    else:
        transport.abort()
