"""The upstream of bulk.py: takes recordings and says what came, and speaks for as long as asked.

`POST …/transcriptions` is answered with the body's length, and then with its SHA-256, which takes
a while; `POST …/speech` with as many bytes as its body says. Told so in an upload's beginning, it
reads nothing of the rest for a while. Prints its port, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections.abc import Iterator
from typing import cast

import uvloop

from .bulk_bytes import blocks

# As large as what a server with sendfile or a big buffer writes.
_CHUNK_BYTES = 64 * 1024
_UNREAD_S = re.compile(rb"unread_s=([0-9.]+)")
_BYTES = re.compile(rb"bytes=(\d+)")

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection, request after request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._head = b""
        self._path = b""
        self._left = 0
        self._kept: list[bytes] = []
        self._answer: Iterator[bytes] = iter(())
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._ask(head)
        self._left -= len(data)
        self._kept.append(data)
        # The head may have come without the body's beginning.
        if len(self._kept) <= 2 and (found_s := _UNREAD_S.search(data)):
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            loop.call_later(float(found_s[1]), self._transport.resume_reading)
        if not self._left:
            self._reply()

    def _ask(self, head: bytes) -> None:
        self._path = head.split(b" ", 2)[1]
        self._left = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        self._head = b""

    def _reply(self) -> None:
        kept, self._kept = self._kept, []
        if self._path.endswith(b"/speech"):
            found = _BYTES.search(b"".join(kept))
            self._answer = _chunks(int(found[1]) if found else 0)
            self._transport.write(_HEAD % b"audio/mpeg")
            self._speak()
            return
        size = b'{"bytes": %d, "sha256": "' % sum(map(len, kept))
        self._transport.write(_HEAD % b"application/json" + _chunk(size))
        hashing = asyncio.get_running_loop().run_in_executor(None, _digest, kept)
        hashing.add_done_callback(lambda done: self._end(done.result()))

    def _end(self, digest: str) -> None:
        self._transport.write(_chunk(digest.encode() + b'"}') + _LAST_CHUNK)

    def _speak(self) -> None:
        for chunk in self._answer:
            self._transport.write(chunk)
            if self._paused:
                return

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._speak()


def _digest(kept: list[bytes]) -> str:
    found = hashlib.sha256()
    for data in kept:
        found.update(data)
    return found.hexdigest()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunks(size_bytes: int) -> Iterator[bytes]:
    for block in blocks(size_bytes):
        for at in range(0, len(block), _CHUNK_BYTES):
            yield _chunk(block[at : at + _CHUNK_BYTES])
    yield _LAST_CHUNK


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await over.wait()


if __name__ == "__main__":
    uvloop.run(_serve())
