"""What systemd and a service say to each other: sockets that it hands in, and the service's state.

Sockets come as descriptors from 3 on (sd_listen_fds(3)); the state goes as a datagram to the socket
that NOTIFY_SOCKET names (sd_notify(3)). Outside of systemd both are nothing. Knows nothing of what
is served. Used by cli.py and serve.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from .errors import UnusableConfig

_FIRST_DESCRIPTOR: Final = 3


def handed_in_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets of a .socket unit; none if there is none.

    The variables are taken out of `environ`: they are not for our child processes.

    Raises:
        UnusableConfig: what was handed in is no socket.
    """
    meant_for = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            sockets.append(socket.socket(fileno=descriptor))
        except OSError as error:
            raise UnusableConfig(
                f"LISTEN_FDS promises a socket as descriptor {descriptor}: {error.strerror}."
            ) from error
    return sockets


class Notifier:
    """Tells systemd the service's state (Type=notify or notify-reload); else does nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # Whoever inherited it could speak in our name.
        self._address = environ.pop("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """Clients can connect, or what was asked for with SIGHUP is done."""
        self._send("READY=1")

    def reloading(self) -> None:
        """SIGHUP has come."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # systemd not listening is no reason not to serve.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # An abstract address begins with NUL, which the variable has as @.
            abstract = self._address.startswith("@")
            sock.connect("\0" + self._address[1:] if abstract else self._address)
            sock.send(state.encode())
