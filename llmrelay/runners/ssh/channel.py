"""One command's stdin, stdout and stderr on a host.

Gives what comes to a Receiver, in asyncssh's own callbacks. Knows no frames and nothing of how the
login was made.
"""

from __future__ import annotations

import asyncssh

from ...peer_text import one_line
from ..channel import HIGH_WATER_BYTES, Backlog, Receiver
from .failures import reason_of


class Channel(Backlog, asyncssh.SSHClientSession[bytes]):
    """One exec session: stdin, stdout and stderr of a command on the host."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Sends `data` to the command's stdin; to a closed channel, nowhere."""
        if self._channel is not None and not self._channel.is_closing():
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
