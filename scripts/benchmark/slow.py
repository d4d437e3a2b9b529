"""One client that does not read, among 200: its own call waits, the others do not notice.

The first call is heavy (4 KiB a millisecond) so that it runs into every limit on its way. Three
variants take turns: without it, with it read at once, and with it left unread for 5 s. The others'
latency should be alike in the last two, the heavy call's upstream should stop once the buffers
are full, and the front-end's memory should grow by those buffers and not by the answer.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from . import report
from .figures import over_rounds
from .peers import running
from .rounds import Load, Measurement, measure

CALLS = 200
DELTAS = 200
GAP_MS = 50
HEAVY_DELTAS = 6000
UNREAD_S = 5.0

VARIANTS = {
    "without": Load(CALLS, DELTAS, GAP_MS),
    "read at once": Load(CALLS, DELTAS, GAP_MS, heavy=HEAVY_DELTAS),
    f"unread for {UNREAD_S:g} s": Load(
        CALLS, DELTAS, GAP_MS, heavy=HEAVY_DELTAS, unread_s=UNREAD_S
    ),
}


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    report.write(f"{CALLS} calls at once, {DELTAS} deltas each, {GAP_MS} ms apart")
    found: dict[str, list[Measurement]] = {name: [] for name in VARIANTS}
    with running(["relay"]) as bench:
        peer = bench.peer("relay")
        report.progress("warm-up")
        measure(bench, peer, VARIANTS["without"].warm_up())
        for number in range(arguments.rounds):
            for name, load in VARIANTS.items():
                report.progress(f"round {number + 1} of {arguments.rounds}: {name}")
                found[name].append(measure(bench, peer, load, sample_memory=True))
    report.write(f"\n{_table(found)}")
    content = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    wrong = any(each.result["errors"] for rounds in found.values() for each in rounds)
    return {"variants": content}, wrong


def _table(found: dict[str, list[Measurement]]) -> str:
    rows = []
    for name, rounds in found.items():
        results = [each.result for each in rounds]
        ahead = [
            each["heavy"]["sent_while_unread_bytes"] if VARIANTS[name].unread_s else None
            for each in results
        ]
        rows.append(
            [
                name,
                *(
                    over_rounds([each["steady_late_ms"].get(name) for each in results], 2)
                    for name in ("p50", "p99", "max")
                ),
                over_rounds([None if b is None else b / 2**20 for b in ahead], 2),
                *(
                    over_rounds([each.growth_kib[group] / 1024 for each in rounds], 2)
                    for group in rounds[0].growth_kib
                ),
                report.errors_text(results),
            ]
        )
    groups = next(iter(found.values()))[0].growth_kib
    head = ["heavy call", "others' steady ms p50", "p99", "max", "MiB sent while unread"]
    return report.table([*head, *(f"{g} grew MiB" for g in groups), "errors"], rows)
