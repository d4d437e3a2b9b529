"""The issue's scenario e: what a call costs in memory that is open while upstream says nothing.

Each call has had its first delta when the memory of the peer's processes is compared with what it
was before them, after a warm-up. Then upstream ends them all, each with a last delta, so that one
that was lost meanwhile shows. A peer is started anew for every measurement: memory that was given
back to the allocator hides what the next calls take.

A way that does not get so many calls open in time, or breaks under them, is shown with what it has
and not asked again.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import report
from .child import Child, ChildFailed, cpu_s, pss_kib
from .figures import ms_over_rounds, over_rounds
from .peers import LITELLM, NGINX, Bench, Peer, running
from .rounds import LIMIT_S, Load, measure

CALLS = (2_000, 10_000)
WARM_UP = Load(100, 20, 10)
# For opening them, and again for ending them: ten times what the relay's CPU takes, and more.
HOLD_LIMIT_S = 60.0
HOLD_LIMIT_S_PER_CALL = 0.03
# Until what opening them left to do has been done.
SETTLE_S = 2.0
# Of a process's descriptors, those that are not a call's.
SPARE_DESCRIPTORS = 256


@dataclass(frozen=True)
class Opened:
    """One peer with so many calls open.

    Attributes:
        open: how many there were.
        first_delta_ms: from before connecting, when 200 are being opened at a time: percentiles.
        before_kib, open_kib: PSS by group of processes; None if one of them has ended.
        cpu_ms: by group, what opening them took; the same.
    """

    peer: str
    calls: int
    open: int
    opening_s: float
    first_delta_ms: dict[str, float]
    before_kib: dict[str, int | None]
    open_kib: dict[str, int | None]
    cpu_ms: dict[str, float | None]
    errors: dict[str, int]

    def kib_per_call(self, group: str) -> float | None:
        before, now = self.before_kib[group], self.open_kib[group]
        if before is None or now is None or not self.open:
            return None
        return (now - before) / self.open

    def cpu_ms_per_call(self, group: str) -> float | None:
        used = self.cpu_ms[group]
        return used / self.open if used is not None and self.open else None


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
    found: list[Opened] = []
    left_out: dict[str, str] = {}
    for wanted in arguments.calls:
        calls = min(wanted, allowed)
        report.write(f"e, open: {calls} calls open, upstream silent")
        if calls < wanted:
            report.write(f"(not {wanted}: a process may have {allowed + SPARE_DESCRIPTORS} files)")
        for number in range(arguments.rounds):
            shift = number % len(arguments.peers)
            for name in arguments.peers[shift:] + arguments.peers[:shift]:
                # One that could not will not: that takes long, and is known by now.
                if name not in left_out and not _failed(found, name, calls):
                    report.progress(f"round {number + 1} of {arguments.rounds}: {name}")
                    found += _measured(name, calls, left_out)
    for name, why in left_out.items():
        report.write(f"{name} is left out: {why}")
    report.write(f"\n{_memory_table(found)}\n\n{_opening_table(found)}")
    content = {
        "scenario": "open",
        "left_out": left_out,
        "measurements": [asdict(each) for each in found],
    }
    broken = set(left_out) - {NGINX, LITELLM}
    return content, bool(broken) or any(each.errors for each in found)


def _failed(found: Sequence[Opened], name: str, calls: int) -> bool:
    return any(each.open < calls for each in found if each.calls == calls and each.peer == name)


def _measured(name: str, calls: int, left_out: dict[str, str]) -> list[Opened]:
    # Room for all, in every place that has a limit; and nobody minds the silence.
    options = ["--max-calls", str(calls + 64), "--max-connections", str(calls + 64)]
    options += ["--timeout", "1h", "--delta-timeout", "1h"]
    try:
        with running([name], options=options) as bench:
            return [_open(bench, bench.peer(name), calls)]
    except ChildFailed as error:
        left_out[name] = str(error)
        return []


def _open(bench: Bench, peer: Peer, calls: int) -> Opened:
    measure(bench, peer, WARM_UP)
    limit_s = HOLD_LIMIT_S + HOLD_LIMIT_S_PER_CALL * calls
    arguments = [f"--port={peer.port}", f"--framing={peer.framing}", f"--calls={calls}"]
    with Child.module("holder", *arguments, f"--limit-s={limit_s}") as holder:
        before_kib = _memory(peer)
        before_s = _cpu_s(peer)
        holder.say("go")
        opened = json.loads(holder.line(limit_s + LIMIT_S))
        used_s = _cpu_s(peer)
        time.sleep(SETTLE_S)
        open_kib = _memory(peer)
        bench.simulator.say("go on")
        holder.say("end")
        errors = json.loads(holder.line(limit_s + LIMIT_S))
    report.progress(f"{opened['open']} open in {opened['opening_s']:.0f} s")
    for line in peer.said() if errors else ():
        report.progress(line)
    cpu_ms = {name: _grown_ms(before_s[name], used_s[name]) for name in peer.groups}
    return Opened(
        peer.name, calls, **opened, before_kib=before_kib, open_kib=open_kib, cpu_ms=cpu_ms,
        errors=errors,
    )  # fmt: skip


def _memory(peer: Peer) -> dict[str, int | None]:
    return {name: pss_kib(pids) for name, pids in peer.groups.items()}


def _cpu_s(peer: Peer) -> dict[str, float | None]:
    """None of a process that has ended."""
    found: dict[str, float | None] = {}
    for name, pids in peer.groups.items():
        try:
            found[name] = cpu_s(pids)
        except ChildFailed:
            found[name] = None
    return found


def _grown_ms(before_s: float | None, now_s: float | None) -> float | None:
    return None if before_s is None or now_s is None else (now_s - before_s) * 1000


# --- Tables -------------------------------------------------------------------------------------


def _by_size_and_peer(found: Sequence[Opened]) -> Mapping[tuple[int, str], list[Opened]]:
    kinds: dict[tuple[int, str], list[Opened]] = {}
    for each in found:
        kinds.setdefault((each.calls, each.peer), []).append(each)
    return kinds


def _memory_table(found: Sequence[Opened]) -> str:
    rows = []
    for (calls, peer), rounds in _by_size_and_peer(found).items():
        groups = list(rounds[0].open_kib)
        sums: list[list[float | None]] = [[], []]
        for each in rounds:
            sums[0].append(_sum([each.kib_per_call(group) for group in groups]))
            sums[1].append(_sum([each.cpu_ms_per_call(group) for group in groups]))
        rows += [
            [
                str(calls), peer, group,
                over_rounds([each.kib_per_call(group) for each in rounds]),
                over_rounds([each.cpu_ms_per_call(group) for each in rounds], 2),
            ]
            for group in groups
        ]  # fmt: skip
        if groups:
            rows.append([str(calls), peer, "sum", over_rounds(sums[0]), over_rounds(sums[1], 2)])
    return report.table(
        ["calls", "peer", "process", "PSS KiB per open call", "CPU ms to open one"], rows
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _opening_table(found: Sequence[Opened]) -> str:
    rows = []
    for (calls, peer), rounds in _by_size_and_peer(found).items():
        errors = report.errors_text([{"errors": each.errors} for each in rounds])
        rows.append(
            [
                str(calls),
                peer,
                over_rounds([each.open for each in rounds], 0),
                over_rounds([each.opening_s for each in rounds]),
                ms_over_rounds([each.first_delta_ms.get("p50") for each in rounds]),
                ms_over_rounds([each.first_delta_ms.get("p99") for each in rounds]),
                errors,
            ]
        )
    head = ["calls", "peer", "open", "opened in s", "first delta ms p50", "p99", "errors"]
    return report.table(head, rows)
