"""A command's stdin, stdout and stderr, as those see them who use them.

A link runs over any ByteChannel and takes what comes as a Receiver; ssh/channel.py is one over SSH,
local.py one to a child of ours. Knows neither, and no frames.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

# Unsent bytes above which a channel is congested.
HIGH_WATER_BYTES = 256 * 1024


class ByteChannel(Protocol):
    """What a link runs over: the stdin of a runner."""

    @property
    def congested(self) -> bool: ...
    async def writable(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Receiver(Protocol):
    """Who gets what a channel brings."""

    def feed(self, data: bytes) -> None:
        """Bytes of stdout."""

    def feed_stderr(self, data: bytes) -> None:
        """Bytes of stderr."""

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        """The channel is closed; called once."""


class Backlog:
    """The part of a channel that knows whether more is unsent than should be.

    pause_writing and resume_writing are for its transport to call (asyncio, "Flow control
    callbacks"), and resume_writing for its end.
    """

    def __init__(self) -> None:
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def congested(self) -> bool:
        """More is unsent than should be; wait for writable() before writing more of a prompt."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Returns when the backlog has gone, or the channel."""
        await self._writable.wait()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
