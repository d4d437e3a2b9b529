"""The issue's scenarios a to d: so many calls at a pace, through every peer, round after round.

They differ in numbers alone, which stand here; each prints what it cost, how late deltas came, and
what was wrong. e and f measure something else besides, and have files of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import profiler, report
from .load import UNFINISHED
from .peers import Bench, running
from .rounds import Load, Measurement, interleaved


@dataclass(frozen=True)
class Scenario:
    """What is measured, once for each of `gaps_ms`."""

    letter: str
    what: str
    load: Load
    gaps_ms: tuple[int, ...]


SCENARIOS = {
    "one": Scenario(
        # So many that a median of the time to the first delta means something.
        "a",
        "one call after the other",
        Load(30, 50, 0, in_turn=True),
        (0, 10),
    ),
    "busy": Scenario("b", "calls at once through one channel", Load(100, 200, 10), (10,)),
    "crowd": Scenario("c", "very many calls at once", Load(1000, 100, 50), (50,)),
    "flat": Scenario("d", "as fast as it goes, one event per write", Load(64, 500, 0), (0,)),
}


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    scenario = SCENARIOS[arguments.scenario]
    load = replace(
        scenario.load, calls=arguments.calls, deltas=arguments.deltas, fresh=arguments.fresh
    )
    loads = [replace(load, gap_ms=gap_ms) for gap_ms in arguments.gap]
    found: list[Measurement] = []
    with running(arguments.peers) as bench:
        report.left_out(bench)
        for each in loads:
            report.write(f"{scenario.letter}, {arguments.scenario}: {each}")
            found += _measured(bench, each, arguments.rounds)
        if arguments.profile:
            profiler.profile(bench, loads[0])
    content = {
        "scenario": arguments.scenario,
        "load": asdict(loads[0]),
        "left_out": bench.left_out,
        "measurements": [asdict(each) for each in found],
    }
    return content, any(each.result["errors"] for each in found)


def _measured(bench: Bench, load: Load, rounds: int) -> Sequence[Measurement]:
    found = list(interleaved(bench, load, rounds, report.progress))
    tables = [report.cost_table(found), report.latency_table(found), report.rate_table(found)]
    if added := report.added_table(found):
        tables.append(added)
    if any(UNFINISHED in each.result["errors"] for each in found):
        tables.append(f"What is unfinished was not over after {load.limit_s:g} s.")
    report.write("\n" + "\n\n".join(tables) + "\n")
    return found
