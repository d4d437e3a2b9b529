"""What comes out: tables for people, JSON for programs, and what machine it was.

Progress goes to stderr, tables to stdout. Knows what a Measurement is, and nothing of how one is
made.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import proxied
from .figures import PERCENTILES, ms_over_rounds, over_rounds
from .peers import Bench
from .rounds import Measurement, by_peer

_PACKAGES = ("asyncssh", "uvloop", "openai", "aiohttp", "httpx2", "jiter")


def write(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def left_out(bench: Bench) -> None:
    """Says which peers are not measured although they were asked for, and why."""
    for name, why in bench.left_out.items():
        write(f"{name} is left out: {why}")


# --- Machine ------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on, and with what versions."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "openssh": _said("ssh", "-V"),
        "nginx": _said(proxied.nginx_program(), "-v"),
        "litellm": proxied.litellm_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def machine_line(known: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in known["packages"].items() if v)
    litellm = f"LiteLLM {known['litellm']}" if known["litellm"] else "no LiteLLM"
    return (
        f"{known['cores']} cores of {known['cpu']}, {known['system']},"
        f" load average {known['load_average'][0]};\n"
        f"Python {known['python']}, {known['openssh']}, {packages};\n"
        f"{known['nginx'] or 'no nginx'}, {litellm}"
    )


def command_line() -> str:
    return shlex.join(["scripts/bench", *sys.argv[1:]])


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.*)", text)
    return found[1].strip() if found else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _said(program: str | None, *arguments: str) -> str | None:
    path = shutil.which(program) if program else None
    if path is None:
        return None
    ran = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    return (ran.stdout + ran.stderr).partition("\n")[0].partition(",")[0].strip()


# --- Tables of measurements ---------------------------------------------------------------------

# "steady" is of deltas sent while all calls were under way, "late" of all; a gap is the time
# between two arrivals of the same call.
LATENCIES = {
    "first_delta_ms": "first delta ms",
    "late_ms": "late ms",
    "steady_late_ms": "steady late ms",
    "gap_ms": "gap ms",
}


def cost_table(measurements: Sequence[Measurement]) -> str:
    """CPU, wake-ups and memory of each peer's processes."""
    rows = []
    for peer, rounds in by_peer(measurements).items():
        for group in rounds[0].pss_kib:
            held = over_rounds([_mib(each, group) for each in rounds])
            rows.append([peer, group, *_cpu_and_wakes(rounds, group), held])
        if rounds[0].pss_kib:
            total = [sum(_us_per_delta(r, g) for g in r.pss_kib) for r in rounds]
            rows.append([peer, "sum", over_rounds(total), "", ""])
        for group in ("simulator", "load"):
            rows.append([peer, f"({group})", *_cpu_and_wakes(rounds, group), ""])
    head = ["peer", "process", "CPU s per million deltas", "wake-ups per 100 deltas", "PSS MiB"]
    return table(head, rows)


def latency_table(measurements: Sequence[Measurement]) -> str:
    """How late deltas came, and how evenly: a figure of all peers below each other."""
    results = {peer: results_of(rounds) for peer, rounds in by_peer(measurements).items()}
    rows = [
        [title, peer, *percentile_cells(found, of)]
        for of, title in LATENCIES.items()
        for peer, found in results.items()
    ]
    return table(["", "peer", *PERCENTILES], rows)


def rate_table(measurements: Sequence[Measurement]) -> str:
    """How many deltas came, and what was wrong."""
    rows = []
    for peer, rounds in by_peer(measurements).items():
        results = results_of(rounds)
        rate = over_rounds([each["deltas_per_s"] for each in results], 0)
        rows.append([peer, rate, errors_text(results)])
    return table(["peer", "deltas/s", "errors"], rows)


def added_table(measurements: Sequence[Measurement]) -> str | None:
    """What each peer adds to the latency of the direct way, round by round."""
    peers = by_peer(measurements)
    direct = peers.pop("direct", None)
    if not direct or not peers:
        return None
    wanted = [(of, name) for of in ("first_delta_ms", "steady_late_ms") for name in ("p50", "p99")]
    rows = []
    for peer, rounds in peers.items():
        pairs = [(mine.result, its.result) for mine, its in zip(rounds, direct, strict=True)]
        rows.append([peer, *(ms_over_rounds(_added(pairs, of, name)) for of, name in wanted)])
    heads = [f"{LATENCIES[of]} {name}" for of, name in wanted]
    return f"Added to direct:\n\n{table(['peer', *heads], rows)}"


def results_of(rounds: Sequence[Measurement]) -> list[dict[str, Any]]:
    return [each.result for each in rounds]


def percentile_cells(results: Sequence[Mapping[str, Any]], of: str) -> list[str]:
    return [ms_over_rounds([each[of].get(name) for each in results]) for name in PERCENTILES]


def _added(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], of: str, name: str
) -> list[float | None]:
    return [
        mine[of][name] - its[of][name] if name in mine[of] and name in its[of] else None
        for mine, its in pairs
    ]


def errors_text(results: Sequence[Mapping[str, Any]]) -> str:
    errors: Counter[str] = Counter()
    for result in results:
        errors.update(result["errors"])
    return ", ".join(f"{count} {name}" for name, count in errors.items()) or "none"


def _us_per_delta(measurement: Measurement, group: str) -> float:
    # CPU seconds per million deltas are microseconds per delta.
    deltas: int = measurement.result["deltas"]
    return measurement.cpu_s[group] * 1e6 / max(1, deltas)


def _cpu_and_wakes(rounds: Sequence[Measurement], group: str) -> tuple[str, str]:
    wakes = [100 * each.wakes[group] / max(1, each.result["deltas"]) for each in rounds]
    return over_rounds([_us_per_delta(each, group) for each in rounds]), over_rounds(wakes)


def _mib(measurement: Measurement, group: str) -> float | None:
    held = measurement.pss_kib[group]
    return None if held is None else held / 1024


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n")
        progress(f"written to {path}")
