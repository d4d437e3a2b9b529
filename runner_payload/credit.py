"""Credit: what may still be sent on a call, and when to hand some back.

Shared by both sides and sans-IO, as protocol.py, whose CREDIT frames carry it.
"""

from __future__ import annotations

from .protocol import RemoteProtocolError

MAX_CREDIT = 2**31 - 1
# How many times its size a window may have in the end. A window lets through so much per round trip
# and no more: 256 KiB are 6 MB/s over 40 ms, and four of them 25.
GROWTH = 4


class SendWindow:
    """What may still be sent on a call, in bytes."""

    __slots__ = ("available",)

    def __init__(self, window_bytes: int) -> None:
        self.available = window_bytes

    def spend(self, amount: int) -> None:
        self.available -= amount

    def grant(self, amount: int) -> None:
        """Credit came back.

        Raises:
            RemoteProtocolError: more than any receiver can mean.
        """
        if self.available + amount > MAX_CREDIT:
            raise RemoteProtocolError("more credit than a window can hold")
        self.available += amount


class ReceiveWindow:
    """What the peer may still send on a call, and when to hand credit back.

    It grows where it is what bytes wait for; a reader that does not keep up never gets that far.
    """

    __slots__ = ("_due_bytes", "_most_bytes", "_owed", "_size_bytes")

    def __init__(self, window_bytes: int) -> None:
        # What came and was not handed back; the rest of the window is the peer's.
        self._owed = 0
        self._size_bytes = window_bytes
        self._most_bytes = GROWTH * window_bytes
        self._due_bytes = _due_bytes(window_bytes)

    def receive(self, amount: int) -> bool:
        """Counts what came; true when it is time to hand credit back.

        Raises:
            RemoteProtocolError: the peer sent more than its credit.
        """
        owed = self._owed = self._owed + amount
        if owed < self._due_bytes:
            return False
        if owed > self._size_bytes:
            raise RemoteProtocolError("more bytes than the call's credit")
        return True

    def take_credit(self, *, grow: bool = False) -> int:
        """What to hand back now that the bytes have gone on; the peer may send as much again.

        Args:
            grow: they went on faster than they come: twice as many may be under way from now on.
        """
        owed, self._owed = self._owed, 0
        if grow:
            more = min(self._size_bytes, self._most_bytes - self._size_bytes)
            self._size_bytes += more
            self._due_bytes = _due_bytes(self._size_bytes)
            owed += more
        return owed


def _due_bytes(window_bytes: int) -> int:
    """Half a window: the sender never runs dry, and CREDIT frames stay rare."""
    return max(1, window_bytes // 2)
