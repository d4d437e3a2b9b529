"""Which runner a call goes to: one by one, and of many calls in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.runners import selection
from llmrelay.runners.breaker import FAILURES, MIN_OUT_S
from llmrelay.runners.selection import MANY, Ask, choose
from llmrelay.runners.standing import Outcome, Standing
from tests.helpers.virtual_load import (
    ASK,
    VirtualLoad,
    a_spec,
    a_standing,
    answers_in,
    refuses_at_once,
    standings,
)

ANSWERS = answers_in(5.0)


def chosen(runners: Sequence[Standing], ask: Ask = ASK, now_s: float = 0.0, **more: Any) -> str:
    """The name of the runner that a call goes to; empty if there is none."""
    standing = choose(ask, runners, now_s, random.Random(1), **more)
    return standing.spec.name if standing else ""


def take_out(standing: Standing) -> None:
    for _ in range(FAILURES):
        standing.begin(0.0)
        standing.end(0.0, Outcome.FAILED)


def conversations(count: int, seed: int = 1) -> list[Ask]:
    chance = random.Random(seed)
    return [ASK._replace(conversation=chance.randbytes(16)) for _ in range(count)]


# --- Who may have it --------------------------------------------------------------------------


def test_a_runner_serves_what_its_globs_or_its_map_name() -> None:
    spec = a_spec("one", models=("gpt-4*", "llama-[23]"), model_map=(("mine", "its-own"),))
    asked = ["gpt-4o", "llama-3", "mine", "its-own", "gpt-3", "my-gpt-4", "llama-33", "GPT-4"]
    assert [name for name in asked if spec.serves(name)] == asked[:3]
    assert a_spec("any").serves("whatever")


@pytest.mark.parametrize("count", [2, 4 * MANY])
def test_only_ready_runners_that_serve_it_are_in_the_group_and_have_not_failed_it(
    count: int,
) -> None:
    fields: dict[str, Any] = {"models": ("m",), "groups": frozenset({"g"})}
    runners = standings(count, models=("other",), groups=frozenset({"g"}))
    runners += standings(count, models=("m",))
    assert not chosen(runners, Ask("m", "g"))
    down, failed, full, well = (a_standing(n, **fields) for n in ("down", "failed", "full", "well"))
    down.ready = False
    full.in_flight = full.max_calls
    runners += [down, failed, full, well]
    assert chosen(runners, Ask("m", "g"), tried={"failed"}) == "well"
    assert not chosen(runners, Ask("m", "g"), tried={"failed", "well"})


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5), st.booleans()), max_size=40),
    st.sampled_from([b"", b"one", b"another"]),
)
def test_a_call_finds_a_place_exactly_if_a_runner_that_is_not_out_has_one(
    each: list[tuple[int, int, bool]], conversation: bytes
) -> None:
    runners = []
    for index, (places, taken, out) in enumerate(each):
        standing = a_standing(f"r{index}", max_calls=places)
        if out:
            take_out(standing)
        standing.in_flight = min(places, taken)
        runners.append(standing)
    well = [standing for standing in runners if not standing.breaker.out] or runners
    found = choose(Ask("m", conversation=conversation), runners, 0.0, random.Random(1))
    assert (found is not None) == any(standing.has_room for standing in well)
    assert found is None or (found.has_room and found in well)


# --- By load ----------------------------------------------------------------------------------


def test_the_least_busy_for_its_weight_has_it() -> None:
    light, heavy = a_standing("light", in_flight=2), a_standing("heavy", in_flight=5, weight=3.0)
    assert chosen([light, heavy]) == "heavy"
    heavy.in_flight = 9
    assert chosen([light, heavy]) == "light"


@pytest.mark.parametrize("count", [4, 4 * MANY])
def test_equals_share_evenly_whatever_their_order(count: int) -> None:
    load = VirtualLoad(standings(count), answers_in(0.001)).run(per_s=10, for_s=25 * count)
    assert len(load.calls) == count
    assert max(load.calls.values()) < 1.25 * load.calls.total() / count


@pytest.mark.parametrize("count", [3, 30])
def test_weights_of_1_2_and_3_are_shares_of_a_load(count: int) -> None:
    runners = [a_standing(f"r{i}", weight=1.0 + i % 3) for i in range(count)]
    load = VirtualLoad(runners, ANSWERS).run(per_s=7 * count, for_s=60)
    for weight in (1, 2, 3):
        names = [standing.spec.name for standing in runners if standing.spec.weight == weight]
        assert load.share(*names) == pytest.approx(weight / 6, abs=0.03)


def test_one_with_most_of_the_weight_gets_its_share_among_many() -> None:
    big = a_standing("big", weight=3.0 * MANY)
    load = VirtualLoad([*standings(MANY), big], ANSWERS).run(per_s=100, for_s=60)
    assert load.share("big") == pytest.approx(0.75, abs=0.03)


def test_no_runner_of_many_is_left_without_calls() -> None:
    load = VirtualLoad(standings(100), ANSWERS).run(per_s=200, for_s=60)
    assert len(load.calls) == 100
    assert min(load.calls.values()) > 0.5 * load.calls.total() / 100


# --- Those that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("per_s", [20, 100])
def test_one_that_refuses_at_once_among_four_gets_few_calls(per_s: int) -> None:
    load = VirtualLoad(standings(4), refuses_at_once("r0", ANSWERS)).run(per_s, for_s=60)
    assert load.share("r0") < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_so_does_one_that_begins_to_refuse_while_its_old_answers_end_well(seed: int) -> None:
    service = refuses_at_once("r0", answers_in(20.0), since_s=60.0)
    load = VirtualLoad(standings(4), service, seed).run(per_s=20, for_s=60)
    load.calls.clear()
    assert load.run(per_s=20, for_s=60).share("r0") < 0.05


def test_one_that_is_well_again_soon_has_its_share() -> None:
    runners = standings(4)
    load = VirtualLoad(runners, ANSWERS).run(per_s=20, for_s=30)
    take_out(runners[0])
    runners[0].breaker.fail(load.now_s)
    load.run(per_s=20, for_s=MIN_OUT_S + 60)
    load.calls.clear()
    assert load.run(per_s=20, for_s=60).share("r0") == pytest.approx(0.25, abs=0.03)


def test_also_where_calls_are_few() -> None:
    runners = standings(4)
    take_out(runners[0])
    load = VirtualLoad(runners, answers_in(0.1)).run(per_s=0.5, for_s=90)
    load.calls.clear()
    assert load.run(per_s=0.5, for_s=120).share("r0") > 0.1


def test_where_all_fail_the_next_call_is_still_for_upstream_to_answer() -> None:
    for count in (1, 4, 4 * MANY):
        runners = standings(count)
        for standing in runners:
            take_out(standing)
        assert chosen(runners)
        assert chosen(runners, Ask("m", conversation=b"c"))


# --- By affinity ------------------------------------------------------------------------------


def first_choice(asks: list[Ask], runners: Sequence[Standing]) -> list[str]:
    return [chosen(runners, ask) for ask in asks]


def test_a_conversation_stays_whatever_the_order_of_the_runners() -> None:
    asks, runners = conversations(100), standings(20)
    assert first_choice(asks, runners) == first_choice(asks, runners[::-1])


def test_conversations_are_spread_by_weight() -> None:
    runners = [a_standing(f"r{weight}", weight=float(weight)) for weight in (1, 2, 3)]
    names = first_choice(conversations(3000), runners)
    for weight in (1, 2, 3):
        assert names.count(f"r{weight}") / 3000 == pytest.approx(weight / 6, abs=0.03)


@pytest.mark.parametrize("count", [4, 20])
def test_a_runner_that_comes_or_goes_moves_its_own_conversations_alone(count: int) -> None:
    asks, runners = conversations(1000), standings(count)
    before, after = (first_choice(asks, some) for some in (runners, runners[1:]))
    moved = [name for name, now in zip(before, after, strict=True) if name != now]
    assert set(moved) == {"r0"}
    assert len(moved) == before.count("r0")
    assert len(moved) / 1000 == pytest.approx(1 / count, abs=0.03)


def test_a_conversation_leaves_its_runner_when_that_is_full_or_lost_and_comes_back() -> None:
    (ask,), runners = conversations(1), standings(4)
    by_name = {standing.spec.name: standing for standing in runners}
    first = by_name[chosen(runners, ask)]
    first.ready = False
    second = chosen(runners, ask)
    assert second != first.spec.name
    first.ready, first.in_flight = True, first.max_calls
    assert chosen(runners, ask) == second
    first.in_flight = 0
    assert chosen(runners, ask) == first.spec.name


def test_a_conversation_that_everybody_has_does_not_load_its_runner_beyond_the_bound() -> None:
    (ask,), runners = conversations(1), standings(4)
    for _ in range(400):
        standing = choose(ask, runners, 0.0, random.Random(1))
        assert standing is not None
        standing.begin(0.0)
    most = max(standing.in_flight for standing in runners)
    assert most <= math.ceil(selection._BOUND * 100)


def test_no_call_waits_for_the_bound_while_there_is_a_place() -> None:
    small, big = a_standing("small", max_calls=1, in_flight=1), a_standing("big", in_flight=9)
    assert all(chosen([small, big], ask) == "big" for ask in conversations(10))


def test_most_calls_of_a_load_of_conversations_stay_on_their_runner() -> None:
    asks, runners = conversations(200), standings(4)
    own = dict(zip(asks, first_choice(asks, runners), strict=True))
    chance = random.Random(2)
    load = VirtualLoad(runners, ANSWERS)
    load.run(per_s=20, for_s=120, asks=(chance.choice(asks) for _ in range(10_000)))
    stayed = sum(own[ask] == name for ask, name in load.went)
    assert stayed / len(load.went) > 0.8
