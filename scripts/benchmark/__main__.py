"""The benchmark's commands and their arguments; each measures, prints and ends with 1 on errors.

Knows what scenarios there are; how they are measured is rounds.py's business, what runs meanwhile
is peers.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import bulk, endurance, flood, latency, plots, profiler, quick, report, sdk, slow, start
from .child import ChildFailed
from .peers import NAMES, RAW, running
from .records import MAX_NUMBER
from .rounds import Load, Measurement, interleaved

# Scenarios of one shape: calls at once, deltas each, gap in ms.
SCENARIOS = {
    "busy": (Load(100, 200, 10), "calls at once through one channel"),
    "crowd": (Load(1000, 100, 50), "very many calls at once"),
    "flat": (Load(64, 500, 0), "as fast as it goes, one event per write"),
}


def main() -> int:
    """Runs a command; its exit status."""
    # What a measurement of minutes is not, and so is looked for among the options.
    spelled = ["quick" if each == "--quick" else each for each in sys.argv[1:]]
    arguments = _parser().parse_args(spelled)
    # A thousand calls take more descriptors than the usual soft limit; children inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # So that the with blocks end what they have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    known = report.machine()
    report.write(f"{report.command_line()}\n{report.machine_line(known)}\n")
    try:
        content, errors = arguments.run(arguments)
    except (ChildFailed, FileNotFoundError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    head = {"command": report.command_line(), "machine": known}
    report.write_json(arguments.json, {**head, **content})
    return 1 if errors else 0


def _scenario(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    load = Load(arguments.calls, arguments.deltas, arguments.gap)
    report.write(f"{load.calls} calls at once, {load.deltas} deltas each, {load.gap_ms} ms apart")
    measurements: list[Measurement] = []
    with running(arguments.peers) as bench:
        measurements += interleaved(bench, load, arguments.rounds, report.progress)
        write_tables(measurements)
        if arguments.profile:
            profiler.profile(bench, load)
    content = {"load": asdict(load), "measurements": [asdict(each) for each in measurements]}
    return content, any(each.result["errors"] for each in measurements)


def write_tables(measurements: Sequence[Measurement]) -> None:
    report.write(f"\n{report.cost_table(measurements)}\n\n{report.latency_table(measurements)}")
    if added := report.added_line(measurements):
        report.write(f"\n{added}")


# --- Arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="What relaying costs, measured on loopback."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (load, what) in SCENARIOS.items():
        command = _command(commands, name, what, _scenario, rounds=3)
        command.add_argument("--calls", type=_count, default=load.calls, help="[%(default)s]")
        command.add_argument("--deltas", type=_count, default=load.deltas, help="[%(default)s]")
        command.add_argument("--gap", type=_gap_ms, default=load.gap_ms, help="as 10ms, or 0")
        command.add_argument(
            "--peers", type=_peers, default=NAMES, help="[direct,tunnel,relay]; or raw"
        )
        command.add_argument(
            "--profile", action="store_true", help="one more round of the relay under py-spy"
        )
    command = _command(commands, "latency", "one delta per 100 ms, curl besides", latency.run, 3)
    command.add_argument("--deltas", type=_count, default=50, help="[%(default)s]")
    _command(commands, "slow", "200 calls, one of them unread for 5 s", slow.run, rounds=2)
    what = "prompts beside ten thousand connections that ask for nothing"
    command = _command(commands, "flood", what, flood.run, rounds=1)
    command.add_argument("--idle", type=_count, default=flood.IDLE, help="[%(default)s]")
    command.add_argument("--slow", type=_count, default=flood.SLOW, help="[%(default)s]")
    what = "200 MB up and 200 MB down, beside ssh host cat"
    command = _command(commands, "bulk", what, bulk.run, rounds=5)
    command.add_argument("--megabytes", type=_count, default=bulk.SIZE_MB, help="[%(default)s]")
    command.add_argument("--profile", action="store_true", help="and once more under py-spy")
    _command(commands, "sdk", "openai's typed iteration beside its bytes", sdk.run, rounds=3)
    what = "under a minute, as multiples of a fixed loop; also spelled --quick"
    _command(commands, "quick", what, quick.run, rounds=7)
    what = "very many calls in a row: does anything grow"
    command = commands.add_parser("endurance", help=what, description=what)
    command.set_defaults(run=endurance.run)
    command.add_argument("--calls", type=int, default=endurance.CALLS, help="[%(default)s]")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    _command(commands, "start", "serve to its ready line, over sshd", start.run, rounds=10)
    plots.add(commands)
    return parser


def _command(commands: Any, name: str, what: str, run: Any, rounds: int) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    command.add_argument("--rounds", type=_count, default=rounds, help="[%(default)s]")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return command


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 1 <= int(text) <= MAX_NUMBER:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to {MAX_NUMBER}")


def _gap_ms(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text.removesuffix("ms")) <= 60_000:
            return int(text.removesuffix("ms"))
    raise argparse.ArgumentTypeError(f"{text!r} is no gap: 0, or whole milliseconds as 10ms")


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - {*NAMES, RAW}:
        raise argparse.ArgumentTypeError(f"no peer: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
