"""How many runners are being started at once."""

from __future__ import annotations

import asyncio

import pytest

from llmrelay.runners import slots
from llmrelay.runners.slots import FIRST, Slots


async def begun(places: Slots, count: int) -> list[asyncio.Event]:
    """So many want to start; an event for each that has its place, which ends it when it is set."""
    holding: list[asyncio.Event] = []

    async def start() -> None:
        async with places.start():
            holding.append(end := asyncio.Event())
            await end.wait()

    running.extend(asyncio.ensure_future(start()) for _ in range(count))
    await turns()
    return holding


running: list[asyncio.Future[None]] = []


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def end_all(holding: list[asyncio.Event]) -> None:
    while not all(task.done() for task in running):
        for end in holding:
            end.set()
        await turns()
    running.clear()


def test_few_begin_until_the_first_is_ready_and_then_as_many_as_may() -> None:
    async def scene() -> None:
        holding = await begun(Slots(10), 30)
        assert len(holding) == FIRST
        holding[0].set()
        await turns()
        assert len(holding) == 1 + 10
        await end_all(holding)

    asyncio.run(scene())


def test_a_start_that_fails_gives_its_place_back_and_opens_no_more() -> None:
    async def scene() -> None:
        places = Slots(10)
        for _ in range(3 * FIRST):
            with pytest.raises(ValueError, match="no"):
                async with places.start():
                    raise ValueError("no")
        holding = await begun(places, 30)
        assert len(holding) == FIRST
        await end_all(holding)

    asyncio.run(scene())


def test_one_that_takes_long_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "START_S", 0.01)

    async def scene() -> None:
        holding = await begun(Slots(FIRST), 3 * FIRST)
        async with asyncio.timeout(20):
            while len(holding) < 3 * FIRST:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await end_all(holding)

    asyncio.run(scene())
