"""`llmrelay inventory`: what is understood of an inventory. Connects to nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..inventory import show
from ..inventory.load import load
from ..runner_options import RUNNERS
from .arguments import add_options, config_of
from .output import say, warn

if TYPE_CHECKING:
    from .arguments import Subparsers


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "inventory",
        help="show what is understood of an inventory",
        description="Shows the runners that an inventory means, and connects to none of them.",
        usage="llmrelay inventory --inventory FILE [option ...]",
        epilog="Example: llmrelay inventory --inventory inventory.ini --limit gpu",
    )
    parser.set_defaults(run=_run, refuse=parser.error)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="As JSON, for programs.")
    form.add_argument("--graph", action="store_true", help="The groups, and who is in them.")
    add_options(parser, lambda name, option: option.group == RUNNERS and name != "watch")


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    understood = load(config)
    if not understood.specs or (arguments.graph and understood.inventory is None):
        arguments.refuse("give --inventory FILE")
    for warning in understood.warnings:
        warn(warning)
    if arguments.json:
        text = show.as_json(understood.specs)
    elif arguments.graph and understood.inventory is not None:
        text = show.graph(understood.inventory)
    else:
        text = show.table(understood.specs)
    say(text.rstrip("\n"))
    return 0
