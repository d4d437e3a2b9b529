"""Upstream's answer to a request, by whatever client it was asked.

Knows no openai: relaying.py and chatting.py read it, and adapters have answers of their own making.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping


class Reply:
    """An answer's head, and its body as it comes.

    Attributes:
        headers: to be looked up in lower case.
        chunks: its body, as each read brings it.
        retries: how often upstream was asked in vain before.
        released: see release().
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        retries: int = 0,
    ) -> None:
        self.status = status
        self.headers = headers
        self.chunks = chunks
        self.retries = retries
        self.released = False

    def release(self) -> None:
        """The answer is whole, whatever may follow it: its connection can be used again."""
        self.released = True
