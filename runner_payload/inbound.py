"""The body of one call as it comes from the front-end: held until it is whole, or passed on.

Credit goes back when the bytes have gone on: at once where the body is held, within the limit that
the front-end itself has named; else when upstream's connection has taken them, so that a slow
upstream holds up its own client and no other. Knows no frames. Held by running.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from .credit import ReceiveWindow
from .protocol import RemoteProtocolError


class Inbound:
    """A body under way.

    Args:
        window_bytes: what the front-end may have under way.
        max_bytes: of a body that is held; None for one that is passed on.
        hand_back: gives the front-end so much credit.
    """

    __slots__ = ("_come", "_hand_back", "_held", "_max_bytes", "_window", "ended")

    def __init__(
        self, window_bytes: int, max_bytes: int | None, hand_back: Callable[[int], None]
    ) -> None:
        self.ended = False
        self._window = ReceiveWindow(window_bytes)
        self._max_bytes = max_bytes
        self._hand_back = hand_back
        self._held = bytearray()
        # Made when somebody waits: each Event takes 0.7 KiB, and most bodies have come by then.
        self._come: asyncio.Event | None = None

    def receive(self, piece: bytes) -> None:
        """A piece of it has come.

        Raises:
            RemoteProtocolError: more than the limits that the front-end has named itself.
        """
        if self.ended:
            raise RemoteProtocolError("DATA after END")
        if self._max_bytes is not None and len(self._held) + len(piece) > self._max_bytes:
            raise RemoteProtocolError("a body over the limit")
        self._held += piece
        self._wake()
        if self._window.receive(len(piece)) and self._max_bytes is not None:
            self._hand_back(self._window.take_credit())

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            RemoteProtocolError: that has been said before.
        """
        if self.ended:
            raise RemoteProtocolError("a second END")
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._come is not None:
            self._come.set()

    def take(self) -> bytes:
        """All that is held, which is not held any more."""
        body = bytes(self._held)
        self._held.clear()
        return body

    async def pieces(self) -> AsyncIterator[bytes]:
        """What comes, up to the end; each piece is asked for when the one before has gone on."""
        self._come = asyncio.Event()
        while True:
            waited = not self._held
            while not self._held and not self.ended:
                self._come.clear()
                await self._come.wait()
            if not self._held:
                return
            owed = self._window.take_credit(grow=waited)
            yield self.take()
            if owed:
                self._hand_back(owed)
