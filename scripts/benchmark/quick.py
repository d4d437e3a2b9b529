"""A guard against decay, in under a minute: what relaying costs, as a multiple of a fixed loop.

CPU seconds of two machines cannot be compared, nor can those of one machine on two days. So each
figure is a ratio: what front-end and runner used for a delta, or for a call, over what one turn of
a fixed loop used that ran just before and just after. The loop does by hand what relaying does:
unpacks heads, looks up calls, makes small bytes, and sends and receives them on a loopback socket.
How many deltas a process finds when it wakes up stands beside, as a busy machine makes
them more, and then each costs less.

Slices are short and take turns, so that whatever else the machine does hits both alike. It is a
report: only a wrong answer makes it fail, never a figure.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from . import report
from .child import Child, cpu_s
from .figures import over_rounds
from .peers import FRONT_END, RUNNER, SSHD, Bench, Peer, running
from .rounds import LIMIT_S, Load, measure

# A second in which 100 calls speak once per 10 ms.
BUSY = Load(100, 100, 10)
# Short calls: what a call costs besides its deltas.
CALLS, AT_ONCE, DELTAS = 300, 50, 2
# No round begins after this, so that a slow machine is done within a minute, too.
ENOUGH_S = 40.0
TURNS = 20_000
# Of the fixed loop: to be raised if it has to change, as figures of two loops cannot be compared.
LOOP = 1

GROUPS = (FRONT_END, RUNNER, SSHD)


@dataclass(frozen=True)
class Round:
    """What one round found, by group of processes; costs are in turns of the fixed loop.

    Attributes:
        turn_us: what a turn took, before, between and after the two loads.
    """

    per_delta: dict[str, float]
    per_call: dict[str, float]
    deltas_per_wake_up: dict[str, float]
    turn_us: list[float]
    errors: dict[str, int]


FIGURES = {"per_delta": 2, "per_call": 0, "deltas_per_wake_up": 1}
"""A round's figures, and how many digits of them mean something."""


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: a table and a line, the JSON's content, and whether anything was wrong."""
    rounds: list[Round] = []
    begun_s = time.monotonic()
    with running(["relay"]) as bench, _calls(peer := bench.peer("relay")) as calls:
        report.progress("warm-up")
        measure(bench, peer, BUSY.warm_up())
        _leg(calls, peer)
        reference_us()
        for number in range(arguments.rounds):
            if rounds and time.monotonic() - begun_s > ENOUGH_S:
                report.progress("this machine is slow: enough rounds")
                break
            report.progress(f"round {number + 1} of {arguments.rounds}")
            rounds.append(_round(bench, peer, calls))
    wrong = report.errors_text([{"errors": each.errors} for each in rounds])
    report.write(f"\n{_table(rounds)}\nerrors: {wrong}\n\n{line(rounds)}")
    return {"rounds": [asdict(each) for each in rounds]}, wrong != "none"


def _round(bench: Bench, peer: Peer, calls: Child) -> Round:
    before_us = reference_us()
    busy = measure(bench, peer, BUSY)
    between_us = reference_us()
    leg, used_s = _leg(calls, peer)
    after_us = reference_us()
    deltas, answers = max(1, busy.result["deltas"]), max(1, leg["calls"])
    delta_turn_us, call_turn_us = (before_us + between_us) / 2, (between_us + after_us) / 2
    return Round(
        {group: busy.cpu_s[group] * 1e6 / deltas / delta_turn_us for group in GROUPS},
        {group: used_s[group] * 1e6 / answers / call_turn_us for group in GROUPS},
        {group: deltas / max(1, busy.wakes[group]) for group in GROUPS},
        [before_us, between_us, after_us],
        dict(Counter(busy.result["errors"]) + Counter(leg["errors"])),
    )


def _calls(peer: Peer) -> Child:
    where = [f"--port={peer.port}", f"--framing={peer.framing}"]
    options = [f"--leg={CALLS}", f"--at-once={AT_ONCE}", f"--deltas={DELTAS}"]
    return Child.module("in_a_row", *where, *options)


def _leg(calls: Child, peer: Peer) -> tuple[dict[str, Any], dict[str, float]]:
    """A leg of short calls: what was found, and the CPU seconds that it took, by group."""
    before_s = {group: cpu_s(peer.groups[group]) for group in GROUPS}
    calls.say("go")
    found: dict[str, Any] = json.loads(calls.line(LIMIT_S))
    return found, {group: cpu_s(peer.groups[group]) - before_s[group] for group in GROUPS}


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


def _by_group(rounds: Sequence[Round], figure: str) -> dict[str, list[float]]:
    return {group: [getattr(each, figure)[group] for each in rounds] for group in GROUPS}


def _table(rounds: Sequence[Round]) -> str:
    rows = [
        [
            group,
            *(over_rounds(_by_group(rounds, of)[group], digits) for of, digits in FIGURES.items()),
        ]
        for group in GROUPS
    ]
    sums = [[sum(getattr(r, of).values()) for r in rounds] for of in ("per_delta", "per_call")]
    rows.append(["all three", over_rounds(sums[0], 2), over_rounds(sums[1], 0), ""])
    head = ["CPU", "turns per delta", "turns per call", "deltas per wake-up"]
    turn_us = [us for each in rounds for us in each.turn_us]
    turn = f"a turn of the fixed loop: {over_rounds(turn_us, 2)} microseconds of CPU"
    return f"{report.table(head, rows)}\n{turn}"


def line(rounds: Sequence[Round]) -> str:
    """The same as one line, for whoever searches logs: each median, least and most."""
    figures = {
        of: {group: _spread(values) for group, values in _by_group(rounds, of).items()}
        for of in FIGURES
    }
    turn_us = _spread([us for each in rounds for us in each.turn_us])
    return json.dumps({"bench": "quick", "loop": LOOP, **figures, "turn_us": turn_us})


def _spread(values: Sequence[float]) -> list[float]:
    return [round(each, 3) for each in (median(values), min(values), max(values))]
