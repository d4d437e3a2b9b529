"""A server on loopback that sends exact bytes, and sees when the other side has gone.

A test takes each connection by itself (`await server.accept()`) and plays it by hand: what it
reads, when it reads no more, where it cuts. ScriptedUpstream answers by a script instead, and reads
requests as HTTP. It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
# Of sockets and readers: little enough for a test to fill.
BUFFER_BYTES = 64 * 1024


class Peer:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """A request's head, with its empty line."""
        return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, data: bytes) -> bytes:
        """Reads a request without a body and answers it; its head."""
        head = await self.head()
        self.send(data)
        return head

    def close(self) -> None:
        """As after a whole answer: what is unsent goes out first."""
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> bytes:
        """Returns when the other side has gone, with what it has sent until then."""
        data = b""
        with suppress(ConnectionError):
            while piece := await self.reader.read(1 << 16):
                data += piece
        return data


class ExactServer:
    """`async with ExactServer() as server:` accepts connections until the context ends."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = HOST, port: int = 0):
        self.peers: list[Peer] = []
        self._tls = tls
        self._address = host, port
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._address[0]}:{self.port}"

    async def accept(self) -> Peer:
        """The next connection."""
        return await self._accepted.get()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._accepted.put_nowait(peer)

    async def __aenter__(self) -> Self:
        listener = socket.create_server(self._address)
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, buffer, BUFFER_BYTES)
        self._server = await asyncio.start_server(
            self._on_connection, sock=listener, ssl=self._tls, limit=BUFFER_BYTES
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for peer in self.peers:
            if not peer.writer.is_closing():
                peer.writer.transport.abort()
        await self._server.wait_closed()
        for peer in self.peers:
            with suppress(ConnectionError, ssl.SSLError):
                await peer.writer.wait_closed()
