from __future__ import annotations

import asyncio
from typing import cast

from llmrelay.config import Config
from llmrelay.http.bodies import BodyMemory
from llmrelay.http.incoming import PARTS_PER_TURN, READ_AHEAD_BYTES, Incoming
from llmrelay.http.wire import Wire

from .conftest import Run
from .parsing import chunked, post


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


class PlayedTransport:
    """One that can be told to bring nothing."""

    def __init__(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True


def test_no_more_is_read_before_who_waits_for_it_has_had_its_turn(run: Run) -> None:
    """A loop may read a socket 32 times in a row before it runs a task."""
    size = 3 * READ_AHEAD_BYTES

    async def subject() -> None:
        transport, wire = PlayedTransport(), Wire()
        wire.transport = cast("asyncio.Transport", transport)
        incoming = Incoming(Config(), BodyMemory(size))
        incoming.read_from(wire)
        waiting = asyncio.create_task(incoming.next_request(lambda: None))
        await asyncio.sleep(0)
        incoming.data_received(post(b"Content-Length: %d" % size))
        incoming.data_received(b"x" * READ_AHEAD_BYTES)
        assert not transport.reads
        assert await waiting is not None
        reading = asyncio.create_task(incoming.read_body(lambda: None))
        await asyncio.sleep(0)
        assert transport.reads
        incoming.data_received(b"x" * (size - READ_AHEAD_BYTES))
        assert await reading == b"x" * size

    run(subject())
