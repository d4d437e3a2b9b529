"""A call's body on the runner: held within its limit, or passed on under credit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from runner_payload.credit import GROWTH
from runner_payload.inbound import Inbound
from runner_payload.protocol import RemoteProtocolError

WINDOW = 8


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scene()

    asyncio.run(run())


def test_a_body_that_is_held_gets_its_credit_back_as_it_comes() -> None:
    credit: list[int] = []
    inbound = Inbound(WINDOW, 100, credit.append)
    for piece in (b"abc", b"def", b"gh"):
        inbound.receive(piece)
    inbound.end()
    assert credit == [6], "half a window at a time"
    assert inbound.take() == b"abcdefgh"
    assert inbound.take() == b"", "and is not held any more"


def test_a_body_over_the_limit_breaks_the_protocol() -> None:
    inbound = Inbound(WINDOW, 10, lambda amount: None)
    inbound.receive(b"x" * 8)
    inbound.receive(b"x" * 2)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        inbound.receive(b"x")


def test_more_than_the_credit_breaks_the_protocol() -> None:
    inbound = Inbound(WINDOW, None, lambda amount: None)
    inbound.receive(b"x" * WINDOW)
    with pytest.raises(RemoteProtocolError, match="credit"):
        inbound.receive(b"x")


def test_nothing_comes_behind_the_end() -> None:
    inbound = Inbound(WINDOW, 10, lambda amount: None)
    inbound.end()
    with pytest.raises(RemoteProtocolError, match="DATA after END"):
        inbound.receive(b"x")
    with pytest.raises(RemoteProtocolError, match="second END"):
        inbound.end()


def test_pieces_are_passed_on_as_they_come_up_to_the_end() -> None:
    async def scene() -> None:
        inbound = Inbound(WINDOW, None, lambda amount: None)
        pieces = inbound.pieces()
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        assert not waiting.done()
        inbound.receive(b"a")
        inbound.receive(b"b")
        assert await waiting == b"ab"
        inbound.receive(b"c")
        inbound.end()
        assert [piece async for piece in pieces] == [b"c"]

    play(scene)


def test_a_body_without_a_byte_has_no_pieces() -> None:
    async def scene() -> None:
        inbound = Inbound(WINDOW, None, lambda amount: None)
        inbound.end()
        assert [piece async for piece in inbound.pieces()] == []

    play(scene)


def test_credit_for_what_is_passed_on_goes_back_only_when_it_has_gone_on() -> None:
    async def scene() -> None:
        credit: list[int] = []
        inbound = Inbound(WINDOW, None, credit.append)
        inbound.receive(b"x" * WINDOW)
        assert not credit, "upstream has taken nothing"
        pieces = inbound.pieces()
        assert await anext(pieces) == b"x" * WINDOW
        assert not credit, "it is upstream's connection that has to take it"
        following = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        assert credit == [WINDOW]
        inbound.receive(b"y")
        assert await following == b"y"

    play(scene)


def test_no_upstream_gets_more_than_a_grown_window_ahead_of_it() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        allowed, sent, taken = WINDOW, 0, 0

        def send() -> None:
            nonlocal allowed, sent
            while allowed and sent < 100:
                inbound.receive(b"x")
                allowed, sent = allowed - 1, sent + 1
            if sent == 100 and not inbound.ended:
                inbound.end()

        def hand_back(amount: int) -> None:
            nonlocal allowed
            allowed += amount
            loop.call_soon(send)

        inbound = Inbound(WINDOW, None, hand_back)
        send()
        async for piece in inbound.pieces():
            assert sent - taken <= GROWTH * WINDOW
            taken += len(piece)
        assert taken == 100

    play(scene)


def test_a_window_grows_for_an_upstream_that_waits_for_bytes_and_for_no_other() -> None:
    async def scene() -> None:
        credit: list[int] = []
        inbound = Inbound(WINDOW, None, credit.append)
        pieces = inbound.pieces()
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        inbound.receive(b"a")
        await waiting
        inbound.receive(b"b")
        assert await anext(pieces) == b"b"
        assert credit == [1 + WINDOW], "it had waited for the first piece"
        inbound.receive(b"c")
        assert await anext(pieces) == b"c"
        assert credit == [1 + WINDOW, 1], "and not for the second"

    play(scene)
