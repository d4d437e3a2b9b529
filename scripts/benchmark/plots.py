"""Plots of what was measured, out of the JSON that the commands write, for docs/performance.md.

cpu.svg: what a million deltas cost, by peer and scenario, stacked by process. memory.svg: what a
call costs that is open. latency.svg: how late deltas came. endurance.svg: memory over calls. What
a plot does not show is passed over, and so are fields that are not known, as commands write more
than is drawn.

Knows the JSON and no measurement; how figures become pictures is charts.py's business.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from . import report
from .charts import PERCENTILES, Bar, Late, bars, curves, latencies

# Processes that are not a peer's, but the measurement's own.
_OURS = ("simulator", "load")

Rounds = dict[str, dict[str, list[Mapping[str, Any]]]]
"""Measurements by scenario and peer, round by round."""

Shown = TypeVar("Shown", Bar, Late)


def add(commands: Any) -> None:
    """The command and its arguments."""
    what = "SVG plots of what other commands wrote with --json"
    command: argparse.ArgumentParser = commands.add_parser("plot", help=what, description=what)
    command.set_defaults(run=run, json=None)
    command.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    command.add_argument("--out", type=Path, default=Path("docs/performance"), help="[%(default)s]")


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: writes the plots there is something for."""
    plots = drawn([json.loads(file.read_text()) for file in arguments.files])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in plots.items():
        (arguments.out / name).write_text(text)
        report.write(f"{arguments.out / name}")
    if not plots:
        report.write("There is nothing to plot in these files.")
    return {}, not plots


def drawn(contents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The plots, by their files' names."""
    rounds: Rounds = {}
    for content in contents:
        for scenario, measurement in _measurements(content):
            peers = rounds.setdefault(scenario, {})
            peers.setdefault(measurement["peer"], []).append(measurement)
    plots = {}
    if cpu := _panels(rounds, _cpu):
        plots["cpu.svg"] = bars("CPU seconds per million deltas", "CPU s per million deltas", cpu)
    if memory := _panels(rounds, _memory):
        plots["memory.svg"] = bars("Memory per open call", "PSS, KiB per call", memory)
    if late := _panels(rounds, _late):
        plots["latency.svg"] = latencies("How late a delta comes, in ms, logarithmic", late)
    for content in contents:
        if samples := content.get("samples"):
            plots["endurance.svg"] = _endurance(samples)
    return plots


# --- Reading ------------------------------------------------------------------------------------


def _measurements(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every measurement of a peer, with its scenario's title."""
    command = shlex.split(content.get("command", ""))[1:2]
    scenario = content.get("scenario") or "".join(command)
    found = [(scenario, each) for each in content.get("measurements", ())]
    for variants in content.get("peers", {}).values():
        for variant, rounds in variants.items():
            found += [(f"{scenario}, {variant}", {**each, "variant": variant}) for each in rounds]
    for name, measurement in found:
        load = measurement.get("load") or content.get("load") or {}
        if "peer" in measurement:
            yield _title(name, load, measurement), measurement


def _title(scenario: str, load: Mapping[str, Any], measurement: Mapping[str, Any]) -> str:
    if "open" in measurement:
        return f"{scenario}: {measurement['calls']:,} calls, and upstream silent"
    if "calls" not in load:
        return scenario
    how = "one after the other" if load.get("in_turn") else "at once"
    gap = f"{load['gap_ms']} ms apart" if load.get("gap_ms") else "without a gap"
    return f"{scenario}: {load['calls']:,} calls {how}, {load['deltas']} deltas each, {gap}"


def _panels(
    rounds: Rounds, read: Callable[[str, Sequence[Mapping[str, Any]]], Shown | None]
) -> dict[str, list[Shown]]:
    """What `read` makes of each peer, by scenario; without those it makes nothing of."""
    panels: dict[str, list[Shown]] = {}
    for scenario, peers in rounds.items():
        for peer, measurements in peers.items():
            shown = read(_marked(peer, measurements), measurements)
            if shown is not None:
                panels.setdefault(scenario, []).append(shown)
    return panels


def _marked(peer: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Its name, with a dagger if not all of its answers were whole and right."""
    wrong = any(each.get("errors") or each.get("result", {}).get("errors") for each in rounds)
    return f"{peer} \N{DAGGER}" if wrong else peer


def _cpu(peer: str, rounds: Sequence[Mapping[str, Any]]) -> Bar | None:
    if not all(each.get("result", {}).get("deltas") for each in rounds):
        return None
    if any("variant" in each for each in rounds):
        # A call with long deltas may be among them: a delta is no measure of what was done.
        return None
    per_delta = [
        {name: used * 1e6 / each["result"]["deltas"] for name, used in each["cpu_s"].items()}
        for each in rounds
    ]
    return _bar(peer, per_delta)


def _memory(peer: str, rounds: Sequence[Mapping[str, Any]]) -> Bar | None:
    if not all(each.get("open") and each.get("open_kib") for each in rounds):
        return None
    per_call = []
    for each in rounds:
        before, now = each["before_kib"], each["open_kib"]
        known = [name for name in now if None not in (now[name], before.get(name))]
        per_call.append({name: (now[name] - before[name]) / each["open"] for name in known})
    return _bar(peer, per_call)


def _bar(peer: str, rounds: Sequence[Mapping[str, float]]) -> Bar | None:
    # What every round has, so that there is a sum for each.
    names = [
        name for name in rounds[0] if name not in _OURS and all(name in each for each in rounds)
    ]
    return Bar(peer, {name: [each[name] for each in rounds] for name in names}) if names else None


def _late(peer: str, rounds: Sequence[Mapping[str, Any]]) -> Late | None:
    results = [each.get("result", {}) for each in rounds]
    late = [each.get("steady_late_ms") or each.get("late_ms") or {} for each in results]
    # Zero has no place on a logarithmic axis, and no delta takes no time.
    values = {name: [each[name] for each in late if each.get(name)] for name in PERCENTILES}
    known = {name: found for name, found in values.items() if found}
    return Late(peer, known) if known else None


def _endurance(samples: Sequence[Mapping[str, Any]]) -> str:
    calls = [each["calls"] for each in samples]
    held = {
        name: [(each["held"][name].get("memory_kib") or 0) / 1024 for each in samples]
        for name in samples[0]["held"]
    }
    title = f"Memory over {calls[-1]:,} calls in a row, in MiB"
    return curves(title, "calls", "MiB", calls, held)
