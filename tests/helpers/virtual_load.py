"""Calls that come at random and take their time, on runners that are only played, in virtual time.

What selection.py and standing.py make of many calls is seen here in milliseconds, and the same for
the same seed. No loop, no clock, no retries: every call goes where choose() says, once.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmrelay.runners.selection import Ask, choose
from llmrelay.runners.spec import HostSpec, RunnerSpec
from llmrelay.runners.standing import Outcome, Standing
from llmrelay.values import HostAddress

# How a runner serves a call that comes at a time: for how long, and how that ends.
Service = Callable[[Standing, float, random.Random], tuple[float, Outcome]]

ASK = Ask("m")


def a_spec(name: str, **fields: Any) -> RunnerSpec:
    host = HostSpec(HostAddress(name), "python3", f"http://{name}.test/v1")
    return RunnerSpec(name, host, **fields)


def a_standing(name: str, *, in_flight: int = 0, **fields: Any) -> Standing:
    """A ready runner."""
    spec = a_spec(name, **fields)
    standing = Standing(spec, spec.max_calls)
    standing.ready = True
    standing.in_flight = in_flight
    return standing


def standings(count: int, **fields: Any) -> list[Standing]:
    return [a_standing(f"r{index}", **fields) for index in range(count)]


def answers_in(mean_s: float) -> Service:
    """Every call is answered; how long that takes has an exponential distribution."""
    return lambda _, __, random: (random.expovariate(1 / mean_s), Outcome.OK)


def refuses_at_once(name: str, service: Service, since_s: float = 0.0) -> Service:
    """As `service`, but one runner fails every call within 5 ms."""

    def served(standing: Standing, now_s: float, random: random.Random) -> tuple[float, Outcome]:
        if standing.spec.name == name and now_s >= since_s:
            return 0.005, Outcome.FAILED
        return service(standing, now_s, random)

    return served


class VirtualLoad:
    """A load on runners.

    Attributes:
        now_s: the virtual time.
        calls: per runner's name, how many it got; its user may clear it.
        went: each call's ask, and the name of its runner.
    """

    def __init__(self, runners: Sequence[Standing], service: Service, seed: int = 1) -> None:
        self.now_s = 0.0
        self.calls: Counter[str] = Counter()
        self.went: list[tuple[Ask, str]] = []
        self._runners = runners
        self._service = service
        self._random = random.Random(seed)
        self._begun = 0
        self._ends: list[tuple[float, int, Standing, Outcome]] = []

    def run(self, per_s: float, for_s: float, asks: Iterable[Ask] = ()) -> VirtualLoad:
        """Calls at random times, `per_s` of them on average; each asks for the next of `asks`."""
        until_s = self.now_s + for_s
        asking = iter(asks)
        while (next_s := self.now_s + self._random.expovariate(per_s)) < until_s:
            self._advance(next_s)
            self._call(next(asking, ASK))
        self._advance(until_s)
        return self

    def share(self, *names: str) -> float:
        """Of all calls, those that these runners got."""
        return sum(self.calls[name] for name in names) / self.calls.total()

    def _advance(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            end_s, _, standing, outcome = heapq.heappop(self._ends)
            standing.end(end_s, outcome)
        self.now_s = now_s

    def _call(self, ask: Ask) -> None:
        chosen = choose(ask, self._runners, self.now_s, self._random)
        assert chosen is not None, "the load is more than the runners have places for"
        chosen.begin(self.now_s)
        self.calls[chosen.spec.name] += 1
        self.went.append((ask, chosen.spec.name))
        self._begun += 1
        took_s, outcome = self._service(chosen, self.now_s, self._random)
        heapq.heappush(self._ends, (self.now_s + took_s, self._begun, chosen, outcome))
