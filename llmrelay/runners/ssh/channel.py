"""One command's stdin, stdout and stderr on a host.

Gives what comes to a Receiver, in asyncssh's own callbacks, and says when more is unsent than
should be. Knows no frames and nothing of how the login was made.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import asyncssh

from ...peer_text import one_line
from .failures import reason_of

# Unsent bytes above which a channel is congested.
_HIGH_WATER_BYTES = 256 * 1024


class Receiver(Protocol):
    """Who gets what a channel brings."""

    def feed(self, data: bytes) -> None:
        """Bytes of stdout."""

    def feed_stderr(self, data: bytes) -> None:
        """Bytes of stderr."""

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        """The channel is closed; called once."""


class Channel(asyncssh.SSHClientSession[bytes]):
    """One exec session: stdin, stdout and stderr of a command on the host."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def congested(self) -> bool:
        """More is unsent than should be; wait for writable() before writing more of a prompt."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Returns when the backlog has gone, or the channel."""
        await self._writable.wait()

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
        chan.set_write_buffer_limits(_HIGH_WATER_BYTES)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._receiver.feed(data)
        else:
            self._receiver.feed_stderr(data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        channel, self._channel = self._channel, None
        ended, status = "it ended", None
        if channel is not None and (signal := channel.get_exit_signal()):
            ended = f"SIG{one_line(signal[0], 20)} ended it"
        elif channel is not None:
            status = channel.get_exit_status()
        self._receiver.channel_lost(reason_of(exc) if exc else ended, status)
