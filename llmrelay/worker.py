"""A worker's line to its supervisor: orders come down, and what systemd would be told goes up.

A byte is an order. Up go lines of sd_notify(3)'s: a supervisor is to its workers what systemd is to
a service, and tells systemd itself what holds for all. The end of the line is the end of who held
its other end. Knows neither a front-end nor processes. Used by signals.py and supervisor.py.
"""

from __future__ import annotations

import contextlib
import enum
import socket
from typing import Final

from .systemd import Notifier

_ORDERS_BYTES: Final = 64


class Order(enum.IntEnum):
    """What a supervisor wants of a worker; each twice is as good as once."""

    RELOAD = 1
    DRAIN = 2
    HAND_OVER = 3  # drain: another front-end has the addresses, and gets new connections
    END = 4  # at once


class Line(Notifier):
    """The worker's end.

    Args:
        sock: a stream socket whose other end only the supervisor has.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({})
        self._sock = sock

    def fileno(self) -> int:
        """To wait for orders."""
        return self._sock.fileno()

    def orders(self) -> list[Order]:
        """What has come; to end, where the supervisor has gone."""
        try:
            got = self._sock.recv(_ORDERS_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            got = b""
        return [Order(byte) for byte in got] or [Order.END]

    def serving(self, runners: str) -> None:
        """Clients can connect."""
        self._send(f"STATUS={runners}")
        self.ready()

    def failed(self, sentence: str) -> None:
        """It ends, and why."""
        self._send(f"STATUS={sentence}")

    def _send(self, state: str) -> None:
        with contextlib.suppress(OSError):  # the supervisor has gone, which the loop will hear
            self._sock.sendall(state.encode() + b"\n")
