"""`llmrelay check`: tries every hop of every runner, and says what it found."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import log
from ..check import Check, Failed, Hop, Report
from ..config import Config
from ..errors import ConnectError, RelayError
from ..inventory.load import load
from ..option import Option
from ..runner_options import RUNNERS
from ..runners.ssh.login import Step
from ..secret import Keys
from ..signals import EndedBySignal
from .arguments import add_options, config_of, require_runners, run
from .output import say, warn

if TYPE_CHECKING:
    from .arguments import Subparsers

# Of an error that is upstream's; those of a runner have their own (docs/errors.md).
UPSTREAM_EXIT = 1

_GREEN, _RED, _PLAIN = "\033[32m", "\033[31m", "\033[0m"


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "check",
        help="try every hop of every runner",
        description="Tries every hop of every runner side by side, as serve would, and says what"
        " each step found and took. Sends no prompt. Exit status 0 only if all is well.",
        usage="llmrelay check (--runner [USER@]HOST[:PORT] | --inventory FILE) [option ...]",
        epilog="Example: llmrelay check --inventory inventory.ini --limit gpu",
    )
    parser.set_defaults(run=_run, refuse=parser.error)
    parser.add_argument("--json", action="store_true", help="As JSON, for programs.")
    add_options(parser, _is_wanted)


def _is_wanted(name: str, option: Option) -> bool:
    if name in ("connect_timeout_s", "connects"):
        return True
    return option.group == RUNNERS and name not in ("watch", "balance")


def _run(arguments: argparse.Namespace) -> int:
    require_runners(arguments)
    log.configure("error", "text")
    try:
        reports = run(_check(config_of(arguments), as_text=not arguments.json))
    except KeyboardInterrupt:
        raise EndedBySignal(signal.SIGINT) from None
    if arguments.json:
        say(json.dumps([_object(report) for report in reports], indent=2, ensure_ascii=False))
    error = next((report.error for report in reports if report.error), None)
    return 0 if error is None else _exit_status(error)


async def _check(config: Config, *, as_text: bool) -> list[Report]:
    understood = load(config)
    for warning in understood.warnings:
        warn(warning)
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    reports: list[Report] = []
    shown: set[str] = set()
    async for report in Check(understood.specs, Keys(config, os.environ), config).run():
        reports.append(report)
        if as_text:
            say("\n".join(_lines(report, shown, colours)))
    if as_text:
        well = sum(report.error is None for report in reports)
        say(f"\n{well} of {len(reports)} runners are well.")
    return reports


def _exit_status(error: RelayError) -> int:
    return error.exit_code if isinstance(error, ConnectError) else UPSTREAM_EXIT


# --- For people ---------------------------------------------------------------------------------


def _lines(report: Report, shown: set[str], colours: bool) -> Iterator[str]:
    """A runner's part, and before it those of its shared hosts that were not shown yet."""
    for shared in report.shared:
        # One behind a jump host that is down was not tried.
        if shared.name not in shown and (shared.steps or shared.failed):
            shown.add(shared.name)
            yield from _hop_lines(shared, colours)
    own, *found = _hop_lines(report.itself, colours)
    yield own
    if (down := report.blocked_by) is not None:
        what = "host" if down.name == report.spec.host.shared_as else "jump"
        yield _line(what, 0.0, f"{down.name} is in the way, see above", colours, ok=False)
    yield from found


def _hop_lines(hop: Hop, colours: bool) -> Iterator[str]:
    yield f"{hop.name} ({hop.label})"
    for step in hop.steps:
        yield _line(step.what, step.took_s, step.found, colours, ok=True)
    if (failed := hop.failed) is not None:
        yield _line(failed.what, failed.took_s, failed.error.message, colours, ok=False)


def _line(what: str, took_s: float, found: str, colours: bool, *, ok: bool) -> str:
    how = f"{'ok' if ok else 'FAILED':6}"
    if colours:
        how = f"{_GREEN if ok else _RED}{how}{_PLAIN}"
    return f"  {what:<9} {how} {took_s * 1000:6.0f} ms  {found}"


# --- For programs -------------------------------------------------------------------------------


def _object(report: Report) -> dict[str, object]:
    hops = (*report.shared, report.itself)
    return {
        "name": report.spec.name,
        "ok": report.error is None,
        "steps": [each for hop in hops for each in _steps(hop)],
    }


def _steps(hop: Hop) -> Iterator[dict[str, object]]:
    for step in hop.steps:
        yield _step(hop, step) | {"ok": True, "found": step.found}
    if hop.failed is not None:
        error = hop.failed.error
        yield _step(hop, hop.failed) | {
            "ok": False,
            "error": error.message,
            "exit_status": _exit_status(error),
        }


def _step(hop: Hop, step: Step | Failed) -> dict[str, object]:
    return {"hop": hop.name, "step": step.what, "took_s": round(step.took_s, 4)}
