"""Notices that a client has gone while its handler runs, and cancels the handler.

A client that resets the connection shows by itself. The end of a client's bytes does not tell one
that left from one that only finished sending; a write does, because a closed socket answers it with
RST. So a client that has ended is sent what it skips (Exchange.probe), at growing intervals.

No task of its own: the loop's callbacks call it, and it cancels the connection's task. Knows no
bytes. Used by connection.py; incoming.py says how the client fares.
"""

from __future__ import annotations

import asyncio
from itertools import chain, repeat
from typing import Final, Self

from .exchange import Exchange
from .incoming import Incoming

# Pauses before each time that a client that has ended is asked whether it still reads; the last one
# goes on. Twice within a second, which is when a person has let go of Ctrl-C: the first question is
# answered with RST, and the second meets the answer. Later than most answers begin, whose client
# then has no interim response to skip.
PROBE_PAUSES_S: Final = (0.35, 0.35, 1.0, 2.0, 5.0)


class ClientWatch:
    """A context to run the handler of `exchange` in; it ends early if the client goes.

    Args:
        task: the one that runs it.
    """

    __slots__ = ("_exchange", "_gone", "_incoming", "_next", "_pauses", "_task")

    def __init__(self, exchange: Exchange, incoming: Incoming, task: asyncio.Task[None]) -> None:
        self._exchange = exchange
        self._incoming = incoming
        self._task = task
        self._next: asyncio.Handle | None = None
        self._pauses = chain(PROBE_PAUSES_S, repeat(PROBE_PAUSES_S[-1]))
        self._gone = False

    def __enter__(self) -> Self:
        incoming = self._incoming
        incoming.watch = self
        if incoming.gone:
            self._next = asyncio.get_running_loop().call_soon(self.lost)
        elif incoming.blind:
            self.blind()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._incoming.watch = None
        if self._next is not None:
            self._next.cancel()
        if not self._gone:
            return False
        # Somebody else may have cancelled it as well.
        return self._task.uncancel() == 0 and kind is asyncio.CancelledError

    # What the incoming side calls.

    def blind(self) -> None:
        """Only a write can tell, and the answer's own may be long in coming."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.call_later(next(self._pauses), self._ask)

    def lost(self) -> None:
        """The client is gone."""
        if not self._gone:
            self._gone = self._exchange.client_gone = True
            self._task.cancel()

    def _ask(self) -> None:
        self._next = None
        if self._exchange.probe():
            self.blind()
