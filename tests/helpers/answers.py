"""Answers as they come over a raw connection: read piece by piece, or whole and checked."""

from __future__ import annotations

import asyncio
import socket


def read_until(connection: socket.socket, text: bytes) -> bytes:
    """What has come, once `text` is in it; the connection may not end before."""
    data = b""
    while text not in data:
        piece = connection.recv(65536)
        assert piece, f"the connection ended before {text!r}: {data!r}"
        data += piece
    return data


async def read_chunked(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a chunked 200 that has to end whole, its trailer section read too."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readuntil(b"\r\n\r\n") == b"X-Finish-Reason: stop\r\n\r\n"
    return head, body
