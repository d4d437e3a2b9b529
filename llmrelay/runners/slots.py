"""How many runners are being started at once.

A login takes a key exchange, and a start some CPU on the host: of a hundred at once the first would
be ready when the last one is. So few begin until the first is ready, and more after that. A host
that does not answer costs nothing while it is waited for: its place is soon another's, so that dead
hosts delay none. Knows nothing of runners.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

# Until the first is ready.
FIRST = 4
# How long a place is held: for a login on a host that is near, and for a start on one that is well.
LOGIN_S = 0.25
START_S = 5.0


class Slots:
    """Places for `limit` logins and as many starts at once."""

    def __init__(self, limit: int) -> None:
        first = min(limit, FIRST)
        self._more = limit - first
        self._logins = asyncio.Semaphore(first)
        self._starts = asyncio.Semaphore(first)

    def login(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Waits for a place to log in, and holds it until the block ends or it has lapsed."""
        return _held(self._logins, LOGIN_S)

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """As login(), for a start; the first that goes well lets all the others begin."""
        async with _held(self._starts, START_S):
            yield
        while self._more:
            self._more -= 1
            self._logins.release()
            self._starts.release()


@contextlib.asynccontextmanager
async def _held(places: asyncio.Semaphore, lapse_s: float) -> AsyncIterator[None]:
    await places.acquire()
    with contextlib.ExitStack() as stack:
        stack.callback(places.release)
        asyncio.get_running_loop().call_later(lapse_s, stack.close)
        yield
