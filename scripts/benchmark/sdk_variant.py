"""One way to read upstream's stream, in a process of its own; what it costs goes to stdout.

Runs on asyncio's own event loop, as the runner does. Connections are made and code paths walked
once before the clock starts; the requests themselves count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from runner_payload.deltas import DeltaDecoder

from .records import RECORD_BYTES, Plan

Read = Callable[[Plan], Awaitable[int]]
"""Makes the call and returns how many deltas came."""

_EVENT_END = b"\n\n\r\n"


def _parameters(plan: Plan) -> dict[str, Any]:
    messages = [{"role": "user", "content": plan.prompt()}]
    return {"model": "benchmark", "messages": messages, "stream": True}


def _typed(client: Any) -> Read:
    async def read(plan: Plan) -> int:
        count = 0
        async for chunk in await client.chat.completions.create(**_parameters(plan)):
            if chunk.choices and chunk.choices[0].delta.content:
                count += 1
        return count

    return read


def _bytes(client: Any) -> Read:
    async def read(plan: Plan) -> int:
        decoder = DeltaDecoder()
        size = 0
        create = client.chat.completions.with_streaming_response.create
        async with create(**_parameters(plan)) as response:
            async for data in response.iter_bytes():
                size += len(decoder.feed(data))
        return size // RECORD_BYTES

    return read


class _Counter(asyncio.Protocol):
    """As little as can be done with a stream: count where events end."""

    def __init__(self) -> None:
        self.count = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        # The tail is too short to hold an end, so none is counted twice.
        data = self._tail + data
        self.count += data.count(_EVENT_END)
        self._tail = data[1 - len(_EVENT_END) :]
        if data.endswith(b"\r\n0\r\n\r\n"):
            self.over.set_result(None)


def _protocol(port: int) -> Read:
    async def read(plan: Plan) -> int:
        loop = asyncio.get_running_loop()
        transport, counter = await loop.create_connection(_Counter, "127.0.0.1", port)
        body = json.dumps(_parameters(plan)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        transport.write(head + body)
        await counter.over
        transport.close()
        # Besides the deltas there are the role, the reason to finish and [DONE].
        return counter.count - 3

    return read


async def _run(arguments: argparse.Namespace) -> dict[str, float]:
    client: Any = None
    read = _protocol(arguments.port)
    if arguments.reading != "protocol":
        import openai  # noqa: PLC0415 - the bare protocol is to be without it

        aiohttp = arguments.client == "aiohttp"
        client = openai.AsyncOpenAI(
            api_key="benchmark",
            base_url=f"http://127.0.0.1:{arguments.port}/v1",
            http_client=openai.DefaultAioHttpClient() if aiohttp else None,
        )
        read = _typed(client) if arguments.reading == "typed" else _bytes(client)

    async def at_once(deltas: int, gap_ms: int) -> int:
        plans = [Plan(call, deltas, gap_ms) for call in range(arguments.calls)]
        return sum(await asyncio.gather(*map(read, plans)))

    await at_once(20, 0)
    begun_s = time.process_time()
    count = await at_once(arguments.deltas, arguments.gap_ms)
    used_s = time.process_time() - begun_s
    if client is not None:
        await client.close()
    lost = arguments.calls * arguments.deltas - count
    return {"cpu_us_per_delta": used_s * 1e6 / max(1, count), "deltas": count, "lost": lost}


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--reading", choices=("typed", "bytes", "protocol"), required=True)
    parser.add_argument("--client", choices=("default", "aiohttp", "none"), required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--deltas", type=int, required=True)
    parser.add_argument("--gap-ms", type=int, required=True)
    sys.stdout.write(json.dumps(asyncio.run(_run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    _main()
