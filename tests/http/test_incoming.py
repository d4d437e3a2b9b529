from __future__ import annotations

import asyncio

from llmrelay.config import Config
from llmrelay.http.bodies import BodyMemory
from llmrelay.http.incoming import PARTS_PER_TURN, Incoming
from llmrelay.http.wire import Wire

from .conftest import Run
from .parsing import chunked


def test_a_body_of_many_small_chunks_lets_others_have_their_turn(run: Run) -> None:
    chunks = 10 * PARTS_PER_TURN

    async def subject(wanted: bool) -> None:
        incoming = Incoming(Config(), BodyMemory(chunks))
        incoming.read_from(Wire())
        incoming.data_received(chunked(b"1\r\na\r\n" * chunks + b"0\r\n\r\n"))
        assert await incoming.next_request(lambda: None) is not None
        if not wanted:
            assert incoming.drop_received() is None
            assert not incoming.all_read
        reading = asyncio.create_task(
            incoming.read_body(lambda: None) if wanted else incoming.discard_body()
        )
        turns = 0
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        assert await reading == (b"a" * chunks if wanted else True)
        assert turns > 9

    run(subject(wanted=True))
    run(subject(wanted=False))
