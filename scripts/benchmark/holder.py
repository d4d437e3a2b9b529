"""The load of calls that are open while upstream is silent: a process that holds very many.

Told `go`, it opens them, so many at a time: each connects, asks, and has had its first delta
before another one begins in its place. Then it says how many are open. Told `end`, it waits until
they have ended, and says what was wrong: upstream has been told to go on meanwhile.

Knows neither the relay nor its peers: it is told a port and what is spoken there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import Counter
from typing import Any, get_args

import uvloop

from .figures import percentiles
from .load import CONNECTING, UNFINISHED, Client, connect, encode_request
from .records import Framing, Plan, has_delta, read_answer

# One before the silence, and one after it, which says that the call was still there.
DELTAS = 2


class Held(Client):
    """One call, and the moment of its first delta."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, 0.0)
        self.begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.over.add_done_callback(lambda _: self._has_begun(False))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # There is little of it, as long as this is not known.
        if not self.begun.done() and has_delta(b"".join(data for _, data in self.reads)):
            self._has_begun(True)

    def _has_begun(self, begun: bool) -> None:
        if not self.begun.done():
            self.begun.set_result(begun)


class Holder:
    """All calls."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._opening = asyncio.Semaphore(CONNECTING)
        self._first_ms: list[float] = []
        self._errors: Counter[str] = Counter()
        plans = [Plan(call, DELTAS, 0, silent_after=1) for call in range(arguments.calls)]
        self._clients = [Held(plan) for plan in plans]
        # Those that had a first delta, or an end instead.
        self._begun: list[Held] = []

    async def open(self) -> dict[str, Any]:
        """As many as can be within the limit; how many there are, and how long it took."""
        begun_s = time.monotonic()
        tasks = [asyncio.create_task(self._open_one(client)) for client in self._clients]
        _, late = await asyncio.wait(tasks, timeout=self._arguments.limit_s)
        opening_s = time.monotonic() - begun_s
        for client in self._clients:
            if client.begun.done():
                self._begun.append(client)
            elif client.asked_ns:
                client.close()
        self._errors[UNFINISHED] += len(late)
        for task in late:
            task.cancel()
        return {
            "open": sum(not client.over.done() for client in self._begun),
            "opening_s": opening_s,
            "first_delta_ms": percentiles(self._first_ms),
        }

    async def _open_one(self, client: Held) -> None:
        async with self._opening:
            asked_ns = time.monotonic_ns()
            try:
                await connect(self._arguments.port, client)
            except OSError as error:
                self._errors[f"not connected: {error.strerror}"] += 1
                return
            plan, port = client.plan, self._arguments.port
            client.ask(encode_request(plan, self._arguments.framing, port))
            if await client.begun:
                self._first_ms.append((time.monotonic_ns() - asked_ns) / 1e6)

    async def end(self) -> dict[str, int]:
        """What was wrong, once upstream has been told to end them."""
        if self._begun:
            overs = [client.over for client in self._begun]
            await asyncio.wait(overs, timeout=self._arguments.limit_s)
        for client in self._begun:
            if client.over.done():
                answer = read_answer(client.plan, client.reads, self._arguments.framing)
                self._errors += answer.errors
            else:
                self._errors[UNFINISHED] += 1
        return {name: count for name, count in self._errors.items() if count}


async def _run(arguments: argparse.Namespace) -> None:
    holder = Holder(arguments)
    # What the loop does not see while it is waited for here shows in the end.
    if sys.stdin.readline():
        _say(await holder.open())
    if sys.stdin.readline():
        _say(await holder.end())


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--framing", choices=get_args(Framing), required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--limit-s", type=float, required=True)
    gc.disable()
    uvloop.run(_run(parser.parse_args()))


if __name__ == "__main__":
    _main()
