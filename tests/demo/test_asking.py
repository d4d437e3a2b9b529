"""The demo's client, against a server that does what it should not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmrelay.chatting.connection import AskingFailed
from llmrelay.demo.asking import Asking
from llmrelay.http.exchange import Exchange
from tests.http.live import serving

LIMIT_S = 30.0


async def broken(exchange: Exchange) -> None:
    exchange.start(200, [])
    exchange.write(b"half an ans")
    exchange.cut()


def test_an_answer_that_is_cut_is_no_answer() -> None:
    async def main() -> None:
        shown: list[str] = []
        async with asyncio.timeout(LIMIT_S), serving(broken) as server:
            with pytest.raises(AskingFailed, match="cut before its end"):
                await asyncio.to_thread(Asking(server.address, "hi").run, shown.append)
        assert shown == ["half an ans"]

    asyncio.run(main())


@pytest.mark.parametrize("begun", [False, True])
def test_leaving_ends_the_asking_at_once(begun: bool) -> None:
    async def main() -> None:
        asked = threading.Event()

        async def silent(exchange: Exchange) -> None:
            asked.set()
            await asyncio.Event().wait()

        async with asyncio.timeout(LIMIT_S), serving(silent) as server:
            asking = Asking(server.address, "hi")
            if not begun:
                asking.leave()
            task = asyncio.create_task(asyncio.to_thread(asking.run, print))
            if begun:
                assert await asyncio.to_thread(asked.wait, LIMIT_S)
                asking.leave()
            with pytest.raises(AskingFailed):
                await task

    asyncio.run(main())


def test_a_character_split_over_chunks_is_shown_whole() -> None:
    async def halves(exchange: Exchange) -> None:
        exchange.start(200, [])
        for byte in "wö".encode():
            exchange.write(bytes([byte]))
        exchange.finish()

    async def main() -> None:
        shown: list[str] = []
        async with asyncio.timeout(LIMIT_S), serving(halves) as server:
            asking = Asking(server.address, "hi")
            await asyncio.to_thread(asking.run, shown.append)
        assert "".join(shown) == "wö"
        assert asking.deltas == 3

    asyncio.run(main())
