"""One command's stdin, stdout and stderr on a host.

Gives what comes to a Receiver, in asyncssh's own callbacks. Knows no frames and nothing of how the
login was made.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import asyncssh

from ...peer_text import one_line
from ..channel import HIGH_WATER_BYTES, Backlog, Receiver
from .failures import reason_of

# What sshd takes in one SSH packet.
_PACKET_BYTES = 32 * 1024
# Linux's; elsewhere packets leave as they come.
_CORK = getattr(socket, "TCP_CORK", None)
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Channel(Backlog, asyncssh.SSHClientSession[bytes]):
    """One exec session: stdin, stdout and stderr of a command on the host."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Sends `data` to the command's stdin; to a closed channel, nowhere."""
        if self._channel is not None and not self._channel.is_closing():
            if len(data) <= _PACKET_BYTES:
                self._channel.write(data)
                return
            with _corked(self._channel.get_extra_info("socket")):
                self._channel.write(data)

    def close(self) -> None:
        """Ends the session; the command gets end of file."""
        if self._channel is not None:
            self._channel.abort()

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._receiver.feed(data)
        else:
            self._receiver.feed_stderr(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        channel, self._channel = self._channel, None
        ended, status = "it ended", None
        if channel is not None and (signal := channel.get_exit_signal()):
            ended = f"SIG{one_line(signal[0], 20)} ended it"
        elif channel is not None:
            status = channel.get_exit_status()
        self._receiver.channel_lost(reason_of(exc) if exc else ended, status)


@contextlib.contextmanager
def _corked(sock: Any) -> Iterator[None]:
    """What is written within leaves in full segments.

    asyncssh writes every packet by itself, so that sshd would be woken for each.

    Args:
        sock: None where the way is no TCP connection of ours (ProxyCommand, a jump).
    """
    if sock is None or _CORK is None or sock.family not in _TCP_FAMILIES:
        yield
        return
    # It may be closed before the channel knows.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)
