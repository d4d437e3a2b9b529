"""Places on runners and the queue for them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from llmrelay.config import Config
from llmrelay.errors import (
    BadRequest,
    ModelNotFound,
    NoRunner,
    QueueFull,
    RunnerLost,
    UpstreamUnavailable,
)
from llmrelay.runners.breaker import FAILURES
from llmrelay.runners.call import LinkCall, OnOver, Sink
from llmrelay.runners.pool import Pool
from llmrelay.runners.runner import Runner, State
from llmrelay.runners.selection import Ask
from llmrelay.runners.spec import HostSpec, RunnerSpec
from llmrelay.values import HostAddress
from runner_payload.messages import Call, End
from tests.helpers.link_pair import RecordingSink

CALL = Call(model="m")
ASK = Ask("m")


class PlayedRunner:
    """A runner that opens every call, until it is told not to."""

    def __init__(self, name: str, max_calls: int, **spec: Any) -> None:
        host = HostSpec(HostAddress(name), "python3", f"http://{name}.test/v1")
        self.name = name
        self.spec = RunnerSpec(name, host, max_calls=max_calls, **spec)
        self.max_calls = max_calls
        self.state = State.READY
        self.retry_in_s = 7.0
        # Whether it opens calls, whatever it says of its state.
        self.opens = True
        self.calls: list[Call] = []
        self.ends: list[OnOver] = []

    def open(self, call: Call, sink: Sink, on_over: OnOver) -> LinkCall:
        if not self.opens:
            raise NoRunner("not now", retry_after_s=1)
        self.calls.append(call)
        self.ends.append(on_over)
        return cast(LinkCall, object())

    def end(self) -> None:
        """One of its calls is over, and went well."""
        self.ends.pop()(End())


def pool_of(*runners: PlayedRunner, **limits: Any) -> Pool:
    pool = Pool(Config(**({"queue_length": 2} | limits)))
    for runner in runners:
        pool.add(cast(Runner, runner))
        pool.look_at(cast(Runner, runner))
    return pool


def a_pool(max_calls: int = 1, **limits: Any) -> tuple[Pool, PlayedRunner]:
    runner = PlayedRunner("one", max_calls)
    return pool_of(runner, **limits), runner


async def opened(pool: Pool, ask: Ask = ASK, tried: Collection[str] = ()) -> str:
    """The name of the runner that has the call now."""
    runner, _ = await pool.open(ask, CALL, RecordingSink(), tried, None)
    return runner.name


async def opening(pool: Pool, ask: Ask = ASK) -> asyncio.Task[str]:
    """A call that has come as far as it can for now."""
    task = asyncio.ensure_future(opened(pool, ask))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_calls_up_to_the_limit_are_opened_at_once() -> None:
    async def scene() -> None:
        pool, runner = a_pool(max_calls=3)
        for _ in range(3):
            await opened(pool)
        assert (pool.in_flight, pool.queued) == (3, 0)
        assert not (await opening(pool)).done()
        assert (len(runner.ends), pool.queued) == (3, 1)

    asyncio.run(scene())


def test_the_queue_is_served_in_order_as_places_come_free() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        first, second = await opening(pool), await opening(pool)
        runner.end()
        await first
        assert not second.done()
        assert (pool.in_flight, pool.queued) == (1, 1)
        runner.end()
        await second
        runner.end()
        assert (pool.in_flight, pool.queued) == (0, 0)

    asyncio.run(scene())


def test_a_full_queue_is_503_at_once() -> None:
    async def scene() -> None:
        pool, _ = a_pool(queue_length=1)
        await opening(pool)
        waiting = await opening(pool)
        with pytest.raises(QueueFull) as raised:
            await opened(pool)
        assert raised.value.retry_after_s
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scene())


def test_without_a_queue_a_full_runner_is_503_at_once() -> None:
    async def scene() -> None:
        pool, _ = a_pool(queue_length=0)
        await opening(pool)
        with pytest.raises(QueueFull):
            await opened(pool)

    asyncio.run(scene())


def test_a_wait_that_is_too_long_leaves_the_queue() -> None:
    async def scene() -> None:
        pool, runner = a_pool(queue_timeout_s=0.01)
        await opening(pool)
        with pytest.raises(QueueFull, match=r"0\.01 s"):
            await opened(pool)
        assert pool.queued == 0
        runner.end()
        assert pool.in_flight == 0

    asyncio.run(scene())


def test_whoever_leaves_the_queue_takes_no_place_along() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        gone, stays = await opening(pool), await opening(pool)
        gone.cancel()
        await asyncio.wait([gone])
        assert pool.queued == 1
        runner.end()
        await stays

    asyncio.run(scene())


def test_a_place_that_comes_as_its_waiter_leaves_is_passed_on() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        await opening(pool)
        gone, stays = await opening(pool), await opening(pool)
        # Both in one turn of the loop: the place is given to one who is already leaving.
        runner.end()
        gone.cancel()
        await asyncio.wait([gone])
        await stays
        runner.end()
        assert pool.in_flight == 0

    asyncio.run(scene())


def test_a_runner_that_is_not_ready_gives_its_place_back() -> None:
    async def scene() -> None:
        pool, runner = a_pool()
        runner.opens = False
        for _ in range(3):
            with pytest.raises(NoRunner):
                await opened(pool)
        assert pool.in_flight == 0
        runner.opens = True
        await opened(pool)

    asyncio.run(scene())


def test_calls_are_spread_by_load_and_weight() -> None:
    async def scene() -> None:
        small, large = PlayedRunner("small", 100), PlayedRunner("large", 100, weight=3.0)
        pool = pool_of(small, large)
        for _ in range(40):
            await opened(pool)
        assert (len(small.ends), len(large.ends)) == (10, 30)

    asyncio.run(scene())


def test_a_call_goes_to_a_runner_that_serves_its_model_and_is_in_its_group() -> None:
    async def scene() -> None:
        llama = PlayedRunner("llama", 100, models=("llama-*",), groups=frozenset({"gpu"}))
        mapped = PlayedRunner("mapped", 100, models=("qwen-*",), model_map=(("gpt-4o", "qwen-2"),))
        pool = pool_of(llama, mapped)
        assert await opened(pool, Ask("llama-3")) == "llama"
        asked = Call(model="gpt-4o")
        await pool.open(Ask("gpt-4o"), asked, RecordingSink(), (), None)
        assert mapped.calls[-1].model == "qwen-2"
        with pytest.raises(ModelNotFound, match="'mistral'"):
            await opened(pool, Ask("mistral"))
        with pytest.raises(ModelNotFound, match="group 'gpu'"):
            await opened(pool, Ask("gpt-4o", group="gpu"))
        with pytest.raises(BadRequest, match="no group 'cpu'"):
            await opened(pool, Ask("llama-3", group="cpu"))

    asyncio.run(scene())


def test_a_lost_runner_is_passed_over_and_without_any_other_it_is_503() -> None:
    async def scene() -> None:
        one, two = PlayedRunner("one", 100), PlayedRunner("two", 100)
        pool = pool_of(one, two)
        one.state = State.LOST
        pool.look_at(cast(Runner, one))
        assert {await opened(pool) for _ in range(10)} == {"two"}
        # Lost, and not known to be yet.
        two.opens = False
        with pytest.raises(NoRunner) as refused:
            await opened(pool)
        assert refused.value.retry_after_s == 7.0
        assert pool.in_flight == 10

    asyncio.run(scene())


def test_whoever_waits_gets_a_place_on_a_runner_that_comes_back() -> None:
    async def scene() -> None:
        one, two = PlayedRunner("one", 1), PlayedRunner("two", 1)
        two.state = State.LOST
        pool = pool_of(one, two)
        await opened(pool)
        waiting = await opening(pool)
        assert not waiting.done()
        two.state = State.READY
        pool.look_at(cast(Runner, two))
        assert await waiting == "two"

    asyncio.run(scene())


def test_places_go_to_clients_in_turn_and_only_to_who_can_use_them() -> None:
    async def scene() -> None:
        llama = PlayedRunner("llama", 1, models=("llama",))
        qwen = PlayedRunner("qwen", 1, models=("qwen",))
        pool = pool_of(llama, qwen, queue_length=10)
        await opened(pool, Ask("llama"))
        await opened(pool, Ask("qwen"))
        first = await opening(pool, Ask("llama", client="greedy"))
        second = await opening(pool, Ask("llama", client="greedy"))
        other = await opening(pool, Ask("llama", client="modest"))
        elsewhere = await opening(pool, Ask("qwen", client="greedy"))
        llama.end()
        assert await first == "llama"
        llama.end()
        assert await other == "llama"
        assert not second.done()
        qwen.end()
        assert await elsewhere == "qwen"
        llama.end()
        assert await second == "llama"

    asyncio.run(scene())


def test_a_runner_that_keeps_failing_gets_no_calls_unless_all_do() -> None:
    async def scene() -> None:
        bad, good = PlayedRunner("bad", 100), PlayedRunner("good", 100)
        pool = pool_of(bad, good)
        for _ in range(FAILURES):
            await opened(pool, tried={"good"})
            bad.ends.pop()(UpstreamUnavailable("503"))
        assert {await opened(pool) for _ in range(20)} == {"good"}
        assert await opened(pool, tried={"good"}) == "bad"

    asyncio.run(scene())


def test_upstream_is_asked_again_by_the_runner_only_where_there_is_no_other() -> None:
    async def scene() -> None:
        one, two = PlayedRunner("one", 100), PlayedRunner("two", 100)
        pool = pool_of(one, two)
        assert await opened(pool, tried={"two"}) == "one"
        assert one.calls[-1].retries == CALL.retries
        await opened(pool)
        await opened(pool)
        assert [call.retries for call in (one.calls[1:] + two.calls)] == [0, 0]

    asyncio.run(scene())


def test_retry_after_is_as_long_as_the_queue_takes() -> None:
    async def scene() -> None:
        pool, runner = a_pool(queue_length=0)
        now_s = 0.0
        pool._now_s = lambda: now_s
        for _ in range(10):  # a place comes free every three seconds
            await opened(pool)
            now_s += 3
            runner.end()
        # The places of a lost runner's calls have gone with it.
        for _ in range(10):
            await opened(pool)
            runner.ends.pop()(RunnerLost("gone"))
        await opened(pool)
        with pytest.raises(QueueFull) as refused:
            await opened(pool)
        assert refused.value.retry_after_s == 3.0

    asyncio.run(scene())


def test_who_waits_for_a_group_of_failing_runners_is_served_though_other_groups_are_well() -> None:
    async def scene() -> None:
        bad = PlayedRunner("bad", FAILURES, groups=frozenset({"g"}))
        pool = pool_of(bad, PlayedRunner("good", 1), queue_length=10)
        ask = Ask("m", "g")
        for _ in range(FAILURES):
            await opened(pool, ask)
        waiting = [await opening(pool, ask) for _ in range(FAILURES)]
        for end in bad.ends.copy():
            end(UpstreamUnavailable("refused"))
        assert pool.queued == 0
        assert [await task for task in waiting] == ["bad"] * FAILURES

    asyncio.run(scene())
