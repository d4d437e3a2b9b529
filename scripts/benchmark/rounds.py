"""Rounds: every peer in turn, again and again, under the same load.

A round measures each peer once, beginning with another one each time, so that what the machine does
besides hits all alike. The first round is not counted: it makes connections and imports. CPU time
is read before the first request and after the last answer, of the peer's processes and of the
simulator and load generator, which should not be what is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .child import Child, ChildFailed, cpu_s, pss_kib, wakes
from .load import UNFINISHED
from .peers import Bench, Peer

# How often memory is looked at while a load is on; only where its growth is asked for.
SAMPLE_S = 0.25
# However slow a peer is, it is given up on after this and ten times what the pace asks for.
LIMIT_S = 60.0
# One that was given up on still works on what it was asked: it is calm below this share of a core.
CALM_SHARE = 0.05
CALM_LIMIT_S = 60.0
WARM_UP_DELTAS = 20


@dataclass(frozen=True)
class Load:
    """What the load generator is to do.

    Attributes:
        heavy: deltas of a heavy first call, if there is to be one.
        unread_s: how long that one is left unread.
        head_start_s: how long before the others it begins.
        in_turn: calls are made one after the other and not at once; on one connection, unless
        fresh: each on a new connection, whose making counts as the call's.
    """

    calls: int
    deltas: int
    gap_ms: int
    heavy: int = 0
    unread_s: float = 0.0
    head_start_s: float = 0.0
    in_turn: bool = False
    fresh: bool = False

    def warm_up(self) -> Load:
        return replace(
            self, deltas=min(self.deltas, WARM_UP_DELTAS), heavy=0, unread_s=0.0, head_start_s=0.0
        )

    @property
    def limit_s(self) -> float:
        turns = self.calls if self.in_turn else 1
        return LIMIT_S + 10 * self.unread_s + turns * self.deltas * self.gap_ms / 100

    def __str__(self) -> str:
        how = "at once"
        if self.in_turn:
            how = (
                f"one after the other on {'fresh connections' if self.fresh else 'one connection'}"
            )
        gap = f"{self.gap_ms} ms apart" if self.gap_ms else "without a gap"
        return f"{self.calls} calls {how}, {self.deltas} deltas each, {gap}"

    def arguments(self) -> list[str]:
        """What the load generator is told besides where."""
        flags = {"--in-turn": self.in_turn, "--fresh": self.fresh}
        return [
            *(flag for flag, is_set in flags.items() if is_set),
            f"--limit-s={self.limit_s}",
            f"--calls={self.calls}",
            f"--deltas={self.deltas}",
            f"--gap-ms={self.gap_ms}",
            f"--heavy={self.heavy}",
            f"--unread-s={self.unread_s}",
            f"--head-start-s={self.head_start_s}",
        ]


@dataclass(frozen=True)
class Measurement:
    """One peer under one load.

    Attributes:
        result: what the load generator found.
        cpu_s: by group of processes, the simulator and the load generator among them.
        wakes: by group, how often it slept: a machine's other load changes that less than CPU time.
        pss_kib: by group, at the end.
        growth_kib: by group, the most that it held above what it held before; if sampled.
        load: what this was measured under.
    """

    peer: str
    result: dict[str, Any]
    cpu_s: dict[str, float]
    wakes: dict[str, int]
    pss_kib: dict[str, int | None]
    growth_kib: dict[str, int]
    load: Load


def interleaved(
    bench: Bench, load: Load, rounds: int, progress: Callable[[str], None]
) -> Iterator[Measurement]:
    """Each peer once per round, after a round that does not count."""
    for peer in bench.peers:
        progress(f"warm-up: {peer.name}")
        measure(bench, peer, load.warm_up())
    for number in range(rounds):
        shift = number % len(bench.peers)
        for peer in bench.peers[shift:] + bench.peers[:shift]:
            progress(f"round {number + 1} of {rounds}: {peer.name}")
            yield measure(bench, peer, load)


def measure(bench: Bench, peer: Peer, load: Load, *, sample_memory: bool = False) -> Measurement:
    """One load on one peer.

    Raises:
        ChildFailed: a process ended, or kept silent. A peer that is too slow is no failure: its
            calls are unfinished, and the result says so.
    """
    arguments = [f"--port={peer.port}", f"--framing={peer.framing}", *load.arguments()]
    with Child.module("load", *arguments) as generator:
        _expect(generator, "connected", LIMIT_S)
        groups = {
            **peer.groups,
            "simulator": [bench.simulator.pid],
            "load": [generator.pid],
        }
        sampler = _Memory(peer.groups)
        slept = {name: wakes(pids) for name, pids in groups.items()}
        before = {name: cpu_s(pids) for name, pids in groups.items()}
        generator.say("go")
        if sample_memory:
            sampler.watch(generator, load.limit_s + LIMIT_S)
        else:
            _expect(generator, "done", load.limit_s + LIMIT_S)
        used = {name: cpu_s(pids) - before[name] for name, pids in groups.items()}
        woken = {name: wakes(pids) - slept[name] for name, pids in groups.items()}
        memory = {name: pss_kib(pids) for name, pids in peer.groups.items()}
        result = json.loads(generator.line(LIMIT_S))
    if UNFINISHED in result["errors"]:
        await_calm(peer)
    return Measurement(peer.name, result, used, woken, memory, sampler.growth_kib, load)


def await_calm(peer: Peer) -> None:
    """Waits until a peer that was given up on does nothing any more, so that the next one can."""
    pids = [pid for group in peer.groups.values() for pid in group]
    deadline_s = time.monotonic() + CALM_LIMIT_S
    used_s = cpu_s(pids)
    while time.monotonic() < deadline_s:
        time.sleep(1.0)
        before_s, used_s = used_s, cpu_s(pids)
        if used_s - before_s < CALM_SHARE:
            return


def _expect(generator: Child, expected: str, limit_s: float) -> None:
    line = generator.line(limit_s)
    if line != expected:
        raise ChildFailed(f"the load generator said {line!r} and not {expected!r}")


class _Memory:
    """Growth of groups of processes while a load is on."""

    def __init__(self, groups: dict[str, list[int]]) -> None:
        self._groups = groups
        self._before: dict[str, int] = {}
        self.growth_kib: dict[str, int] = {}

    def watch(self, generator: Child, limit_s: float) -> None:
        """Samples until the generator is done."""
        for _ in range(int(limit_s / SAMPLE_S)):
            self._sample()
            line = generator.line_within(SAMPLE_S)
            if line == "done":
                return
        raise ChildFailed(f"the load generator is not done within {limit_s:g} s")

    def _sample(self) -> None:
        for name, pids in self._groups.items():
            held = pss_kib(pids)
            if held is not None:
                grown = held - self._before.setdefault(name, held)
                self.growth_kib[name] = max(grown, self.growth_kib.get(name, 0))


def by_peer(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """The rounds of each peer, in order."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        found.setdefault(each.peer, []).append(each)
    return found
