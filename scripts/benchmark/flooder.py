"""The flood: a process that holds very many connections, and asks for nothing on any of them.

The idle ones send no byte. The slow ones send a request's head, a byte a second, and come again
when they are ended. Opens them when it is told `go` and prints `open`; prints what became of them
so far when it is told `tell`; ends, and all connections with it, when its stdin does.

Knows nothing of what it floods but a port.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from collections import Counter
from itertools import islice
from typing import cast

import uvloop

# In how many connections are being opened at once.
CONNECTING = 200
BYTE_INTERVAL_S = 1.0
TICK_S = 0.01

_HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 256


class Flood:
    """All connections, and what became of them."""

    def __init__(self, port: int) -> None:
        self.ended: Counter[str] = Counter()
        self.connections: dict[bool, set[Connection]] = {True: set(), False: set()}
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._connecting = asyncio.Semaphore(CONNECTING)
        self._again: set[asyncio.Task[None]] = set()

    async def open(self, count: int, *, slow: bool) -> None:
        await asyncio.gather(*(self._open_one(slow) for _ in range(count)))

    async def _open_one(self, slow: bool) -> None:
        async with self._connecting:
            try:
                await self._loop.create_connection(
                    lambda: Connection(self, slow), "127.0.0.1", self._port
                )
            except OSError as error:
                self.ended[f"not connected: {error.strerror}"] += 1

    def over(self, connection: Connection, why: str) -> None:
        self.connections[connection.slow].remove(connection)
        self.ended[f"{'slow' if connection.slow else 'idle'} {why}"] += 1
        if connection.slow:
            task = self._loop.create_task(self._open_one(slow=True))
            self._again.add(task)
            task.add_done_callback(self._again.discard)

    async def drip(self) -> None:
        """A byte on every slow connection each BYTE_INTERVAL_S."""
        while True:
            slow = list(self.connections[True])
            share = max(1, round(len(slow) * TICK_S / BYTE_INTERVAL_S))
            for start in range(0, len(slow), share):
                for connection in slow[start : start + share]:
                    connection.drip()
                await asyncio.sleep(TICK_S)
            if not slow:
                await asyncio.sleep(TICK_S)


class Connection(asyncio.Protocol):
    """One that the flood holds open."""

    def __init__(self, flood: Flood, slow: bool) -> None:
        self.slow = slow
        self._flood = flood
        self._head = iter(_HEAD)
        self._told = "closed"
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._flood.connections[self.slow].add(self)

    def drip(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(bytes(islice(self._head, 1)))

    def data_received(self, data: bytes) -> None:
        self._told = data[9:12].decode("latin-1")

    def connection_lost(self, exc: Exception | None) -> None:
        self._flood.over(self, self._told)


async def _run(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    flood = Flood(arguments.port)
    await stdin.readline()
    begun_s = time.monotonic()
    dripping = asyncio.create_task(flood.drip())
    await asyncio.gather(
        flood.open(arguments.slow, slow=True), flood.open(arguments.idle, slow=False)
    )
    opening_s = time.monotonic() - begun_s
    _say("open")
    while await stdin.readline():
        open_now = {"idle": len(flood.connections[False]), "slow": len(flood.connections[True])}
        found = {"opening_s": opening_s, "open": open_now, "ended": dict(flood.ended)}
        _say(json.dumps(found))
    dripping.cancel()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, required=True)
    parser.add_argument("--slow", type=int, required=True)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    uvloop.run(_run(arguments))


if __name__ == "__main__":
    _main()
