"""The listener and its connections: start, how many at once, drain, abort.

It owns a task per connection, so that after `drain` neither a task nor a socket is left behind.

Knows no request: connection.py does the talking. Started, drained and aborted by serve.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Final

from ..config import Config
from ..errors import CannotListen, QueueFull
from ..values import ListenAddress
from .connection import Connection, RenderError
from .exchange import Handler
from .guard import is_loopback_address

logger = logging.getLogger("llmrelay.http")

# Connections past the limit are told so, but telling too costs a socket for a while. Still more are
# closed at once.
MAX_TURNED_AWAY: Final = 128
# New connections in the kernel's queue: a burst that comes while the loop is busy.
BACKLOG: Final = 1024

_REASONS: Final = {
    errno.EADDRINUSE: "it is in use: stop the process that holds it, or choose another port",
    errno.EACCES: "this user may not: choose a port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one that it has, or 127.0.0.1",
    errno.EAFNOSUPPORT: "this machine has no such address: choose one that it has, or 127.0.0.1",
}


class Server:
    """An HTTP/1.1 server on config.listen.

    Args:
        config: the limits, and where to listen.
        handler: answers one exchange; a RelayError that it raises becomes the answer.
        render_error: how an error looks to its client; the request is None if it was unreadable.
    """

    def __init__(self, config: Config, handler: Handler, render_error: RenderError) -> None:
        self._config = config
        self._handler = handler
        self._render_error = render_error
        self._listener: asyncio.Server | None = None
        self._loopback = False
        self._draining = False
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._turned_away: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take connections from now on.

        Raises:
            CannotListen: with what to do about it.
        """
        listen = self._config.listen
        try:
            listener = await asyncio.start_server(
                self._connected, listen.host, listen.port, backlog=BACKLOG, start_serving=False
            )
        except OSError as error:
            # asyncio of Python 3.13 drops EADDRNOTAVAIL's number when no address could be bound.
            code = error.errno or errno.EADDRNOTAVAIL
            reason = _REASONS.get(code, error.strerror or str(error))
            if isinstance(error, socket.gaierror):
                reason = "the name does not resolve: choose an address of this machine"
            raise CannotListen(f"Cannot listen on {listen}: {reason} (--listen).") from error
        self._listener = listener
        self._loopback = all(
            is_loopback_address(sock.getsockname()[0]) for sock in listener.sockets
        )
        await listener.start_serving()

    @property
    def address(self) -> ListenAddress:
        """Where clients connect, with the port that the kernel chose; while it is listening."""
        assert self._listener is not None, "start() first"
        host, port, *_ = self._listener.sockets[0].getsockname()
        return ListenAddress(host, port)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, let running exchanges end, then close what is left.

        Idle connections close at once; those in an exchange after it, or after `timeout_s` seconds.
        Returns when all is closed. A second call, or `abort`, ends the waiting at once.
        """
        if self._listener is None:
            return
        if self._draining:
            self.abort()
        self._draining = True
        self._listener.close()
        for connection in self._connections.values():
            connection.drain()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=timeout_s)
        self.abort()
        if tasks := self._tasks():
            await asyncio.wait(tasks)
        await self._listener.wait_closed()

    def abort(self) -> None:
        """Take no more connections and cut all that there are; `drain` waits for their end."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks():
            task.cancel()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._turned_away.union(self._connections)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Not a coroutine function: asyncio would make a task of it that nobody owns."""
        full = len(self._connections) >= self._config.max_connections
        if self._draining or (full and len(self._turned_away) >= MAX_TURNED_AWAY):
            writer.transport.abort()
            return
        connection = Connection(
            reader,
            writer,
            self._config,
            self._handler,
            self._render_error,
            loopback=self._loopback,
        )
        loop = asyncio.get_running_loop()
        if full:
            error = QueueFull(
                "Too many connections are open here; try again in a second.", retry_after_s=1
            )
            task = loop.create_task(connection.turn_away(error))
            self._turned_away.add(task)
        else:
            task = loop.create_task(connection.run())
            self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._turned_away.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A connection failed.", exc_info=error)
