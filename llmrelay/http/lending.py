"""A supervisor's sockets, which it lends to its workers: a set for each of them.

On Linux each set has a socket of its own on every TCP address, and the kernel deals connections out
between them (steering.py); else one is shared. They stay open here while workers come and go, so
what the kernel has queued for one that has gone is its successor's.

Knows sockets, and no process. Used by ../supervisor.py.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection

from ..config import Config
from ..values import Listen
from . import listeners, steering
from .listeners import Listener


class Lender:
    """Sets of sockets for workers 1 to `config.workers`.

    Raises:
        CannotListen: an address cannot be had.
    """

    def __init__(self, config: Config) -> None:
        first = listeners.bind(
            config.listen, reuse_port=config.reuse_port, socket_mode=config.socket_mode
        )
        self._shared = config.reuse_port
        self._sets = {1: first}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for number in range(2, config.workers + 1):
                self._sets[number] = [listener.another() for listener in first]
            undo.pop_all()

    @property
    def addresses(self) -> list[Listen]:
        """Where clients connect."""
        return [listener.address for listener in self._sets[1]]

    def publish(self) -> None:
        """To be called once the first worker listens.

        Raises:
            CannotListen: a unix socket's folder has gone, or somebody else was faster.
        """
        for listener in self._sets[1]:
            # Two may bind an address at once, and then their workers' sockets would share it.
            alone = not self._shared and not _is_unix(listener)
            try:
                if alone and steering.listeners_on(listener.sock) > 1:
                    raise OSError(errno.EADDRINUSE, "in use")
                listener.publish()
            except OSError as error:
                raise listeners.cannot_listen(listener.address, error) from error

    def lend(self, number: int) -> list[Listener]:
        """A worker's set, in its process; the others are closed there."""
        own = self._sets.pop(number)
        kept = {listener.sock for listener in own}
        for each in self._sets.values():
            for listener in each:
                if listener.sock not in kept:
                    listener.sock.close()
        return [listener.lent() for listener in own]

    def deal(self, serving: Collection[int]) -> None:
        """Has the kernel give new connections to these workers."""
        for same in self._tcp():
            idle = [sock for number, sock in same.items() if number not in serving]
            if idle:
                steering.steer_away(idle, closing=False)
            else:
                steering.deal_to_all(same[1])

    def leave(self) -> bool:
        """Whether another front-end has an address as well; it gets the new connections there.

        To be called when all are to be closed.
        """
        found = [listener.has_successor() for listener in self._sets[1] if _is_unix(listener)]
        for same in self._tcp():
            ours = list({sock for sock in same.values() if listeners.listens(sock)})
            found.append(bool(ours) and steering.listeners_on(ours[0]) > len(ours))
            if found[-1]:
                steering.steer_away(ours, closing=True)
        return any(found)

    def close(self) -> None:
        """Give all up; what a worker has of it stays open there."""
        for each in self._sets.values():
            for listener in each:
                listener.close()

    def _tcp(self) -> list[dict[int, socket.socket]]:
        """For each TCP address the sockets, by number of the worker."""
        return [
            {number: each[place].sock for number, each in self._sets.items()}
            for place, first in enumerate(self._sets[1])
            if not _is_unix(first)
        ]


def _is_unix(listener: Listener) -> bool:
    return listener.sock.family == socket.AF_UNIX
