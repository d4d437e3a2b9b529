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
from pathlib import Path
from typing import Any

from . import (
    bulk,
    endurance,
    flood,
    latency,
    plots,
    quick,
    report,
    sdk,
    silent,
    slow,
    start,
)
from .child import ChildFailed
from .peers import ALL_NAMES, NAMES
from .records import MAX_NUMBER
from .scenario import SCENARIOS
from .scenario import run as run_scenario


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


# --- Arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="What relaying costs, measured on loopback."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, scenario in SCENARIOS.items():
        command = _command(commands, name, scenario.what, run_scenario, 5, scenario.letter)
        load = scenario.load
        command.set_defaults(scenario=name, fresh=False)
        command.add_argument("--calls", type=_count, default=load.calls, help="[%(default)s]")
        command.add_argument("--deltas", type=_count, default=load.deltas, help="[%(default)s]")
        what = "as 10ms, or 0; several, with commas, are measured one by one"
        command.add_argument("--gap", type=_gaps_ms, default=scenario.gaps_ms, help=what)
        _peers_argument(command)
        command.add_argument(
            "--profile", action="store_true", help="one more round of the relay under py-spy"
        )
        if load.in_turn:
            what = "connect for each call, which counts as its time; else one connection is kept"
            command.add_argument("--fresh", action="store_true", help=what)
    command = _command(commands, "open", "calls open while upstream is silent", silent.run, 5, "e")
    command.add_argument("--calls", type=_counts, default=silent.CALLS, help="[2000,10000]")
    _peers_argument(command)
    what = "one that does not read, among 100 calls"
    _peers_argument(_command(commands, "slow", what, slow.run, 5, "f"))
    command = _command(commands, "latency", "one delta per 100 ms, curl besides", latency.run, 5)
    command.add_argument("--deltas", type=_count, default=50, help="[%(default)s]")
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


def _command(
    commands: Any, name: str, what: str, run: Any, rounds: int, letter: str = ""
) -> argparse.ArgumentParser:
    aliases = [letter] if letter else []
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, aliases=aliases
    )
    command.set_defaults(run=run)
    command.add_argument("--rounds", type=_count, default=rounds, help="[%(default)s]")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return command


def _peers_argument(command: argparse.ArgumentParser) -> None:
    what = f"of {', '.join(ALL_NAMES)} [{','.join(NAMES)}]"
    command.add_argument("--peers", type=_peers, default=NAMES, metavar="NAMES", help=what)


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 1 <= int(text) <= MAX_NUMBER:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to {MAX_NUMBER}")


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _gaps_ms(text: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        gaps_ms = tuple(int(each.removesuffix("ms")) for each in text.split(","))
        if all(0 <= gap_ms <= 60_000 for gap_ms in gaps_ms):
            return gaps_ms
    raise argparse.ArgumentTypeError(f"{text!r} is no gap: 0, or whole milliseconds as 10ms")


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(ALL_NAMES):
        raise argparse.ArgumentTypeError(f"no peer: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
