"""A process of its own for test_descriptors.py: a server in it, whose open files run out.

Prints a JSON object: what clients met meanwhile and afterwards.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from llmrelay.http.exchange import Exchange

from .live import GET, Client, serving

CLIENTS = 8
FREE = 3
WATCHED_S = 0.5


@contextmanager
def all_descriptors_taken(but: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + but + 10, before[1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        for _ in range(but):
            os.close(taken.pop())
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def meet() -> dict[str, object]:
    go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"begun")
        await go_on.wait()
        exchange.finish()

    loop = asyncio.get_running_loop()
    async with serving(handler) as server, Client(server) as running:
        running.send(GET)
        await running.head()
        await running.chunk()
        to = (server.address.host, server.address.port)
        sockets = [socket.socket() for _ in range(CLIENTS)]
        with all_descriptors_taken(but=FREE):
            for sock in sockets:
                sock.setblocking(False)
                await loop.sock_connect(sock, to)
            begun_s = time.process_time()
            await asyncio.sleep(WATCHED_S)
            cpu = (time.process_time() - begun_s) / WATCHED_S
            go_on.set()
            whole = await running.chunk() == b""
        for sock in sockets:
            sock.close()
        async with Client(server) as later:
            status = (await later.ask(GET)).status
    return {"cpu": cpu, "whole": whole, "status": status}


if __name__ == "__main__":
    asyncio.constants.ACCEPT_RETRY_DELAY = 0.1  # type: ignore[attr-defined]
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    factory = uvloop.new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(meet())))
