"""When a runner that keeps failing is taken out, and how it comes back."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from llmrelay.runners.breaker import FAILURES, MAX_OUT_S, MIN_OUT_S, Breaker


def failed(count: int = FAILURES, now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(count):
        breaker.fail(now_s)
    return breaker


def test_fewer_failures_take_nothing_out() -> None:
    assert failed(FAILURES - 1).allows(0.0)
    assert not failed(FAILURES).allows(0.0)


def test_one_call_tries_again_after_a_wait() -> None:
    breaker = failed()
    assert not breaker.allows(MIN_OUT_S - 0.1)
    assert breaker.allows(MIN_OUT_S)
    breaker.begin(MIN_OUT_S)
    assert not breaker.allows(MIN_OUT_S)
    breaker.succeed()
    assert breaker.allows(MIN_OUT_S)
    assert not breaker.out


def test_the_wait_doubles_up_to_a_limit_and_is_short_again_after_a_success() -> None:
    breaker, now_s, waits = failed(), 0.0, []
    for _ in range(7):
        begun_s = now_s
        while not breaker.allows(now_s):
            now_s += 0.5
        waits.append(now_s - begun_s)
        breaker.begin(now_s)
        breaker.fail(now_s)
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    breaker.begin(now_s + MAX_OUT_S)
    breaker.succeed()
    for _ in range(FAILURES):
        breaker.fail(now_s)
    assert breaker.allows(now_s + MIN_OUT_S)


def test_a_trial_that_was_cancelled_is_given_back() -> None:
    breaker = failed()
    breaker.begin(MIN_OUT_S)
    breaker.abandon()
    assert breaker.allows(MIN_OUT_S)


def test_calls_that_were_under_way_do_not_lengthen_the_wait() -> None:
    breaker = failed(4 * FAILURES)
    assert breaker.allows(MIN_OUT_S)


def test_an_answer_that_began_before_the_failures_does_not_bring_it_back() -> None:
    breaker = failed()
    breaker.succeed()
    assert not breaker.allows(0.0)


def test_nor_does_it_after_a_trial_that_failed() -> None:
    breaker = failed()
    breaker.begin(MIN_OUT_S)
    breaker.fail(MIN_OUT_S)
    breaker.succeed()
    assert breaker.out


def test_a_call_that_went_there_all_the_same_and_went_well_brings_it_back() -> None:
    # As all others were out, too: see choose().
    breaker = failed()
    breaker.begin(1.0)
    breaker.succeed()
    assert breaker.allows(1.0)


def test_failures_between_answers_that_go_well_take_it_out_once_they_are_more() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.fail(0.0)
        breaker.fail(0.0)
        breaker.succeed()
    assert breaker.out


def test_one_failure_in_five_rarely_takes_it_out() -> None:
    breaker, chance, outs = Breaker(), random.Random(1), 0
    for _ in range(10_000):
        if chance.random() < 0.2:
            breaker.fail(0.0)
        else:
            breaker.succeed()
        if breaker.out:
            outs += 1
            breaker = Breaker()
    assert outs <= 12  # of 2,000 failures; 2,000 / 340 are to be expected


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "fail", "succeed", "abandon"]), st.floats(0, 9)))
)
def test_whatever_happens_it_may_be_tried_within_the_longest_wait(
    happenings: list[tuple[str, float]],
) -> None:
    breaker, now_s, under_way = Breaker(), 0.0, 0
    for what, later_s in happenings:
        now_s += later_s
        if what == "begin":
            breaker.begin(now_s)
            under_way += 1
        elif under_way:
            under_way -= 1
            breaker.fail(now_s) if what == "fail" else getattr(breaker, what)()
    for _ in range(under_way):
        breaker.abandon()
    assert breaker.allows(now_s + MAX_OUT_S)
