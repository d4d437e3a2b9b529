"""The listener and its connections: start, how many at once, drain, abort.

It owns a task per connection, so that after `drain` neither a task nor a socket is left behind.

Knows no request: connection.py does the talking. Started, drained and aborted by serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from ..config import Config
from ..values import ListenAddress
from . import listeners
from .bodies import BodyMemory
from .connection import Connection, RenderError
from .connection_limits import ConnectionLimits
from .descriptors import DescriptorWatch
from .exchange import Handler
from .guard import Guard
from .listeners import Listener
from .outgoing import Outbox
from .wire import Wire

logger = logging.getLogger("llmrelay.http")

# New connections in the kernel's queue: a burst that comes while the loop is busy.
BACKLOG: Final = 1024
# So many of them asyncio accepts in a turn, so that others have theirs in between; without any
# descriptor left it tries as often for nothing. uvloop takes all.
ACCEPTED_PER_TURN: Final = 64

# How long a front-end that hands its address over to another goes on taking what the kernel has
# given it already, and waits for a request on a connection that is idle: its client may be sending
# one now. Longer than a handshake takes over the longest way.
HANDOVER_S: Final = 1.0


class Server:
    """An HTTP/1.1 server on config.listen.

    Args:
        config: the limits, and where to listen.
        handler: answers one exchange; a RelayError that it raises becomes the answer.
        render_error: how an error looks to its client; the request is None if it was unreadable.
        handed_in: sockets that another process has bound; they are closed in the end.
        guard: who may ask; else it asks for no token.

    Attributes:
        encryption: the TLS of TCP connections from the next one on; None if they are plain.
    """

    def __init__(
        self,
        config: Config,
        handler: Handler,
        render_error: RenderError,
        handed_in: Sequence[Listener] = (),
        guard: Guard | None = None,
    ) -> None:
        self.encryption: ssl.SSLContext | None = None
        self._config = config
        self._handler = handler
        self._render_error = render_error
        self._handed_in = handed_in
        self._guard = guard or Guard(config)
        self._listeners: list[Listener] = []
        self._accepting: dict[Listener, asyncio.Server] = {}
        self._draining = False
        self._aborted = asyncio.Event()
        self._idle_grace_s = 0.0
        self._limits = ConnectionLimits(config)
        self._memory = BodyMemory(config.body_memory_bytes)
        self._outbox = Outbox()
        self._descriptors = DescriptorWatch(asyncio.get_running_loop())
        self._connections: dict[asyncio.Task[None], Connection] = {}

    def bind(self) -> None:
        """Take the addresses; clients are refused until `start`.

        Raises:
            CannotListen: with what to do about it.
        """
        config = self._config
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_listeners)
            self._listeners += self._handed_in
            self._listeners += listeners.bind(
                config.listen, reuse_port=config.reuse_port, socket_mode=config.socket_mode
            )
            undo.pop_all()

    async def start(self) -> None:
        """Take connections from now on.

        Raises:
            CannotListen: with what to do about it.
        """
        if not self._listeners:
            self.bind()
        self._descriptors.install()
        for listener in self._listeners:
            try:
                self._accepting[listener] = await self._accept(listener)
                listener.publish()
            except OSError as error:
                self._close_listeners()
                raise listeners.cannot_listen(listener.address, error) from error

    async def _accept(self, listener: Listener) -> asyncio.Server:
        connected = functools.partial(self._connected, listener)
        # Two may have bound it, and only one can listen; uvloop says nothing of that.
        listener.sock.listen(BACKLOG)
        # asyncio closes the socket that it is given. Ours stays open beside it, to be asked.
        sock = listener.sock.dup()
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            accepting = await start(connected, sock=sock, backlog=ACCEPTED_PER_TURN)
            undo.pop_all()
        listener.sock.listen(BACKLOG)  # the same socket, which listens already
        return accepting

    def give_back(self, *, succeeded: bool) -> None:
        """The supervisor that has lent us sockets keeps them no longer.

        Args:
            succeeded: another front-end has their addresses and gets their new connections.
        """
        for listener in self._listeners:
            if listener.succeeded is not None:
                listener.handed_in = False
                listener.succeeded = succeeded

    def _close_listeners(self) -> None:
        """Take no more connections; a second time it does nothing."""
        for accepting in self._accepting.values():
            accepting.close()
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    @property
    def listening(self) -> list[Listener]:
        """The sockets that are bound, with the ports that the kernel chose; empty in the end."""
        return self._listeners

    @property
    def address(self) -> ListenAddress:
        """The first TCP address of those."""
        addresses = (listener.address for listener in self._listeners)
        return next(each for each in addresses if isinstance(each, ListenAddress))

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, let running exchanges end, then close what is left.

        Idle connections close at once; those in an exchange after it, or after `timeout_s` seconds.
        Returns when all is closed. A second call, or `abort`, ends the waiting at once.
        """
        if not self._accepting:
            self._close_listeners()
            return
        if self._draining:
            self.abort()
        self._draining = True
        self._limits.open_all()
        begun_s = asyncio.get_running_loop().time()
        await self._hand_over(timeout_s)
        self._close_listeners()
        for connection in self._connections.values():
            connection.drain(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begun_s + timeout_s):
                await self._all_ended()
        self.abort()
        await self._all_ended()
        for accepting in self._accepting.values():
            await accepting.wait_closed()

    async def _hand_over(self, timeout_s: float) -> None:
        """If another front-end has our addresses too, serve what is still coming to us alone.

        A connection that is closed while its client sends a request is a request that failed. So
        each of ours may bring one more, whose answer says that it is the last.
        """
        successors = [each for each in self._listeners if each.has_successor()]
        if not successors or self._aborted.is_set():
            return
        self._idle_grace_s = HANDOVER_S
        for listener in successors:
            listener.steer_to_successor()
            if listener.handed_in:  # what comes now waits in the kernel's queue
                self._accepting[listener].close()
        for connection in self._connections.values():
            connection.drain(self._idle_grace_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(HANDOVER_S, timeout_s)):
                await self._aborted.wait()

    def abort(self) -> None:
        """Take no more connections and cut all that there are; `drain` waits for their end."""
        self._draining = True
        self._aborted.set()
        self._close_listeners()
        for task in self._connections:
            task.cancel()

    async def _all_ended(self) -> None:
        # asyncio may be about to tell of one that it has taken before.
        while self._connections:
            await asyncio.wait(set(self._connections))

    def _connected(
        self, listener: Listener, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Not a coroutine function: asyncio would make a task of it that nobody owns."""
        wire = Wire()
        wire.take_over(writer)
        encryption = self.encryption if isinstance(listener.address, ListenAddress) else None
        if self._aborted.is_set():
            wire.transport.abort()
            return
        self._descriptors.opened(wire.transport.get_extra_info("socket").fileno())
        connection = Connection(
            wire,
            self._config,
            self._handler,
            self._render_error,
            self._guard,
            self._limits,
            self._memory,
            self._outbox,
            loopback=listener.loopback,
            encryption=encryption,
        )
        if self._draining:
            connection.drain(self._idle_grace_s)
        task = asyncio.get_running_loop().create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        if task.cancelled():
            connection.abort()  # it may have been before its first step
        elif (error := task.exception()) is not None:
            logger.error("A connection failed.", exc_info=error)
