"""The union of models over runners that the test plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from llmrelay.config import Config
from llmrelay.errors import (
    NoRunner,
    RelayError,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from llmrelay.runners import models
from llmrelay.runners.call import LinkCall, OnOver, Sink
from llmrelay.runners.models import LIST_MODELS, ModelList, models_in
from llmrelay.runners.pool import Pool
from llmrelay.runners.runner import Runner, State
from llmrelay.runners.spec import HostSpec, RunnerSpec
from llmrelay.values import HostAddress
from runner_payload.messages import Call, End, Request, Response


def a_list(*names: str, **more: object) -> bytes:
    data = [{"id": name, "object": "model", "created": 7, **more} for name in names]
    return json.dumps({"object": "list", "data": data}).encode()


class PlayedRunner:
    """A runner whose upstream lists what the test says, when it says so.

    Attributes:
        says: the body of the list, or why there is none; None for not yet.
    """

    def __init__(self, name: str, says: bytes | RelayError | None, **spec: Any) -> None:
        self.name = name
        self.max_calls = 1
        self.state = State.READY
        self.retry_in_s = 1.0
        self.says = says
        self.asked = 0
        self.ended = 0
        self.cancelled = 0
        self.credited = 0
        self._waiting: list[Sink] = []
        self.revise(**spec)

    def revise(self, **spec: Any) -> None:
        host = HostSpec(HostAddress(self.name), "python3", f"http://{self.name}.test/v1")
        self.spec = RunnerSpec(self.name, host, **spec)

    def open(self, call: Call | Request, sink: Sink, on_over: OnOver) -> LinkCall:
        assert call == LIST_MODELS
        self.asked += 1
        self._waiting.append(sink)
        if self.says is not None:
            asyncio.get_running_loop().call_soon(self.answer)
        return cast(LinkCall, self)

    def answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sink in waiting:
            if isinstance(self.says, bytes):
                sink.response(Response(200))
                for at in range(0, len(self.says), 50):
                    sink.data(self.says[at : at + 50])
                    sink.credit_due()
                sink.end(End())
            else:
                assert self.says is not None
                sink.error(self.says)

    # What a call has.

    def end_body(self) -> None:
        self.ended += 1

    def hand_back(self) -> None:
        self.credited += 1

    def cancel(self) -> None:
        self.cancelled += 1


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scene()

    asyncio.run(run())


def a_model_list(*runners: PlayedRunner, ttl_s: float = 60.0) -> tuple[ModelList, Pool]:
    config = Config(models_ttl_s=ttl_s)
    pool = Pool(config)
    for runner in runners:
        pool.add(cast(Runner, runner))
    return ModelList(pool, config), pool


def union_of(*runners: PlayedRunner, named: bool = False) -> dict[str, dict[str, Any]]:
    found: list[dict[str, dict[str, Any]]] = []

    async def scene() -> None:
        found.append(await a_model_list(*runners)[0].union(named=named))

    play(scene)
    return found[0]


# --- What is in it ------------------------------------------------------------------------------


def test_the_list_is_of_all_runners_together_and_names_those_who_have_each() -> None:
    a = PlayedRunner("a", a_list("x", "y", owned_by="a's"))
    b = PlayedRunner("b", a_list("y", "z", owned_by="b's"))
    union = union_of(a, b, named=True)
    assert {name: model["runners"] for name, model in union.items()} == {
        "x": ["a"],
        "y": ["a", "b"],
        "z": ["b"],
    }
    assert union["y"] | {"runners": 0} == {
        "id": "y",
        "object": "model",
        "created": 7,
        "owned_by": "a's",
        "runners": 0,
    }
    for runner in (a, b):
        assert (runner.asked, runner.ended, runner.cancelled) == (1, 1, 1)
        assert runner.credited


def test_who_may_not_know_of_hosts_is_told_no_names() -> None:
    union = union_of(PlayedRunner("a", a_list("x")))
    assert union == {"x": {"id": "x", "object": "model", "created": 7}}


def test_only_what_a_runner_serves_is_listed() -> None:
    a = PlayedRunner("a", a_list("llama-8b", "llama-70b", "qwen"), models=("llama-*",))
    assert sorted(union_of(a)) == ["llama-70b", "llama-8b"]


def test_a_model_is_listed_by_the_name_that_clients_have_for_it() -> None:
    mapped = (("small", "llama-8b"), ("other", "not-listed"))
    a = PlayedRunner("a", a_list("llama-8b", owned_by="meta"), model_map=mapped, models=("none",))
    union = union_of(a)
    assert union["small"] == {"id": "small", "object": "model", "created": 7, "owned_by": "meta"}
    assert union["other"]["id"] == "other"
    assert sorted(union) == ["other", "small"]


@pytest.mark.parametrize("says", [UpstreamNotFound("404"), a_list(), b"nonsense"])
def test_where_upstream_has_no_list_the_inventorys_promises_are_all_but_globs(says: Any) -> None:
    a = PlayedRunner("a", says, models=("m-1", "m-*", "m-?", "[m]"))
    assert union_of(a) == {
        "m-1": {"id": "m-1", "object": "model", "created": 0, "owned_by": "upstream"}
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": [1]}',
        b'{"data": [{"id": 1}]}',
        b'{"data": {"id": "x"}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_list_that_is_none_has_no_models_and_raises_nothing(body: bytes) -> None:
    assert models_in(body) == {}


# --- Who is asked, and when ---------------------------------------------------------------------


def test_a_list_is_used_until_it_is_too_old() -> None:
    async def scene() -> None:
        runner = PlayedRunner("a", a_list("x"))
        listed, _ = a_model_list(runner, ttl_s=60)
        for _ in range(3):
            await listed.union(named=False)
        assert runner.asked == 1
        aged, _ = a_model_list(runner, ttl_s=0)
        for _ in range(3):
            await aged.union(named=False)
        assert runner.asked == 4

    play(scene)


def test_all_who_ask_at_once_wait_for_one_answer_and_one_who_leaves_does_no_harm() -> None:
    async def scene() -> None:
        runner = PlayedRunner("a", None)
        listed, _ = a_model_list(runner, ttl_s=0)
        asking = [asyncio.ensure_future(listed.union(named=False)) for _ in range(5)]
        for _ in range(5):
            await asyncio.sleep(0)
        asking[0].cancel()
        await asyncio.sleep(0)
        runner.says = a_list("x")
        runner.answer()
        assert [sorted(union) for union in await asyncio.gather(*asking[1:])] == [["x"]] * 4
        assert runner.asked == 1
        await listed.union(named=False)
        assert runner.asked == 2, "the next one is asked anew"

    play(scene)


def test_a_runner_that_has_changed_is_asked_again() -> None:
    async def scene() -> None:
        runner = PlayedRunner("a", a_list("x", "y"))
        listed, _ = a_model_list(runner)
        assert sorted(await listed.union(named=False)) == ["x", "y"]
        runner.revise(models=("x",))
        assert sorted(await listed.union(named=False)) == ["x"]
        assert runner.asked == 2

    play(scene)


def test_only_runners_that_are_ready_are_asked() -> None:
    async def scene() -> None:
        a, b = PlayedRunner("a", a_list("x")), PlayedRunner("b", a_list("y"))
        b.state = State.DRAINING
        listed, _ = a_model_list(a, b)
        assert sorted(await listed.union(named=False)) == ["x"]
        a.state = State.DRAINING
        with pytest.raises(NoRunner):
            await listed.union(named=False)
        assert b.asked == 0

    play(scene)


# --- Runners that fail --------------------------------------------------------------------------


def test_a_runner_that_fails_is_left_out_and_asked_again_next_time() -> None:
    async def scene() -> None:
        a, b = PlayedRunner("a", a_list("x")), PlayedRunner("b", UpstreamUnavailable("503"))
        listed, _ = a_model_list(a, b)
        assert sorted(await listed.union(named=False)) == ["x"]
        b.says = a_list("y")
        assert sorted(await listed.union(named=False)) == ["x", "y"]
        assert (a.asked, b.asked) == (1, 2)

    play(scene)


def test_if_all_fail_the_first_ones_error_is_the_clients() -> None:
    a, b = PlayedRunner("a", UpstreamAuth("no")), PlayedRunner("b", UpstreamUnavailable("503"))
    with pytest.raises(UpstreamAuth):
        union_of(a, b)


def test_a_list_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_LIST_BYTES", 60)

    class Fed(PlayedRunner):
        """As a LinkCall does it: a sink's error is the call's."""

        def answer(self) -> None:
            (sink,) = self._waiting
            try:
                super().answer()
            except RelayError as error:
                sink.error(error)

    with pytest.raises(UpstreamBroken, match="no end"):
        union_of(Fed("a", a_list("x" * 100)))


def test_a_silent_upstream_does_not_keep_the_list_for_as_long_as_an_answer_may_take() -> None:
    assert LIST_MODELS.timeout_s is not None
    assert LIST_MODELS.timeout_s <= 15
    assert LIST_MODELS.retries == 0
