"""Credit: what may still be sent on a call, and when to hand some back.

Shared by both sides and sans-IO, as protocol.py, whose CREDIT frames carry it.
"""

from __future__ import annotations

from .protocol import RemoteProtocolError

MAX_CREDIT = 2**31 - 1


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
    """What the peer may still send on a call, and when to hand credit back."""

    __slots__ = ("_available", "_owed", "_threshold")

    def __init__(self, window_bytes: int) -> None:
        self._available = window_bytes
        self._owed = 0
        # Half a window: the sender never runs dry, and CREDIT frames stay rare.
        self._threshold = max(1, window_bytes // 2)

    def receive(self, amount: int) -> bool:
        """Counts what came; true when it is time to hand credit back.

        Raises:
            RemoteProtocolError: the peer sent more than its credit.
        """
        if amount > self._available:
            raise RemoteProtocolError("more bytes than the call's credit")
        self._available -= amount
        self._owed += amount
        return self._owed >= self._threshold

    def take_credit(self) -> int:
        """What to hand back now that the bytes have gone on; the peer may send as much again."""
        owed, self._owed = self._owed, 0
        self._available += owed
        return owed
