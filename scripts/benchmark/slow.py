"""The issue's scenario f: one client that does not read, among 100.

Its own call waits, the others do not notice. That call is heavy (4 KiB a millisecond), and begins
4 s before them, so that it has run into every limit on its way when they come. Three variants take
turns: without it, with it left unread until they are over, and with it read at once, which costs
what 4 MB/s cost. The others' latency should be alike in the first two, the heavy call's upstream
should stop once the buffers are full, and memory should grow by those buffers and not by the
answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from . import report
from .figures import PERCENTILES, over_rounds
from .peers import running
from .rounds import Load, Measurement, measure

OTHERS = 99
DELTAS = 200
GAP_MS = 10
HEAVY_DELTAS = 8000
HEAD_START_S = 4.0
UNREAD_S = 8.0

_HEAVY = Load(OTHERS + 1, DELTAS, GAP_MS, heavy=HEAVY_DELTAS, head_start_s=HEAD_START_S)
VARIANTS = {
    "without": Load(OTHERS, DELTAS, GAP_MS),
    f"unread {UNREAD_S:g} s": replace(_HEAVY, unread_s=UNREAD_S),
    "read at once": _HEAVY,
}

Found = dict[str, dict[str, list[Measurement]]]
"""Rounds by peer and variant."""


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    report.write(f"f, slow: {VARIANTS['without']}, and one more call that is left unread")
    with running(arguments.peers) as bench:
        report.left_out(bench)
        found: Found = {peer.name: {name: [] for name in VARIANTS} for peer in bench.peers}
        for peer in bench.peers:
            report.progress(f"warm-up: {peer.name}")
            measure(bench, peer, VARIANTS["without"].warm_up())
        for number in range(arguments.rounds):
            shift = number % len(bench.peers)
            for peer in bench.peers[shift:] + bench.peers[:shift]:
                for name, load in VARIANTS.items():
                    report.progress(
                        f"round {number + 1} of {arguments.rounds}: {peer.name}, {name}"
                    )
                    found[peer.name][name].append(measure(bench, peer, load, sample_memory=True))
    report.write(f"\n{_latency_table(found)}\n\n{_held_table(found)}")
    content = {
        "scenario": "slow",
        "left_out": bench.left_out,
        "peers": {
            peer: {name: [asdict(each) for each in rounds] for name, rounds in variants.items()}
            for peer, variants in found.items()
        },
    }
    wrong = any(each.result["errors"] for _, _, rounds in _kinds(found) for each in rounds)
    return content, wrong


def _kinds(found: Found) -> Iterator[tuple[str, str, list[Measurement]]]:
    for peer, variants in found.items():
        for name, rounds in variants.items():
            yield peer, name, rounds


def _latency_table(found: Found) -> str:
    """The others: what they notice."""
    rows = []
    for of in ("steady_late_ms", "gap_ms"):
        for peer, name, rounds in _kinds(found):
            cells = report.percentile_cells(report.results_of(rounds), of)
            rows.append([report.LATENCIES[of], peer, name, *cells])
    return report.table(["the others'", "peer", "heavy call", *PERCENTILES], rows)


def _held_table(found: Found) -> str:
    """The heavy call: what is held for it."""
    rows = []
    for peer, name, rounds in _kinds(found):
        results = report.results_of(rounds)
        unread = VARIANTS[name].unread_s
        ahead = [
            each["heavy"]["sent_while_unread_bytes"] / 2**20 if unread else None for each in results
        ]
        grown = [
            f"{group} {over_rounds([each.growth_kib[group] / 1024 for each in rounds], 1)}"
            for group in rounds[0].growth_kib
        ]
        cells = [over_rounds(ahead, 2), ", ".join(grown) or "-", report.errors_text(results)]
        rows.append([peer, name, *cells])
    head = ["peer", "heavy call", "MiB sent while unread", "grew MiB", "errors"]
    return report.table(head, rows)
