"""How late a delta is at one per 100 ms: the raw client, and curl as a person would use it.

The peers are measured as in every scenario, by the load generator. curl's figure is the time at
which its text comes out of its stdout, so curl's own part is in it. Each delta is checked.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import asdict
from typing import Any

from . import report
from .child import LINE_LIMIT_S, Child
from .figures import over_rounds, percentiles
from .peers import NAMES, Bench, running
from .records import Plan, Read, read_answer
from .rounds import Load, interleaved

GAP_MS = 100


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    load = Load(1, arguments.deltas, GAP_MS)
    report.write(f"one call, {load.deltas} deltas, {GAP_MS} ms apart")
    with running(NAMES) as bench:
        measurements = list(interleaved(bench, load, arguments.rounds, report.progress))
        curl = _curl_rounds(bench, load, arguments.rounds)
    report.write(f"\n{report.latency_table(measurements)}\n\n{report.rate_table(measurements)}")
    if added := report.added_table(measurements):
        report.write(f"\n{added}\n")
    if curl:
        figures = ", ".join(
            f"{name} {over_rounds([each['late_ms'][name] for each in curl], 2)}"
            for name in ("p50", "p99", "max")
        )
        report.write(
            f"curl -N through the relay, ms: {figures}; errors: {report.errors_text(curl)}"
        )
    content = {
        "load": asdict(load),
        "measurements": [asdict(each) for each in measurements],
        "curl": curl,
    }
    results = [*(each.result for each in measurements), *curl]
    return content, any(each["errors"] for each in results)


def _curl_rounds(bench: Bench, load: Load, rounds: int) -> list[dict[str, Any]]:
    curl = shutil.which("curl")
    if curl is None:
        report.progress("no curl here: left out")
        return []
    found = []
    for number in range(rounds):
        report.progress(f"round {number + 1} of {rounds}: curl through the relay")
        found.append(_curl(curl, bench.peer("relay").port, Plan(number, load.deltas, GAP_MS)))
    return found


def _curl(curl: str, port: int, plan: Plan) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/chat"
    reads: list[Read] = []
    with Child([curl, "-qsN", "--noproxy", "*", "-d", plan.prompt(), url]) as child:
        while data := child.read(LINE_LIMIT_S):
            reads.append((time.monotonic_ns(), data))
    answer = read_answer(plan, reads, "plain")
    pairs = zip(answer.arrived_ns, answer.sent_ns, strict=True)
    late_ms = [(arrived_ns - sent_ns) / 1e6 for arrived_ns, sent_ns in pairs]
    return {"late_ms": percentiles(late_ms), "errors": dict(answer.errors)}
