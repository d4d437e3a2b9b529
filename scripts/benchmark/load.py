"""The load generator: a process that makes calls at once and times every delta.

It connects first, says so, and begins when told to. While the clock runs a read costs a time stamp
and an append; answers are parsed (records.read_answer) when the last one has ended, or when the
limit has. One call may be a heavy one that begins before the others, and is left unread for a
while; or calls are made one after the other, on one connection or on fresh ones. Prints a JSON
object: latencies, rate, errors.

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
from .records import Answer, Framing, Plan, Read, gaps_ms, late_ms, read_answer, steady_late_ms

# Of the call that is left unread: what the kernel holds for it should not hide what we hold.
SMALL_BUFFER_BYTES = 32 * 1024
HEAVY_RECORD_BYTES = 4096
HEAVY_GAP_MS = 1
# In how many connections are being opened at once.
CONNECTING = 200

# The error of a call that had not ended when the limit had.
UNFINISHED = "unfinished"

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

    def follow(self, client: Client) -> bool:
        """Takes over the connection of a call that has ended; False if it has, too."""
        if client._transport.is_closing():
            return False
        self.connection_made(client._transport)
        client._transport.set_protocol(self)
        return True

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


async def connect(port: int, client: Client, *, small: bool = False) -> None:
    """Gives `client` a connection of its own."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.create_connection(lambda: client, sock=sock)


# --- Calls at once, or one after the other ------------------------------------------------------


def _plans(arguments: argparse.Namespace) -> list[Plan]:
    gap_ms = arguments.gap_ms
    plans = [
        Plan(call, arguments.deltas, gap_ms, 0 if arguments.in_turn else call % (gap_ms or 1))
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
    plans = _plans(arguments)
    requests = [encode_request(plan, arguments.framing, arguments.port) for plan in plans]
    clients = [Client(plan, 0.0 if plan.call else arguments.unread_s) for plan in plans]
    make = _in_turn if arguments.in_turn else _at_once
    elapsed_s = await make(clients, requests, arguments)
    _say("done")
    answers = [_checked(each, arguments) for each in clients]
    for client in clients:
        if client.asked_ns:
            client.close()
    return _result(clients, answers, arguments, elapsed_s)


async def _at_once(
    clients: list[Client], requests: list[bytes], arguments: argparse.Namespace
) -> float:
    limit = asyncio.Semaphore(CONNECTING)

    async def connect_one(client: Client) -> None:
        async with limit:
            small = bool(arguments.unread_s) and client.plan.call == 0
            await connect(arguments.port, client, small=small)

    await asyncio.gather(*map(connect_one, clients))
    begun_ns = _begin()
    for client, request in zip(clients, requests, strict=True):
        client.ask(request)
        if arguments.head_start_s and client.plan.call == 0:
            await asyncio.sleep(arguments.head_start_s)
    await asyncio.wait([client.over for client in clients], timeout=arguments.limit_s)
    return (time.monotonic_ns() - begun_ns) / 1e9


async def _in_turn(
    clients: list[Client], requests: list[bytes], arguments: argparse.Namespace
) -> float:
    if not arguments.fresh:
        await connect(arguments.port, clients[0])
    begun_ns = _begin()
    deadline_ns = begun_ns + arguments.limit_s * 1e9
    before = clients[0]
    for client, request in zip(clients, requests, strict=True):
        since_ns = time.monotonic_ns()
        kept = not arguments.fresh and (client is before or client.follow(before))
        if not kept:
            await connect(arguments.port, client)
        client.ask(request)
        # The call of somebody who has to connect begins with that.
        client.asked_ns = since_ns
        await asyncio.wait([client.over], timeout=(deadline_ns - since_ns) / 1e9)
        if not client.over.done():
            break
        if arguments.fresh:
            client.close()
        before = client
    return (time.monotonic_ns() - begun_ns) / 1e9


def _begin() -> int:
    """Waits for the word; returns when that was."""
    _say("connected")
    # Nothing goes on yet that could be held up by waiting here.
    if not sys.stdin.readline():
        sys.exit(1)
    return time.monotonic_ns()


# --- What came of it ----------------------------------------------------------------------------


def _checked(client: Client, arguments: argparse.Namespace) -> Answer:
    if not client.reads and not client.over.done():
        return Answer(errors=Counter({UNFINISHED: 1}))
    answer = read_answer(client.plan, client.reads, arguments.framing)
    if not client.over.done():
        # What is missing was not lost: it was not waited for.
        del answer.errors["lost"], answer.errors["cut off"]
        answer.errors[UNFINISHED] += 1
    return answer


def _result(
    clients: list[Client],
    answers: list[Answer],
    arguments: argparse.Namespace,
    elapsed_s: float,
) -> dict[str, Any]:
    deltas = sum(len(answer.sent_ns) for answer in answers)
    heavy = {}
    measured = list(zip(clients, answers, strict=True))
    if arguments.heavy:
        client, answer = measured.pop(0)
        ahead = sum(sent_ns < client.read_again_ns for sent_ns in answer.sent_ns)
        heavy = {"sent_while_unread_bytes": ahead * client.plan.record_bytes}
    # One after the other, each is all that is under way.
    others = [answer for _, answer in measured]
    together = [[answer] for answer in others] if arguments.in_turn else [others]
    return {
        "calls": len(clients),
        "deltas": deltas,
        "elapsed_s": elapsed_s,
        "deltas_per_s": deltas / elapsed_s,
        "late_ms": percentiles(late_ms(others)),
        "steady_late_ms": percentiles([ms for each in together for ms in steady_late_ms(each)]),
        "gap_ms": percentiles(gaps_ms(others)),
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
    parser.add_argument("--head-start-s", type=float, default=0.0)
    parser.add_argument("--in-turn", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--limit-s", type=float, default=3600.0)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    _say(json.dumps(uvloop.run(_run(arguments))))


if __name__ == "__main__":
    _main()
