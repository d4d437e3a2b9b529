"""`scripts/fuzz`: runs the targets, each in a process of its own, and counts."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from . import compare, inventory
from .seeds import write_seeds

TARGETS: Final = ["parser", "connection", "multipart"]
FOUND: Final = Path("fuzz-found")
# No input that short needs a hundredth of it; it is also the connection's longest wait and more.
UNIT_TIMEOUT_S: Final = 20
# Heads and bodies are bounded far below by the targets' limits.
MAX_LEN_BYTES: Final = 4096
# The interpreter takes 100 MiB. What grows past this is a leak.
RSS_LIMIT_MIB: Final = 1024

_HANG: Final = re.compile(r"^Hang: ", re.MULTILINE)
_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def main() -> int:
    options = _options()
    if options.target == "compare":
        return compare.run(options.cases or 60_000, options.seed)
    if options.target == "inventory":
        return inventory.run(options.cases or 2_000, options.seed)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; it has wheels for Python 3.11 to 3.13 on Linux, x86_64.")
        return 1
    targets = [options.target] if options.target else TARGETS
    if options.repeat:
        return _child(targets[0], [str(path) for path in options.repeat]).wait()
    # A list, not any() alone: the others run though the first has found something.
    failed = [_fuzz(name, options.seconds / len(targets), options.seed) for name in targets]
    return 1 if any(failed) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "target",
        nargs="?",
        choices=[*TARGETS, "compare", "inventory"],
        help="default: parser, connection and multipart",
    )
    parser.add_argument(
        "repeat", nargs="*", type=Path, help="files to run once each: what was found"
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="for all targets together (default: 60)"
    )
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="default: the time; it is printed"
    )
    parser.add_argument(
        "--cases", type=int, help="of compare (default: 60000) and inventory (default: 2000)"
    )
    return parser.parse_args()


def _fuzz(target: str, seconds: float, seed: int) -> bool:
    """Whether it has found anything."""
    FOUND.mkdir(exist_ok=True)
    before = set(FOUND.iterdir())
    with tempfile.TemporaryDirectory() as corpus:
        write_seeds(Path(corpus), target)
        child = _child(
            target,
            [
                corpus,
                f"-max_total_time={max(1, round(seconds))}",
                f"-seed={seed % 2**32 or 1}",  # to libFuzzer 0 is the time
                f"-timeout={UNIT_TIMEOUT_S}",
                f"-max_len={MAX_LEN_BYTES}",
                f"-rss_limit_mb={RSS_LIMIT_MIB}",
                f"-artifact_prefix={FOUND}/{target}-",
                "-print_final_stats=1",
                "-verbosity=0",
            ],
            subprocess.PIPE,
        )
        output, _ = child.communicate()
    found = sorted(set(FOUND.iterdir()) - before)
    counted = _EXECUTIONS.search(output)
    executions = int(counted[1]) if counted else 0
    # A target stops at the first. libFuzzer itself tells of a loop that never ends, and the
    # connection of a wait that never ends.
    hung = any("-timeout-" in path.name for path in found) or _HANG.search(output) is not None
    crashed = not hung and bool(child.returncode or found)
    print(
        f"{target}: {executions} executions in {seconds:.0f} s (seed {seed}),"
        f" crashes {crashed:d}, hangs {hung:d}",
        flush=True,
    )
    if crashed or hung or not executions:
        print(output[-8000:])
        for path in found:
            print(f"Repeat it with: scripts/fuzz {target} {path}")
    return crashed or hung or not executions


def _child(target: str, arguments: list[str], output: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"scripts.fuzzing.{target}", *arguments]
    return subprocess.Popen(
        command, stdout=output, stderr=output and subprocess.STDOUT, text=True, errors="replace"
    )


if __name__ == "__main__":
    sys.exit(main())
