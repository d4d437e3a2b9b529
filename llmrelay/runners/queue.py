"""Who waits for a place, and in which order they get one.

Clients take turns: one that sends a thousand calls holds up another by one turn, not by a thousand.
Within a client it is first come, first served. Pure: no clock, and no idea of what waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Places that came free, for the rate at which they do.
_REMEMBERED = 64
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0


class FairQueue(Generic[T]):
    """Those who wait, by client. How many there may be is for its user to say."""

    def __init__(self) -> None:
        # In the order of their turns.
        self._clients: dict[str, deque[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, client: str, waiter: T, *, front: bool = False) -> None:
        """Somebody waits, behind the client's others or in front of them."""
        line = self._clients.setdefault(client, deque())
        if front:
            line.appendleft(waiter)
        else:
            line.append(waiter)
        self._length += 1

    def remove(self, client: str, waiter: T) -> None:
        """Somebody waits no longer."""
        self._clients[client].remove(waiter)
        self._forget(client)

    def pop(self, suits: Callable[[T], bool]) -> T | None:
        """The next one, of those whom the place suits; the client's next turn comes last."""
        for client, line in self._clients.items():
            for waiter in line:
                if suits(waiter):
                    line.remove(waiter)
                    self._clients[client] = self._clients.pop(client)
                    self._forget(client)
                    return waiter
        return None

    def _forget(self, client: str) -> None:
        self._length -= 1
        if not self._clients[client]:
            del self._clients[client]


class FreeRate:
    """How fast places come free, for an honest Retry-After (RFC 9110, section 10.2.3)."""

    def __init__(self) -> None:
        self._freed_at_s: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self, now_s: float) -> None:
        """A place has come free."""
        self._freed_at_s.append(now_s)

    def retry_after_s(self, waiting: int, now_s: float) -> float:
        """When somebody behind so many others would get a place, in seconds from now."""
        if not self._freed_at_s:
            return MAX_RETRY_S
        # As of now: that none has come for a while counts, too.
        each_s = (now_s - self._freed_at_s[0]) / len(self._freed_at_s)
        return min(max(MIN_RETRY_S, math.ceil(each_s * (waiting + 1))), MAX_RETRY_S)
