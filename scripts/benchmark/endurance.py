"""A hundred thousand calls in a row: does memory grow, or the count of descriptors or threads?

in_a_row.py makes them, short ones, some at once; between its legs, when nothing is under way, each
process is looked at. What grows is judged by the medians of the second and of the last fifth of the
samples: the first fifth is when caches and pools fill. Memory is the anonymous part of PSS: what
code and libraries take of it changes with whoever else runs the same Python. Tasks cannot be seen
from outside, but one that a call left behind would hold a KiB or more, and so would be found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from . import report
from .child import Child, pss_kib
from .peers import Peer, running
from .rounds import LIMIT_S

CALLS = 100_000
AT_ONCE = 50
DELTAS = 5
SAMPLES = 20
# Both have to be reached before memory is said to grow.
GROWTH_KIB = 1024
GROWTH_SHARE = 0.02
# Slower than ten calls a second is as good as stuck.
CALL_LIMIT_S = 0.1


@dataclass(frozen=True)
class Held:
    """What a group of processes held at one moment.

    Attributes:
        memory_kib: PSS without what is mapped from files.
        pss_kib: all of it.
    """

    memory_kib: int
    pss_kib: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """What was held, by group, after so many calls."""

    calls: int
    held: dict[str, Held]


@dataclass(frozen=True)
class Growth:
    """One figure over all samples.

    Attributes:
        second, last: its medians in these fifths.
        slope: per 10,000 calls, without the first fifth.
    """

    second: float
    last: float
    slope: float
    grows: bool


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong or grew."""
    leg = max(1, arguments.calls // SAMPLES)
    report.write(f"{leg * SAMPLES} calls, {AT_ONCE} at once, {DELTAS} deltas each")
    samples: list[Sample] = []
    legs: list[dict[str, Any]] = []
    with running(["relay"]) as bench:
        peer = bench.peer("relay")
        where = [f"--port={peer.port}", f"--framing={peer.framing}"]
        options = [f"--leg={leg}", f"--at-once={AT_ONCE}", f"--deltas={DELTAS}"]
        with Child.module("in_a_row", *where, *options) as generator:
            for number in range(1, SAMPLES + 1):
                generator.say("go")
                legs.append(json.loads(generator.line(LIMIT_S + leg * CALL_LIMIT_S)))
                samples.append(Sample(number * leg, held(peer)))
                per_s = legs[-1]["calls"] / legs[-1]["elapsed_s"]
                report.progress(f"{number * leg} calls, {per_s:.0f}/s")
    judged = {name: judgement(samples, name) for name in samples[0].held}
    report.write(f"\n{_samples_table(samples)}\n\n{_growth_table(judged)}\n\n{_told(judged)}")
    wrong = report.errors_text(legs)
    answered = sum(each["calls"] for each in legs)
    report.write(f"{answered} of {leg * SAMPLES} answers were whole and right; errors: {wrong}")
    content = {
        "samples": [asdict(each) for each in samples],
        "legs": legs,
        "growth": {
            name: {of: asdict(g) for of, g in each.items()} for name, each in judged.items()
        },
    }
    return content, wrong != "none" or any(_growing(judged))


# --- Looking ------------------------------------------------------------------------------------


def held(peer: Peer) -> dict[str, Held]:
    """What each group of a peer's processes holds now."""
    found = {}
    for name, pids in peer.groups.items():
        total = pss_kib(pids) or 0
        found[name] = Held(
            _anonymous_kib(pids) or total,
            total,
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        )
    return found


def _anonymous_kib(pids: Sequence[int]) -> int | None:
    """As child.pss_kib, of what no file backs; None where the kernel does not tell it apart."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return None
        found = re.search(r"^Pss_Anon:\s+(\d+)", text, re.MULTILINE)
        if found is None:
            return None
        total += int(found[1])
    return total


# --- Judging ------------------------------------------------------------------------------------


def judgement(samples: Sequence[Sample], group: str) -> dict[str, Growth]:
    """What became of each figure of a group."""
    calls = [sample.calls for sample in samples]
    each = [sample.held[group] for sample in samples]
    return {
        "memory": growth(calls, [held.memory_kib for held in each], memory_grows),
        "descriptors": growth(calls, [held.descriptors for held in each], count_grows),
        "threads": growth(calls, [held.threads for held in each], count_grows),
    }


def growth(
    calls: Sequence[int], values: Sequence[float], grows: Callable[[float, float], bool]
) -> Growth:
    """Compares the second fifth with the last; takes five samples or more."""
    fifth = len(values) // 5
    second, last = median(values[fifth : 2 * fifth]), median(values[-fifth:])
    slope = linear_regression(calls[fifth:], values[fifth:]).slope * 10_000
    return Growth(second, last, slope, grows(second, last))


def memory_grows(before_kib: float, after_kib: float) -> bool:
    grown_kib = after_kib - before_kib
    return grown_kib >= GROWTH_KIB and grown_kib >= GROWTH_SHARE * before_kib


def count_grows(before: float, after: float) -> bool:
    return after > before


# --- Telling ------------------------------------------------------------------------------------


def _samples_table(samples: Sequence[Sample]) -> str:
    groups = list(samples[0].held)
    rows = []
    for sample in samples:
        each = [sample.held[group] for group in groups]
        rows.append(
            [
                str(sample.calls),
                *(f"{held.memory_kib / 1024:.2f}" for held in each),
                ", ".join(str(held.descriptors) for held in each),
                ", ".join(str(held.threads) for held in each),
            ]
        )
    head = ["calls", *(f"{group} MiB" for group in groups)]
    return report.table([*head, "descriptors of each", "threads of each"], rows)


def _growth_table(judged: Mapping[str, Mapping[str, Growth]]) -> str:
    rows = []
    for group, figures in judged.items():
        for name, found in figures.items():
            unit, divisor, digits = ("MiB", 1024, 2) if name == "memory" else ("", 1, 0)
            values = [f"{each / divisor:.{digits}f}" for each in (found.second, found.last)]
            slope = f"{found.slope / divisor:+.3f}"
            verdict = "GROWS" if found.grows else "no growth"
            rows.append([group, f"{name} {unit}".strip(), *values, slope, verdict])
    return report.table(
        ["process", "medians of the", "second fifth", "last fifth", "per 10,000 calls", ""], rows
    )


def _growing(judged: Mapping[str, Mapping[str, Growth]]) -> list[str]:
    return [
        f"{name} of {group}"
        for group, figures in judged.items()
        for name, found in figures.items()
        if found.grows
    ]


def _told(judged: Mapping[str, Mapping[str, Growth]]) -> str:
    growing = _growing(judged)
    return f"There is growth: {', '.join(growing)}." if growing else "Nothing grows."
