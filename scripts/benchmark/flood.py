"""A flood of connections that ask for nothing: do prompts and running answers notice?

A second process holds 10,000 idle connections and 1,000 slow ones (flooder.py) on a front-end with
its default options. Prompts are asked one after the other, each on a new connection, before the
flood, while it comes, while it stands and after it; twenty answers run all the while. The slow ones
run into the limit of a head, the idle ones into that of connections. Afterwards the front-end
should have as many descriptors as before.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any

from . import report
from .child import Child, ChildFailed, cpu_s, pss_kib
from .figures import percentiles
from .load import encode_request
from .peers import FRONT_END, Peer, running
from .records import Plan, Read, read_answer
from .rounds import LIMIT_S, Load, measure

IDLE = 10_000
SLOW = 1_000
CALLS = 20
GAP_MS = 50
# What is measured, and for how many seconds. A slow one is ended after ten.
PHASES = {"before": 5, "while it comes": 10, "while it stands": 15, "after": 5}
# A fast front-end should be asked at a person's pace and not be kept busy by this.
PROMPT_INTERVAL_S = 0.02
END_LIMIT_S = 15.0

_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Phase:
    """What was found in one part of the time.

    Attributes:
        first_delta_ms: of prompts, from before connecting: percentiles.
        running: of the answers that ran meanwhile, the load generator's result.
        cpu: share of a core that the front-end used.
        pss_kib, descriptors: what the front-end held when the answers had ended.
    """

    prompts: int
    first_delta_ms: dict[str, float]
    errors: dict[str, int]
    running: dict[str, Any]
    cpu: float
    pss_kib: int | None
    descriptors: int


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    report.write(f"{arguments.idle} idle connections and {arguments.slow} slow ones")
    phases: dict[str, Phase] = {}
    with running(["relay"]) as bench:
        peer = bench.peer("relay")
        report.progress("warm-up")
        measure(bench, peer, Load(CALLS, 20, GAP_MS))
        before, coming, standing, after = PHASES
        phases[before] = _phase(before, peer)
        numbers = [f"--idle={arguments.idle}", f"--slow={arguments.slow}"]
        with Child.module("flooder", f"--port={peer.port}", *numbers) as flooder:
            flooder.say("go")
            phases[coming] = _phase(coming, peer)
            if (line := flooder.line(LIMIT_S)) != "open":
                raise ChildFailed(f"the flood said {line!r}")
            phases[standing] = _phase(standing, peer)
            flooder.say("tell")
            flood = json.loads(flooder.line())
        _await_descriptors(peer, phases[before].descriptors)
        phases[after] = _phase(after, peer)
    report.write(f"\n{_table(phases)}\n\n{_told(flood, phases[before], phases[standing])}")
    wrong = any(phase.errors or phase.running["errors"] for phase in phases.values())
    back = phases[after].descriptors <= phases[before].descriptors
    content = {"flood": flood, "phases": {name: asdict(each) for name, each in phases.items()}}
    return content, wrong or not back


def _phase(name: str, peer: Peer) -> Phase:
    report.progress(name)
    pids = peer.groups[FRONT_END]
    load = Load(CALLS, round(PHASES[name] * 1000 / GAP_MS), GAP_MS)
    took_ms: list[float] = []
    errors: dict[str, int] = {}
    arguments = [f"--port={peer.port}", f"--framing={peer.framing}", *load.arguments()]
    with Child.module("load", *arguments) as answers:
        answers.line(LIMIT_S)  # connected
        begun_s, used_s = time.monotonic(), cpu_s(pids)
        answers.say("go")
        while time.monotonic() < begun_s + PHASES[name]:
            try:
                took_ms.append(_first_delta_ms(peer))
            except (OSError, ChildFailed) as error:
                errors[str(error)] = errors.get(str(error), 0) + 1
            time.sleep(PROMPT_INTERVAL_S)
        cpu = (cpu_s(pids) - used_s) / (time.monotonic() - begun_s)
        answers.line(load.limit_s)  # done
        result = json.loads(answers.line(LIMIT_S))
    held = pss_kib(pids)
    open_now = _descriptors(peer)
    return Phase(len(took_ms), percentiles(took_ms), errors, result, cpu, held, open_now)


def _first_delta_ms(peer: Peer) -> float:
    """One prompt on a connection of its own, answered with one delta.

    Raises:
        OSError, ChildFailed: it was not answered whole.
    """
    plan = Plan(0, 1, 0)
    begun_ns = time.monotonic_ns()
    reads: list[Read] = []
    raw = b""
    with socket.create_connection(("127.0.0.1", peer.port), LIMIT_S) as sock:
        sock.sendall(encode_request(plan, peer.framing, peer.port))
        while not (raw.endswith(b"\r\n\r\n") and b"\r\n0\r\n" in raw):
            data = sock.recv(_READ_BYTES)
            if not data:
                break
            reads.append((time.monotonic_ns(), data))
            raw += data
    answer = read_answer(plan, reads, peer.framing)
    if answer.errors:
        raise ChildFailed(f"a prompt: {', '.join(answer.errors)}")
    return (answer.arrived_ns[0] - begun_ns) / 1e6


def _descriptors(peer: Peer) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in peer.groups[FRONT_END])


def _await_descriptors(peer: Peer, wanted: int) -> None:
    deadline_s = time.monotonic() + END_LIMIT_S
    while _descriptors(peer) > wanted and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _table(phases: dict[str, Phase]) -> str:
    rows = []
    for name, phase in phases.items():
        late = phase.running["late_ms"]
        rows.append(
            [
                name,
                str(phase.prompts),
                *(f"{phase.first_delta_ms[of]:.1f}" for of in ("p50", "p99", "max")),
                *(f"{late[of]:.1f}" for of in ("p50", "p99", "max")),
                f"{phase.cpu:.0%}",
                "-" if phase.pss_kib is None else f"{phase.pss_kib / 1024:.1f}",
                str(phase.descriptors),
                report.errors_text([{"errors": phase.errors}, phase.running]),
            ]
        )
    head = ["flood", "prompts", "first delta ms p50", "p99", "max"]
    head += [f"{CALLS} running: late ms p50", "p99", "max", "CPU", "PSS MiB", "descriptors"]
    return report.table([*head, "errors"], rows)


def _told(flood: dict[str, Any], before: Phase, standing: Phase) -> str:
    open_now = standing.descriptors - before.descriptors
    lines = [
        f"Opened in {flood['opening_s']:.1f} s; in the end {flood['open']['idle']} idle and"
        f" {flood['open']['slow']} slow ones were open, and had been ended:"
        f" {', '.join(f'{count} {name}' for name, count in flood['ended'].items()) or 'none'}."
    ]
    if before.pss_kib is not None and standing.pss_kib is not None and open_now > 0:
        each = (standing.pss_kib - before.pss_kib) / open_now
        lines.append(f"The front-end held {open_now} of them, {each:.1f} KiB each.")
    return "\n".join(lines)
