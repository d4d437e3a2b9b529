"""A guard against decay, in under a minute: what relaying costs, as a multiple of a fixed loop.

CPU seconds of two machines cannot be compared, nor can those of one machine on two days. So each
figure is a ratio: what front-end and runner used for a delta, or for a call, over what one turn of
a fixed loop used that ran just before and just after. The loop does by hand what relaying does:
unpacks heads, looks up calls, makes small bytes, and sends and receives them on a loopback socket.
It must never change, or figures of before and after cannot be compared.

Slices are short and take turns, so that whatever else the machine does hits both alike. It is a
report: only a wrong answer makes it fail, never a figure.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from . import report
from .child import Child, cpu_s
from .figures import over_rounds
from .peers import FRONT_END, RUNNER, SSHD, Peer, running
from .rounds import LIMIT_S, Load, measure

# A second in which 100 calls speak once per 10 ms.
BUSY = Load(100, 100, 10)
# Short calls: what a call costs besides its deltas.
CALLS, AT_ONCE, DELTAS = 300, 50, 2
# No round begins after this, so that a slow machine is done within a minute, too.
ENOUGH_S = 40.0
TURNS = 20_000

GROUPS = (FRONT_END, RUNNER, SSHD)


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: a table, a line of JSON, the same for a file, and whether answers were wrong."""
    per_delta: dict[str, list[float]] = {group: [] for group in GROUPS}
    per_call: dict[str, list[float]] = {group: [] for group in GROUPS}
    turns_us: list[float] = []
    errors: list[dict[str, int]] = []
    begun_s = time.monotonic()
    with running(["relay"]) as bench, _calls(peer := bench.peer("relay")) as calls:
        report.progress("warm-up")
        reference_us()
        measure(bench, peer, BUSY.warm_up())
        _leg(calls, peer)
        turns_us.append(reference_us())
        for number in range(arguments.rounds):
            if time.monotonic() - begun_s > ENOUGH_S:
                report.progress("this machine is slow: enough rounds")
                break
            report.progress(f"round {number + 1} of {arguments.rounds}")
            busy = measure(bench, peer, BUSY)
            turns_us.append(reference_us())
            leg, used_s = _leg(calls, peer)
            turns_us.append(reference_us())
            before, between, after = turns_us[-3:]
            errors += [busy.result["errors"], leg["errors"]]
            for group in GROUPS:
                delta_us = busy.cpu_s[group] * 1e6 / max(1, busy.result["deltas"])
                per_delta[group].append(delta_us / ((before + between) / 2))
                call_us = used_s[group] * 1e6 / max(1, leg["calls"])
                per_call[group].append(call_us / ((between + after) / 2))
    found = {"per_delta": per_delta, "per_call": per_call}
    report.write(f"\n{_table(found, turns_us)}\n\n{line(found, turns_us)}")
    wrong = report.errors_text([{"errors": each} for each in errors])
    if wrong != "none":
        report.write(f"\nWrong answers: {wrong}")
    return {**found, "turn_us": turns_us, "errors": errors}, any(errors)


@contextmanager
def _calls(peer: Peer) -> Iterator[Child]:
    options = [f"--leg={CALLS}", f"--at-once={AT_ONCE}", f"--deltas={DELTAS}"]
    where = [f"--port={peer.port}", f"--framing={peer.framing}"]
    with Child.module("in_a_row", *where, *options) as child:
        yield child


def _leg(calls: Child, peer: Peer) -> tuple[dict[str, Any], dict[str, float]]:
    """A leg of short calls: what was found, and the CPU seconds that it took, by group."""
    before = {group: cpu_s(peer.groups[group]) for group in GROUPS}
    calls.say("go")
    found: dict[str, Any] = json.loads(calls.line(LIMIT_S))
    return found, {group: cpu_s(peer.groups[group]) - before[group] for group in GROUPS}


# --- The fixed loop -----------------------------------------------------------------------------

_HEAD = struct.Struct("!BIH")


def reference_us() -> float:
    """CPU microseconds of one turn of the fixed loop, of the kernel's part too."""
    near, far = socket.socketpair()
    with near, far:
        texts = {number: b"delta %d" % number for number in range(128)}
        sizes = dict.fromkeys(texts, 0)
        begun_s = time.process_time()
        for turn in range(TURNS):
            text = b"%d:%b" % (turn, texts[turn & 127])
            near.send(_HEAD.pack(1, turn & 127, len(text)) + text)
            data = far.recv(4096)
            kind, number, size = _HEAD.unpack_from(data)
            if number in sizes and kind == 1:
                sizes[number] += size
                bytearray(b"%x\r\n%b\r\n" % (size, data[_HEAD.size :]))
        return (time.process_time() - begun_s) * 1e6 / TURNS


# --- What comes out -----------------------------------------------------------------------------


def _table(found: dict[str, dict[str, list[float]]], turns_us: list[float]) -> str:
    head = ["CPU, in turns of the fixed loop", "of a delta", "of a call"]
    rows = [
        [group, over_rounds(found["per_delta"][group], 2), over_rounds(found["per_call"][group], 0)]
        for group in GROUPS
    ]
    for name, groups in (("front-end and runner", (FRONT_END, RUNNER)), ("all three", GROUPS)):
        sums = [
            [sum(of) for of in zip(*(found[per][group] for group in groups), strict=True)]
            for per in ("per_delta", "per_call")
        ]
        rows.append([name, over_rounds(sums[0], 2), over_rounds(sums[1], 0)])
    turn = f"one turn: {over_rounds(turns_us, 2)} microseconds of CPU"
    return f"{report.table(head, rows)}\n{turn}"


def line(found: dict[str, dict[str, list[float]]], turns_us: list[float]) -> str:
    """The same as one line, for whoever searches logs: medians and ranges."""
    figures = {
        f"{group} {per.replace('_', ' ')}": _spread(values)
        for per, groups in found.items()
        for group, values in groups.items()
    }
    return json.dumps({"bench": "quick", **figures, "turn us": _spread(turns_us)})


def _spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [round(each, 3) for each in (median(values), min(values), max(values))]
