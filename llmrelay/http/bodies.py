"""The memory that request bodies take, those of all connections together.

Each body has a limit of its own, but as many may come at once as connections may be open: 10,000 of
8 MiB are 80 GB. So what has come is counted, and past the limit a body is refused, however small
it is: a wait would hold what others wait for. Knows no connection. Held by server.py; incoming.py
takes as the bytes come, and gives back when the exchange is over.
"""

from __future__ import annotations

from ..errors import BodiesTooLarge

RETRY_AFTER_S = 1


class BodyMemory:
    """Bytes of bodies that may be in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.taken_bytes = 0

    def take(self, size: int) -> None:
        """Count `size` bytes that have come.

        Raises:
            BodiesTooLarge: they would be too many; they are not counted.
        """
        if self.taken_bytes + size > self._limit_bytes:
            raise BodiesTooLarge(
                "The prompts that are here at the moment take all memory that there is for them;"
                " try again in a second.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.taken_bytes += size

    def give_back(self, size: int) -> None:
        """Their exchange is over."""
        self.taken_bytes -= size
