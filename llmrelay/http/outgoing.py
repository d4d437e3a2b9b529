"""What goes out to clients: when it is written, and how the writing side of a connection ends.

TCP tells a client two things: FIN, "that was all", and RST, "something is missing". Which one
goes out decides whether a client takes a part for the whole, so the choice is made here alone.

Knows transports, no HTTP. Used by connection.py and exchange.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Final, Protocol

from .wire import Wire

logger = logging.getLogger("llmrelay.http")

# Above this an answer waits for its client, who is some minutes of text behind by then.
HIGH_WATER_BYTES: Final = 64 * 1024

_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Sender(Protocol):
    """Who has something to write."""

    def send(self) -> None:
        """Writes it."""


class Outbox:
    """What is to be written to clients at the end of this loop turn.

    A packet from a runner brings deltas of many calls. If each were written at once, the processor
    would change between our code and the kernel's with each, and a client would wake up for each:
    all that is made first and written then costs a tenth less.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Sender] = []

    def add(self, sender: Sender) -> None:
        """Have it send when all that is ready in this turn has had its turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(sender)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            try:
                sender.send()
            except Exception:  # a bug; the others' answers go on
                logger.exception("An answer could not be written.")


async def flush(wire: Wire, limit_s: float) -> bool:
    """Wait until the kernel has taken all that was written.

    Returns:
        Whether it has, within `limit_s` seconds.
    """
    transport = wire.transport
    if transport.is_closing():  # uvloop's takes no limits then
        return False
    if not transport.get_write_buffer_size():
        return True
    # A TLS transport holds none at all to be above 0.
    transport.set_write_buffer_limits(high=0 if transport.can_write_eof() else 1)
    try:
        async with asyncio.timeout(limit_s):
            await wire.drained()
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
