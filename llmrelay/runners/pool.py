"""All runners: which one takes a call, and who waits while they are full.

For now there is one runner; the queue in front of it is first come, first served, bounded in length
and in time. Knows no HTTP: relay.py opens calls here and gets a RelayError where it cannot.
"""

from __future__ import annotations

import asyncio
from collections import deque

from runner_payload.protocol import Call

from ..config import Config
from ..errors import QueueFull
from .call import LinkCall, Sink
from .runner import Runner


class Pool:
    """Places on runners, and the queue for them."""

    def __init__(self, runner: Runner, config: Config) -> None:
        self.runner = runner
        self.taken = 0
        self._config = config
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """Calls that wait for a place."""
        return len(self._queue)

    async def open(self, call: Call, sink: Sink) -> LinkCall:
        """Opens `call` on a runner, after a wait in the queue if all are full.

        Raises:
            QueueFull: the queue is full, or the wait in it was too long.
            NoRunner: no runner is ready.
        """
        await self._take_place()
        try:
            return self.runner.open(call, sink, self._free_place)
        except BaseException:
            self._free_place()
            raise

    async def _take_place(self) -> None:
        if self.taken < self.runner.max_calls:
            self.taken += 1
            return
        if self.queued >= self._config.queue_length:
            raise QueueFull(
                "All runners are full, and so is the queue. Try again later.", retry_after_s=5
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(self._config.queue_timeout_s):
                await place
        except TimeoutError:
            self._leave(place)
            raise QueueFull(
                f"All runners are full; no place came free within"
                f" {self._config.queue_timeout_s:g} s. Try again later.",
                retry_after_s=5,
            ) from None
        except asyncio.CancelledError:
            self._leave(place)
            raise

    def _leave(self, place: asyncio.Future[None]) -> None:
        """Whoever waited for `place` is gone; should it have come this moment, it is passed on."""
        if place.done() and not place.cancelled():
            self._free_place()
        elif place in self._queue:
            self._queue.remove(place)

    def _free_place(self) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.taken -= 1
