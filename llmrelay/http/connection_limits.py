"""How many may connect: at once, from one address, and who goes or waits when it is full.

A connection that is idle (no request has begun to come) costs its client nothing to lose, as every
HTTP client connects again. So at the limit the one that has been idle longest makes room, and no
number of idle connections keeps a request from being answered. One in an exchange, or with half a
request sent, is never ended for another: then the new one waits for a while, unread, first come
first served, and is refused if no other has ended or become idle by then.

Knows no transport and no HTTP. Held by server.py; connection.py enters, says when it is idle, and
leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, NoReturn, Protocol

from ..config import Config
from ..errors import TooManyConnections
from ..values import UNIX
from .forwarded import Origin, is_trusted

# Where --max-connections-per-address is not given: a tenth of all, so that it takes ten addresses
# to fill the server; an office behind one address stays far below it.
DEFAULT_PER_ADDRESS: Final = 1_000

# Telling that there is no room takes a socket for a while. Still more are closed at once.
MAX_TURNED_AWAY: Final = 128

RETRY_AFTER_S: Final = 1
# New connections that the loop may accept at once before the first of them is looked at.
BURST: Final = 1024

# So long a connection is not idle yet: its request may be on its way, or its next one.
IDLE_AFTER_S: Final = 0.5


_UNCOUNTED: Final = contextlib.nullcontext()

_IPV6_LOOPBACK: Final = bytes(15) + b"\x01"


class Guest(Protocol):
    """A connection, as far as it is known here."""

    def drain(self, idle_grace_s: float) -> None:
        """Close if no request begins to come within `idle_grace_s`; else after its answer."""


class PerAddress:
    """How many of something each client address has now; an IPv6 address stands for its /64.

    A host is given a /64 at least (RFC 6177), and takes as many addresses from it as it likes.

    Args:
        limit: for each address.
        count_loopback: whether this machine's own addresses have the limit too.
    """

    def __init__(self, limit: int, *, count_loopback: bool) -> None:
        self.limit = limit
        self._count_loopback = count_loopback
        self._counts: dict[bytes, int] = {}

    def take(self, origin: Origin) -> bool:
        """Count one more; False, and nothing is counted, if the address is at its limit.

        Whatever has no IP address, as a Unix socket's peer, has no limit.
        """
        key = self._key(origin)
        if key is None:
            return True
        count = self._counts.get(key, 0)
        if count >= self.limit:
            return False
        self._counts[key] = count + 1
        return True

    def release(self, origin: Origin) -> None:
        """Count one less: what `take` has counted is over."""
        key = self._key(origin)
        if key is None:
            return
        self._counts[key] -= 1
        if not self._counts[key]:  # only who is here takes memory
            del self._counts[key]

    def _key(self, origin: Origin) -> bytes | None:
        if origin is None or origin == UNIX:
            return None
        packed = origin.packed
        # As is_loopback says, which parses networks for it.
        loopback = packed[0] == 127 if len(packed) == 4 else packed == _IPV6_LOOPBACK
        return None if loopback and not self._count_loopback else packed[:8]


def descriptors(config: Config) -> int:
    """How many open files the connections that `config` allows can take at the most."""
    return config.max_connections + config.queue_length + MAX_TURNED_AWAY + BURST


def fitted(config: Config, allowed: int) -> Config:
    """`config`, or one with so many connections that they do with `allowed` open files.

    Where the limit is small altogether, half of it is for connections inside and an eighth for
    those that wait, so that there are some for a burst.
    """
    missing = descriptors(config) - allowed
    if missing <= 0:
        return config
    return dataclasses.replace(
        config,
        max_connections=max(
            1, min(config.max_connections, allowed // 2), config.max_connections - missing
        ),
        queue_length=min(config.queue_length, allowed // 8),
    )


class ConnectionLimits:
    """The connections that are inside, those of them that are idle, and those that wait outside.

    Attributes:
        capacity: connections that may be open in all: inside, waiting, or reading why not.
    """

    def __init__(self, config: Config) -> None:
        self._trusted = config.trusted_proxies
        self._max_connections = config.max_connections
        self._max_waiting = config.queue_length
        self._wait_s = config.queue_timeout_s
        limit = config.max_connections_per_address
        self._per_address = PerAddress(
            DEFAULT_PER_ADDRESS if limit is None else limit, count_loopback=limit is not None
        )
        self._too_many_of_it = (
            f"Your address has {self._per_address.limit} connections or requests open here;"
            " close one, or try again in a second."
        )
        self._origins: dict[Guest, Origin] = {}
        self._inside: set[Guest] = set()
        # Since when, by the loop's clock; the longest first.
        self._idle: OrderedDict[Guest, float] = OrderedDict()
        self._waiting: OrderedDict[Guest, asyncio.Future[None]] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._next_room: asyncio.TimerHandle | None = None
        self._turned_away: set[Guest] = set()
        self.capacity = self._max_connections + self._max_waiting + MAX_TURNED_AWAY

    @property
    def crowded(self) -> bool:
        """Whether others wait for room: what becomes idle now has to go."""
        return bool(self._waiting)

    async def enter(self, guest: Guest, origin: Origin) -> None:
        """Let a new connection in, at once or after a wait; it counts as idle. `leave` ends it.

        Args:
            origin: whose it is. A trusted proxy's are not counted by address: the exchanges of
                its clients are (`exchange`).

        Raises:
            TooManyConnections: there are too many of its address; or none made room within
                queue_timeout_s; or queue_length connections wait for that already.
            ConnectionAbortedError: the same, and MAX_TURNED_AWAY others are being told so.
        """
        if not is_trusted(origin, self._trusted):
            if not self._per_address.take(origin):
                self._turn_away(guest, self._too_many_of_it)
            self._origins[guest] = origin
        if not self._let_in(guest, IDLE_AFTER_S) and not await self._let_in_later(guest):
            self._turn_away(guest, "Too many connections are open here; try again in a second.")

    def exchange(self, client: Origin, via: Origin) -> AbstractContextManager[None]:
        """A context that counts an exchange if its client is behind a trusted proxy.

        Raises:
            TooManyConnections: on entry: its address has too many.
        """
        if client is via or client == via:  # its connection is counted, or it is the proxy's own
            return _UNCOUNTED
        return self._counted(client)

    @contextlib.contextmanager
    def _counted(self, client: Origin) -> Iterator[None]:
        if not self._per_address.take(client):
            raise TooManyConnections(self._too_many_of_it, retry_after_s=RETRY_AFTER_S)
        try:
            yield
        finally:
            self._per_address.release(client)

    def idle(self, guest: Guest) -> None:
        """No request has begun to come: from now on `guest` may have to make room."""
        if guest in self._inside:
            self._idle[guest] = self._loop.time()
            self._hand_over()

    def busy(self, guest: Guest) -> None:
        """A request has begun to come, or none will."""
        self._idle.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """Its connection is over. Does nothing for one that had to make room."""
        self._turned_away.discard(guest)
        self._remove(guest)
        self._hand_over()

    def open_all(self) -> None:
        """Let in who waits, whatever the limit: no more will come."""
        self._max_connections = self.capacity
        self._hand_over()

    def _turn_away(self, guest: Guest, reason: str) -> NoReturn:
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            raise ConnectionAbortedError("too many are being turned away")
        self._turned_away.add(guest)
        raise TooManyConnections(reason, retry_after_s=RETRY_AFTER_S)

    def _let_in(self, guest: Guest, idle_after_s: float) -> bool:
        if len(self._inside) >= self._max_connections:
            longest, since_s = next(iter(self._idle.items()), (None, 0.0))
            if longest is None or self._loop.time() < since_s + idle_after_s:
                return False
            self._remove(longest)
            longest.drain(0)
        self._inside.add(guest)
        self._idle[guest] = self._loop.time()
        return True

    async def _let_in_later(self, guest: Guest) -> bool:
        if len(self._waiting) >= self._max_waiting:
            # Sooner than to refuse one, one is ended whose request may be on its way.
            if not self._waiting:
                return self._let_in(guest, 0)
            if not self._let_first_in(0):
                return False
        self._waiting[guest] = room = self._loop.create_future()
        self._hand_over()
        try:
            async with asyncio.timeout(self._wait_s):
                await room
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(guest, None)
        return True

    def _let_first_in(self, idle_after_s: float) -> bool:
        guest, room = next(iter(self._waiting.items()))
        if not room.done():
            if not self._let_in(guest, idle_after_s):
                return False
            room.set_result(None)
        del self._waiting[guest]
        return True

    def _hand_over(self) -> None:
        """What room there is goes to who has waited longest."""
        if self._next_room is not None:
            self._next_room.cancel()
            self._next_room = None
        while self._waiting and self._let_first_in(IDLE_AFTER_S):
            pass
        if self._waiting and self._idle:
            idle_since_s = next(iter(self._idle.values()))
            self._next_room = self._loop.call_at(idle_since_s + IDLE_AFTER_S, self._hand_over)

    def _remove(self, guest: Guest) -> None:
        self._idle.pop(guest, None)
        self._inside.discard(guest)
        self._per_address.release(self._origins.pop(guest, None))
