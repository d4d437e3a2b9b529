"""stdin and stdout, taken away from everybody else and turned into a frame channel.

claim() runs before any third-party import: from then on a stray print goes to /dev/null and cannot
corrupt a frame. Stdio moves bytes between the claimed descriptors and the event loop; it knows
no frames and no calls. All that is written in one loop turn leaves in one write, and while much is
written, all of one millisecond: so a busy runner fills SSH packets instead of sending one delta
each, and while few deltas come none of them waits.

asyncio's own pipe transports are not used: sshd may give us one socket for both directions, and
connect_write_pipe takes a readable socket for one that its peer has closed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

# A pipe holds as much; a larger buffer is mapped and unmapped by malloc at every read.
_READ_BYTES = 64 * 1024
# Above this much unsent output calls stop reading upstream until it has gone.
HIGH_WATER_BYTES = 1024 * 1024
# As many buffers as Linux and BSD write at once (writev(2), IOV_MAX).
_MOST_BUFFERS = 1024
# How long what is written may wait for more, as network cards wait with their interrupts. A packet
# costs sshd and the front-end as much CPU time as ten deltas in it.
PACE_S = 0.001
# So many writes per millisecond are worth waiting for, counted over some milliseconds.
_MANY = 2.0
_COUNTED_S = 0.01


def claim() -> tuple[int, int]:
    """New descriptors for the old stdin and stdout; the old numbers lead to /dev/null."""
    claimed = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return claimed


class Stdio:
    """Both directions of the channel, non-blocking.

    Args:
        descriptors: what claim() returned.
        on_data: called with what was read.
        on_lost: called once, when stdin ended or stdout broke: the front-end is gone.
    """

    def __init__(
        self,
        descriptors: tuple[int, int],
        on_data: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._in, self._out = descriptors
        self._on_data = on_data
        self._on_lost = on_lost
        self._lost = False
        self._unsent: list[bytes | memoryview] = []
        self._unsent_bytes = 0
        self._flush_scheduled = False
        self._pace = Pace()
        self._writable = asyncio.Event()
        self._writable.set()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._loop.add_reader(self._in, self._read)

    @property
    def congested(self) -> bool:
        """More is unsent than the channel should hold; wait for writable()."""
        return self._unsent_bytes > HIGH_WATER_BYTES

    async def writable(self) -> None:
        """Returns when the channel is not congested any more, or lost."""
        while self.congested:
            self._writable.clear()
            await self._writable.wait()

    async def flushed(self) -> None:
        """Returns when all that was written has left, or the channel is lost."""
        while self._unsent_bytes:
            self._writable.clear()
            await self._writable.wait()

    def write(self, data: bytes) -> bool:
        """Queues `data` for the next write; whether there is room for more."""
        if self._lost:
            return True
        self._unsent.append(data)
        unsent_bytes = self._unsent_bytes = self._unsent_bytes + len(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return unsent_bytes <= HIGH_WATER_BYTES

    def close(self) -> None:
        """Sends what can be sent at once and lets the descriptors go."""
        if not self._lost:
            self._flush()
        self._lose()
        # Whoever shares the open files (a wrapper of the login) expects them as they were.
        os.set_blocking(self._in, True)
        os.set_blocking(self._out, True)

    def _read(self) -> None:
        try:
            data = os.read(self._in, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self._flush()
            self._lose()

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._lost:
            return
        writes = len(self._unsent)
        try:
            sent = os.writev(self._out, self._unsent[:_MOST_BUFFERS]) if self._unsent else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        self._unsent_bytes -= sent
        if self._unsent_bytes:
            self._drop(sent)
            # Further writes only join the backlog: the descriptor says when it takes more.
            self._flush_scheduled = True
            self._loop.add_writer(self._out, self._resume)
        else:
            self._unsent.clear()
        if not self.congested:
            self._writable.set()
        rest_s = self._pace.rest_s(writes, time.monotonic())
        if rest_s:
            time.sleep(rest_s)

    def _drop(self, sent: int) -> None:
        """Forgets what has gone, and copies nothing of what has not."""
        whole = 0
        while sent >= len(self._unsent[whole]):
            sent -= len(self._unsent[whole])
            whole += 1
        del self._unsent[:whole]
        if sent:
            self._unsent[0] = memoryview(self._unsent[0])[sent:]

    def _resume(self) -> None:
        self._loop.remove_writer(self._out)
        self._flush()

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        self._loop.remove_reader(self._in)
        self._loop.remove_writer(self._out)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._writable.set()
        self._on_lost()


class Pace:
    """Lets work gather while there is much of it, as network cards do with their interrupts.

    A loop that wakes for every delta spends more on waking, and on a packet for each, than on the
    deltas. So while they come thick and fast, the loop rests after a write until PACE_S after the
    one before it: what comes meanwhile is read and written in one turn. The whole loop sleeps, as a
    timer of its own would not keep it from waking. While few come nobody waits.

    Attributes:
        dense: much is written.
    """

    def __init__(self) -> None:
        self.dense = False
        self._written = 0
        self._counted_from_s = 0.0
        self._last_s = 0.0

    def rest_s(self, writes: int, now_s: float) -> float:
        """How long to rest, now that `writes` of one turn have left."""
        self._written += writes
        counted_s = now_s - self._counted_from_s
        if counted_s >= _COUNTED_S:
            self.dense = self._written >= _MANY * counted_s / PACE_S
            self._written, self._counted_from_s = 0, now_s
        rest_s = max(0.0, self._last_s + PACE_S - now_s) if self.dense else 0.0
        self._last_s = now_s + rest_s
        return rest_s
