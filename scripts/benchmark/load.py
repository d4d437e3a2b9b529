"""The load generator: a process that makes calls at once and times every delta.

It connects first, says so, and begins when told to. While the clock runs a read costs a time stamp
and an append; answers are parsed (records.read_answer) when the last one has ended. One call may be
a heavy one that is left unread for a while. Prints a JSON object: latencies, rate, errors.

Knows neither the relay nor its peers: it is told a port and what is spoken there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any, cast, get_args

import uvloop

from .figures import percentiles
from .records import Framing, Plan, Read, late_ms, read_answer, steady_late_ms

# Of the call that is left unread: what the kernel holds for it should not hide what we hold.
SMALL_BUFFER_BYTES = 32 * 1024
HEAVY_RECORD_BYTES = 4096
HEAVY_GAP_MS = 1
# In how many connections are being opened at once.
CONNECTING = 200

_TAIL_BYTES = 64


class Client(asyncio.Protocol):
    """One call: keeps what it reads, and notices the end."""

    def __init__(self, plan: Plan, unread_s: float) -> None:
        self.plan = plan
        self.reads: list[Read] = []
        self.asked_ns = 0
        self.read_again_ns = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""
        self._unread_s = unread_s
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> None:
        self.asked_ns = time.monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        tail = self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if tail.endswith(b"\r\n\r\n") and (b"\r\n0\r\n" in tail or self._is_error()):
            self._end()
        elif self._unread_s:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(self._unread_s, self._read_again)
            self._unread_s = 0.0

    def _is_error(self) -> bool:
        return not self.reads[0][1].startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 1"))

    def _read_again(self) -> None:
        self.read_again_ns = time.monotonic_ns()
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def close(self) -> None:
        self._transport.abort()


def encode_request(plan: Plan, framing: Framing, port: int) -> bytes:
    body, path, kind = plan.prompt(), "/chat", "text/plain"
    if framing == "completions":
        path, kind = "/v1/chat/completions", "application/json"
        messages = [{"role": "user", "content": body}]
        body = json.dumps({"model": "benchmark", "stream": True, "messages": messages})
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _connect(port: int, plan: Plan, unread_s: float, limit: asyncio.Semaphore) -> Client:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if unread_s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    async with limit:
        await loop.sock_connect(sock, ("127.0.0.1", port))
    _, client = await loop.create_connection(lambda: Client(plan, unread_s), sock=sock)
    return client


def _plans(arguments: argparse.Namespace) -> list[Plan]:
    gap_ms = arguments.gap_ms
    plans = [
        Plan(call, arguments.deltas, gap_ms, phase_ms=call % gap_ms if gap_ms else 0)
        for call in range(arguments.calls)
    ]
    if arguments.heavy:
        plans[0] = replace(
            plans[0],
            deltas=arguments.heavy,
            gap_ms=HEAVY_GAP_MS,
            record_bytes=HEAVY_RECORD_BYTES,
        )
    return plans


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    limit = asyncio.Semaphore(CONNECTING)
    plans = _plans(arguments)
    clients = await asyncio.gather(
        *(
            _connect(arguments.port, plan, 0.0 if plan.call else arguments.unread_s, limit)
            for plan in plans
        )
    )
    requests = [encode_request(plan, arguments.framing, arguments.port) for plan in plans]
    _say("connected")
    # Nothing goes on yet that could be held up by waiting here.
    if not sys.stdin.readline():
        return {}
    begun_ns = time.monotonic_ns()
    for client, request in zip(clients, requests, strict=True):
        client.ask(request)
    await asyncio.wait([client.over for client in clients])
    elapsed_s = (time.monotonic_ns() - begun_ns) / 1e9
    _say("done")
    for client in clients:
        client.close()
    return _result(clients, arguments, elapsed_s)


def _result(
    clients: list[Client], arguments: argparse.Namespace, elapsed_s: float
) -> dict[str, Any]:
    answers = [read_answer(each.plan, each.reads, arguments.framing) for each in clients]
    deltas = sum(len(answer.sent_ns) for answer in answers)
    heavy = {}
    measured = list(zip(clients, answers, strict=True))
    if arguments.heavy:
        client, answer = measured.pop(0)
        ahead = sum(sent_ns < client.read_again_ns for sent_ns in answer.sent_ns)
        heavy = {"sent_while_unread_bytes": ahead * client.plan.record_bytes}
    return {
        "calls": len(clients),
        "deltas": deltas,
        "elapsed_s": elapsed_s,
        "deltas_per_s": deltas / elapsed_s,
        "late_ms": percentiles(late_ms(answer for _, answer in measured)),
        "steady_late_ms": percentiles(steady_late_ms([answer for _, answer in measured])),
        "first_delta_ms": percentiles(
            [
                (answer.arrived_ns[0] - client.asked_ns) / 1e6 - client.plan.phase_ms
                for client, answer in measured
                if answer.arrived_ns
            ]
        ),
        "errors": dict(sum((answer.errors for answer in answers), Counter())),
        "heavy": heavy,
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--framing", choices=get_args(Framing), required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--deltas", type=int, required=True)
    parser.add_argument("--gap-ms", type=int, required=True)
    parser.add_argument("--heavy", type=int, default=0)
    parser.add_argument("--unread-s", type=float, default=0.0)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    _say(json.dumps(uvloop.run(_run(arguments))))


if __name__ == "__main__":
    _main()
