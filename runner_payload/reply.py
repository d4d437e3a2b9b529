"""Upstream's answer to a request, by whatever client it was asked, and who takes it.

Knows no openai: relaying.py and chatting.py read it, and adapters have answers of their own making.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol


class Sink(Protocol):
    """Who takes a body, piece by piece.

    Attributes:
        done: it wants no more.
    """

    done: bool

    def take(self, piece: bytes) -> bool:
        """A piece; whether another one may follow at once. May raise: then nothing follows."""

    async def ready(self) -> None:
        """Returns when another one may."""


class Destination(Protocol):
    """Where an answer goes: the call that it answers."""

    def emit(self, data: bytes) -> bool:
        """Sends a piece; whether another one may follow at once. If not, ready() says when."""

    async def ready(self) -> None:
        """Returns when another piece may follow."""


class Through:
    """A sink that sends what it takes to a destination, through something that may change it."""

    done = False

    def __init__(self, convert: Callable[[bytes], bytes], destination: Destination) -> None:
        self._convert = convert
        self._emit = destination.emit
        self.ready = destination.ready

    def take(self, piece: bytes) -> bool:
        convert, emit = self._convert, self._emit
        return emit(convert(piece))


async def send(destination: Destination, data: bytes) -> None:
    """Sends `data`, and returns when another piece may follow."""
    if not destination.emit(data):
        await destination.ready()


class Source(Protocol):
    """A body that can be poured.

    Attributes:
        over: nothing of it is still to come from upstream.
    """

    @property
    def over(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def pour(self, sink: Sink) -> None: ...

    async def aclose(self) -> None: ...


class Reply:
    """An answer's head, and its body as it comes.

    Args:
        source: where the chunks come from, if they can be poured.
        close: lets go of what is left of it.

    Attributes:
        headers: to be looked up in lower case.
        chunks: its body, as each read brings it; for those who want to await it.
        retries: how often upstream was asked in vain before.
        released: see release().
    """

    __slots__ = ("chunks", "close", "headers", "released", "retries", "source", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        retries: int = 0,
        *,
        source: Source | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.chunks = chunks
        self.source = source
        self.close = close
        self.retries = retries
        self.released = False

    async def pour(self, sink: Sink) -> None:
        """Gives `sink` the body, in the callbacks that read it if that can be."""
        if self.source is not None:
            await self.source.pour(sink)
            return
        async for chunk in self.chunks:
            if not sink.take(chunk):
                await sink.ready()
            if sink.done:
                return

    def release(self) -> None:
        """The answer is whole, whatever may follow it: its connection can be used again."""
        self.released = True
