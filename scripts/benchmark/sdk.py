"""What openai's typed iteration costs per delta, beside its bytes read by our DeltaDecoder.

A process per variant (sdk_variant.py), because clients share nothing but the interpreter; a fresh
one in every round. Three shapes: one call, which pays for waking up once per event; calls at once
whose reads bring an event each, which is the relay's ordinary day; and no gap at all, where a read
brings what has gathered. A bare asyncio Protocol is beside them for the limit.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from . import report
from .child import Child
from .figures import over_rounds
from .peers import running

LIMIT_S = 120.0

VARIANTS = {
    "typed iteration, default client": ("typed", "default"),
    "typed iteration, aiohttp client": ("typed", "aiohttp"),
    "bytes + DeltaDecoder, default client": ("bytes", "default"),
    "bytes + DeltaDecoder, aiohttp client": ("bytes", "aiohttp"),
    "a bare asyncio Protocol": ("protocol", "none"),
}
# Calls at once, deltas each, gap in ms.
SHAPES = {
    "one call, one event per read": (1, 1000, 2),
    "20 calls, one event per read": (20, 200, 10),
    "32 calls, no gap": (32, 1000, 0),
}


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: a table, the JSON's content, and whether anything was wrong."""
    found: dict[str, dict[str, list[Any]]] = {v: {s: [] for s in SHAPES} for v in VARIANTS}
    with running([]) as bench:
        for number in range(arguments.rounds):
            for variant, shapes in found.items():
                report.progress(f"round {number + 1} of {arguments.rounds}: {variant}")
                for shape, results in shapes.items():
                    results.append(_measure(variant, shape, bench.simulator_port))
    rows = []
    for variant, shapes in found.items():
        cells = [[each["cpu_us_per_delta"] for each in results] for results in shapes.values()]
        rows.append([variant, *(over_rounds(cell) for cell in cells)])
    report.write("CPU microseconds per delta of the reading process:\n")
    report.write(report.table(["", *SHAPES], rows))
    wrong = any(each["lost"] for shapes in found.values() for r in shapes.values() for each in r)
    if wrong:
        report.write("\nDeltas were lost.")
    return {"variants": found}, wrong


def _measure(variant: str, shape: str, port: int) -> Any:
    reading, client = VARIANTS[variant]
    calls, deltas, gap_ms = SHAPES[shape]
    options = [f"--port={port}", f"--reading={reading}", f"--client={client}"]
    options += [f"--calls={calls}", f"--deltas={deltas}", f"--gap-ms={gap_ms}"]
    with Child.module("sdk_variant", *options) as child:
        return json.loads(child.line(LIMIT_S))
