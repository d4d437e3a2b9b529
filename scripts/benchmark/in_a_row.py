"""Calls in a row: a process that keeps some calls going, one after the other on each connection.

The load generator (load.py) makes one burst and times every delta; this one makes as many calls as
wanted and times none, but checks every byte of each answer. It comes in legs: told `go`, it makes
so many calls, waits until all are over, prints a JSON object of what it found, and stands still
until it is told again; so whoever looks at a process between two legs sees it at rest. Ends when
its stdin does.

Knows neither the relay nor its peers: it is told a port and what is spoken there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast, get_args

import uvloop

from .load import encode_request
from .records import MAX_NUMBER, Framing, Plan, Read, read_answer

_TAIL_BYTES = 64


class Connection(asyncio.Protocol):
    """One connection, asked again and again."""

    def __init__(self) -> None:
        self.open = False
        self._reads: list[Read] = []
        self._tail = b""
        self._over: asyncio.Future[list[Read]] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def ask(self, request: bytes) -> asyncio.Future[list[Read]]:
        """Sends a request; what is read until the answer's end, or the connection's."""
        self._over = asyncio.get_running_loop().create_future()
        self._reads = []
        self._tail = b""
        self._transport.write(request)
        return self._over

    def close(self) -> None:
        if self.open:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reads.append((time.monotonic_ns(), data))
        tail = self._tail = (self._tail + data)[-_TAIL_BYTES:]
        # Between the last chunk and the empty line there may be trailers.
        if tail.endswith(b"\r\n\r\n") and b"\r\n0\r\n" in tail:
            self._end()
        elif not self._reads[0][1].startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 1")):
            # An error's body has another end, which nobody needs.
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._end()

    def _end(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(self._reads)


class Generator:
    """All connections, and what was wrong with the answers."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._port: int = arguments.port
        self._framing: Framing = arguments.framing
        self._deltas: int = arguments.deltas
        self._connections = [Connection() for _ in range(arguments.at_once)]
        self._made = 0

    async def leg(self, calls: int) -> dict[str, Any]:
        """Makes so many calls; how many were answered, in what time, and what was wrong."""
        errors: Counter[str] = Counter()
        numbers = iter(range(self._made, self._made + calls))
        self._made += calls
        begun_s = time.monotonic()
        each = (self._keep_asking(at, numbers, errors) for at in range(len(self._connections)))
        answered = sum(await asyncio.gather(*each))
        elapsed_s = time.monotonic() - begun_s
        return {
            "calls": answered,
            "deltas": answered * self._deltas,
            "elapsed_s": elapsed_s,
            "errors": dict(errors),
        }

    def close(self) -> None:
        """Ends all connections."""
        for connection in self._connections:
            connection.close()

    async def _keep_asking(self, at: int, numbers: Iterator[int], errors: Counter[str]) -> int:
        answered = 0
        for number in numbers:
            if not self._connections[at].open:
                try:
                    self._connections[at] = await self._connect()
                except OSError as error:
                    errors[f"not connected: {error.strerror}"] += 1
                    continue
            plan = Plan(number & MAX_NUMBER, self._deltas, 0)
            request = encode_request(plan, self._framing, self._port)
            answer = read_answer(plan, await self._connections[at].ask(request), self._framing)
            errors.update(answer.errors)
            answered += not answer.errors
        return answered

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]


async def _run(arguments: argparse.Namespace) -> None:
    generator = Generator(arguments)
    # Between two legs nothing goes on that could be held up by waiting here.
    while sys.stdin.readline():
        sys.stdout.write(json.dumps(await generator.leg(arguments.leg)) + "\n")
        sys.stdout.flush()
    generator.close()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--framing", choices=get_args(Framing), required=True)
    parser.add_argument("--leg", type=int, required=True, help="calls from one go to its end")
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--deltas", type=int, required=True)
    uvloop.run(_run(parser.parse_args()))


if __name__ == "__main__":
    _main()
