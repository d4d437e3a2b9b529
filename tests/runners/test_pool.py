"""Places on runners and the queue for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from llmrelay.config import Config
from llmrelay.errors import NoRunner, QueueFull
from llmrelay.runners.call import LinkCall, Sink
from llmrelay.runners.pool import Pool
from llmrelay.runners.runner import Runner
from runner_payload.protocol import Call
from tests.helpers.link_pair import RecordingSink

CALL = Call(model="m")


class PlayedRunner:
    """A runner that opens every call, until it is told not to."""

    def __init__(self, max_calls: int) -> None:
        self.ready = True
        self.max_calls = max_calls
        self.ends: list[Callable[[], None]] = []

    def open(self, call: Call, sink: Sink, on_over: Callable[[], None]) -> LinkCall:
        if not self.ready:
            raise NoRunner("not now", retry_after_s=1)
        self.ends.append(on_over)
        return cast(LinkCall, object())


def a_pool(max_calls: int = 1, **limits: float) -> tuple[Pool, PlayedRunner]:
    runner = PlayedRunner(max_calls)
    config = Config(**({"queue_length": 2} | limits))  # type: ignore[arg-type]
    return Pool(cast(Runner, runner), config), runner


async def opening(pool: Pool) -> asyncio.Task[LinkCall]:
    """A call that has come as far as it can for now."""
    task = asyncio.ensure_future(pool.open(CALL, RecordingSink()))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_calls_up_to_the_limit_are_opened_at_once() -> None:
    async def scene() -> None:
        pool, runner = a_pool(max_calls=3)
        for _ in range(3):
            await pool.open(CALL, RecordingSink())
        assert (pool.taken, pool.queued) == (3, 0)
        assert not (await opening(pool)).done()
        assert (len(runner.ends), pool.queued) == (3, 1)

    asyncio.run(scene())


def test_the_queue_is_served_in_order_as_places_come_free() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        first, second = await opening(pool), await opening(pool)
        runner.ends.pop()()
        await first
        assert not second.done()
        assert (pool.taken, pool.queued) == (1, 1)
        runner.ends.pop()()
        await second
        runner.ends.pop()()
        assert (pool.taken, pool.queued) == (0, 0)

    asyncio.run(scene())


def test_a_full_queue_is_503_at_once() -> None:
    async def scene() -> None:
        pool, _ = a_pool(queue_length=1)
        await opening(pool)
        waiting = await opening(pool)
        with pytest.raises(QueueFull) as raised:
            await pool.open(CALL, RecordingSink())
        assert raised.value.retry_after_s
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scene())


def test_without_a_queue_a_full_runner_is_503_at_once() -> None:
    async def scene() -> None:
        pool, _ = a_pool(queue_length=0)
        await opening(pool)
        with pytest.raises(QueueFull):
            await pool.open(CALL, RecordingSink())

    asyncio.run(scene())


def test_a_wait_that_is_too_long_leaves_the_queue() -> None:
    async def scene() -> None:
        pool, runner = a_pool(queue_timeout_s=0.01)
        await opening(pool)
        with pytest.raises(QueueFull, match=r"0\.01 s"):
            await pool.open(CALL, RecordingSink())
        assert pool.queued == 0
        runner.ends.pop()()
        assert pool.taken == 0

    asyncio.run(scene())


def test_whoever_leaves_the_queue_takes_no_place_along() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        gone, stays = await opening(pool), await opening(pool)
        gone.cancel()
        await asyncio.wait([gone])
        assert pool.queued == 1
        runner.ends.pop()()
        await stays

    asyncio.run(scene())


def test_a_place_that_comes_as_its_waiter_leaves_is_passed_on() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        gone, stays = await opening(pool), await opening(pool)
        # Both in one turn of the loop: the place is given to one who is already leaving.
        runner.ends.pop()()
        gone.cancel()
        await asyncio.wait([gone])
        await stays
        runner.ends.pop()()
        assert pool.taken == 0

    asyncio.run(scene())


def test_a_runner_that_is_not_ready_gives_its_place_back() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        runner.ready = False
        for _ in range(3):
            with pytest.raises(NoRunner):
                await pool.open(CALL, RecordingSink())
        assert pool.taken == 0
        runner.ready = True
        await pool.open(CALL, RecordingSink())

    asyncio.run(scene())
