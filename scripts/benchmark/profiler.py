"""Where front-end and runner spend their time: py-spy beside one more round of the relay.

py-spy reads a process from outside, so nothing in the product knows of it; both processes made
themselves non-dumpable, so it takes root. It is not required: without it, this says how to get it.
The round is longer than a measured one, and is not measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from . import report
from .child import Child
from .peers import FRONT_END, RUNNER, Bench
from .rounds import Load, measure

SECONDS = 10
SAMPLES_PER_S = 250
TOP = 15


def profile(bench: Bench, load: Load) -> None:
    """Prints the functions in which most samples were taken while `load` was on."""
    # As long as the spies look.
    deltas = max(load.deltas, SECONDS * 1000 // max(1, load.gap_ms))
    for peer in (peer for peer in bench.peers if FRONT_END in peer.groups):
        report.write(f"\n{peer.name}:")
        with spied(bench, peer.name):
            measure(bench, peer, replace(load, deltas=deltas))


@contextlib.contextmanager
def spied(bench: Bench, name: str = "relay") -> Iterator[None]:
    """Prints the functions in which front-end and runner were, within the block or for SECONDS."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None or os.geteuid() != 0:
        report.write("\nA profile takes py-spy (pip install py-spy) and root.")
        yield
        return
    report.progress("profile")
    groups = bench.peer(name).groups
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmrelay-bench-")))
        spies = {}
        for group in (FRONT_END, RUNNER):
            for pid in groups[group]:
                stacks = folder / f"{group}.{pid}"
                spies[group, stacks] = stack.enter_context(_spy(program, pid, stacks, folder))
        yield
        for (group, stacks), spy in spies.items():
            spy.interrupt()
            while spy.read():
                pass  # until it has written what it found
            if stacks.exists() and (found := stacks.read_text()):
                report.write(f"\n{group}\n{_top(found)}")


def _spy(program: str, pid: int, stacks: Path, folder: Path) -> Child:
    command = [program, "record", "--nonblocking", "--format", "raw", "--pid", str(pid)]
    command += ["--duration", str(SECONDS), "--rate", str(SAMPLES_PER_S), "--output", str(stacks)]
    with (folder / "py-spy.log").open("ab") as log:
        return Child(command, stderr=log)


def _top(stacks: str) -> str:
    """The functions with the most samples, from lines of `outer;...;inner count`."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        names = [_function(frame) for frame in frames.split(";")]
        own[names[-1]] += int(count)
        for name in set(names):
            total[name] += int(count)
    samples = sum(own.values()) or 1
    rows = [
        [f"{count / samples:.1%}", f"{total[name] / samples:.1%}", name]
        for name, count in own.most_common(TOP)
    ]
    return report.table(["own", "with callees", "function"], rows)


def _function(frame: str) -> str:
    """`write (asyncio/transports.py:12)` without its line."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame
