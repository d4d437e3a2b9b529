"""Which runner a call goes to, over many calls in a time that is made up."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

from llmrelay.runners.breaker import FAILURES, MAX_OUT_S, MIN_OUT_S, Breaker
from llmrelay.runners.selection import MANY, Ask, choose
from llmrelay.runners.spec import HostSpec, RunnerSpec
from llmrelay.runners.standing import Outcome, Standing
from llmrelay.values import HostAddress

ASK = Ask("m")


def a_standing(name: str, max_calls: int = 1000, **spec: Any) -> Standing:
    host = HostSpec(HostAddress(name), "python3", "http://up.test/v1")
    standing = Standing(RunnerSpec(name, host, max_calls=max_calls, **spec), max_calls)
    standing.ready = True
    return standing


def played(
    standings: list[Standing], seconds: float, at_once: int, failing: str = "", seed: int = 1
) -> Counter[str]:
    """So many clients ask again and again; an answer takes a second, a failure a millisecond.

    A call that failed is tried on another runner. Returns how often each runner was asked.
    """
    chance = random.Random(seed)
    asked: Counter[str] = Counter()
    events: list[tuple[float, int, Standing | None, frozenset[str]]] = []
    for client in range(at_once):
        heapq.heappush(events, (chance.random(), client, None, frozenset()))
    while events and events[0][0] < seconds:
        now_s, client, standing, tried = heapq.heappop(events)
        if standing is not None:
            failed = standing.spec.name == failing
            standing.end(now_s, Outcome.FAILED if failed else Outcome.OK)
            tried = tried | {standing.spec.name} if failed else frozenset()
        chosen = choose(ASK, standings, now_s, chance, tried)
        assert chosen is not None
        chosen.begin(now_s)
        asked[chosen.spec.name] += 1
        took_s = 0.001 if chosen.spec.name == failing else chance.uniform(0.5, 1.5)
        heapq.heappush(events, (now_s + took_s, client, chosen, tried))
    return asked


def test_load_is_spread_evenly() -> None:
    asked = played([a_standing(name) for name in "abcd"], 60, 100)
    assert max(asked.values()) < 1.1 * min(asked.values())


def test_load_follows_the_weights() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    asked = played([a_standing(name, weight=weight) for name, weight in weights.items()], 60, 120)
    for name, weight in weights.items():
        assert 0.9 < asked[name] / sum(asked.values()) / (weight / 6) < 1.1


def test_of_many_the_better_of_two_is_nearly_as_even() -> None:
    asked = played([a_standing(f"n{number}") for number in range(4 * MANY)], 30, 640)
    assert max(asked.values()) < 1.3 * min(asked.values())


def test_a_runner_that_fails_at_once_does_not_look_like_a_fast_one() -> None:
    asked = played([a_standing(name) for name in "abcd"], 60, 100, failing="a")
    assert asked["a"] < 0.02 * sum(asked.values())


def test_a_runner_that_is_well_again_gets_its_share_again() -> None:
    standings = [a_standing(name) for name in "ab"]
    for _ in range(FAILURES):
        standings[0].begin(0)
        standings[0].end(0, Outcome.FAILED)
    asked = played(standings, 120, 20)
    assert asked["a"] > 0.4 * sum(asked.values())


def test_where_all_keep_failing_they_are_asked_all_the_same() -> None:
    standings = [a_standing(name) for name in "ab"]
    for standing in standings:
        for _ in range(FAILURES):
            standing.begin(0)
            standing.end(0, Outcome.FAILED)
    assert {str(choose(ASK, standings, 1, random.Random(n))) for n in range(20)} == {
        str(standing) for standing in standings
    }
    standings[1].ready = False
    assert choose(ASK, standings, 1, random.Random()) is standings[0]


def test_who_is_full_or_has_failed_the_call_is_passed_over() -> None:
    full, other = a_standing("full", max_calls=1), a_standing("other")
    full.begin(0)
    assert choose(ASK, [full, other], 0, random.Random()) is other
    assert choose(ASK, [full, other], 0, random.Random(), {"other"}) is None


def conversations(standings: list[Standing], count: int = 2000) -> dict[bytes, str]:
    """Where each conversation goes when nothing else is going on."""
    found = {}
    for number in range(count):
        chosen = choose(Ask("m", conversation=b"%016d" % number), standings, 0, random.Random())
        assert chosen is not None
        found[b"%016d" % number] = chosen.spec.name
    return found


def test_conversations_stay_when_a_runner_comes_or_goes_but_for_its_share() -> None:
    standings = [a_standing(name, weight=2.0 if name == "a" else 1.0) for name in "abcd"]
    before = conversations(standings)
    shares = Counter(before.values())
    assert 0.35 < shares["a"] / 2000 < 0.45  # two of five
    standings[3].ready = False
    after = conversations(standings)
    assert all(after[each] == name for each, name in before.items() if name != "d")


def test_a_conversation_moves_when_its_runner_has_more_than_its_share() -> None:
    standings = [a_standing(name) for name in "abcd"]
    ask = Ask("m", conversation=b"the same")
    places: Counter[str] = Counter()
    for _ in range(400):
        chosen = choose(ask, standings, 0, random.Random())
        assert chosen is not None
        chosen.begin(0)
        places[chosen.spec.name] += 1
        assert places[chosen.spec.name] <= 1.25 * (sum(places.values()) / 4) + 1


def test_a_breaker_lets_one_call_try_and_waits_longer_each_time() -> None:
    breaker = Breaker()
    now_s = 0.0
    for _ in range(FAILURES):
        assert breaker.allows(now_s)
        breaker.begin(now_s)
        breaker.fail(now_s)
    waits = []
    for _ in range(6):
        begun_s = now_s
        while not breaker.allows(now_s):
            now_s += 0.5
        waits.append(now_s - begun_s)
        breaker.begin(now_s)
        assert not breaker.allows(now_s)  # one at a time
        breaker.fail(now_s)
    assert waits == [MIN_OUT_S, 10, 20, 40, MAX_OUT_S, MAX_OUT_S]
    now_s += MAX_OUT_S
    breaker.begin(now_s)
    breaker.abandon()  # whoever tried it has gone: the next one may
    assert breaker.allows(now_s)
    breaker.begin(now_s)
    breaker.succeed()
    assert not breaker.out
    assert breaker.allows(now_s)
