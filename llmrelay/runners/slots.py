"""How many runners are being started at once.

Starting one takes a key exchange and some CPU, and a hundred at once would have the first one ready
when the last one is. But a host that does not answer costs nothing while it is waited for: after a
second its place is another's, so that dead hosts delay none. Knows nothing of runners.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

# A host that is well is logged in to within this, and its runner on the way.
LAPSE_S = 1.0


class Slot:
    """A place that is given back once: when it is no longer needed, or has been held for long."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places

    def release(self) -> None:
        """Gives the place back; does nothing a second time."""
        if self._places is not None:
            self._places.release()
            self._places = None


class Slots:
    """Places for `limit` starts at once."""

    def __init__(self, limit: int) -> None:
        self._places = asyncio.Semaphore(limit)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Waits for a place, and holds it until it is released, has lapsed, or the block ends."""
        await self._places.acquire()
        slot = Slot(self._places)
        lapse = asyncio.get_running_loop().call_later(LAPSE_S, slot.release)
        try:
            yield slot
        finally:
            lapse.cancel()
            slot.release()
