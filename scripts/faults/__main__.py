"""`scripts/chaos`: runs a scenario and prints its figures; a signal leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from . import day, scenes


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("scenario", choices=["faults", "start", "reload", "refusing"])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the script of faults (default: 1)")
    parser.add_argument("--hosts", default="1,10,100", help="of start (default: 1,10,100)")
    parser.add_argument("--rounds", type=int, default=3, help="of start (default: 3)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    match options.scenario:
        case "faults":
            figures = day.run(options.minutes, options.seed)
        case "start":
            figures = scenes.start([int(n) for n in options.hosts.split(",")], options.rounds)
        case "reload":
            figures = scenes.reload(options.minutes, options.seed)
        case _:
            figures = scenes.refusing(options.minutes)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, figure in figures.items():
            print(f"{name:55} {figure}")
    return 0


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends by way of every context that has something to take down; a second signal waits."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
