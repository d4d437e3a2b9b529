"""`llmrelay demo`: all of it on this machine alone."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from .. import log
from ..config import Config, options
from ..demo.demo import DEFAULT_PROMPT, Demo
from ..values import ListenAddress, parse_port
from .arguments import checked, run

if TYPE_CHECKING:
    from .arguments import Subparsers


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    demo_parser = commands.add_parser(
        "demo",
        help="show it all on this machine alone",
        description="Starts an SSH server and a runner on it, both on this machine with throwaway"
        " keys, serves from them, and asks a prompt. Without OPENAI_API_KEY upstream is simulated.",
        epilog="Example: llmrelay demo 'Explain SSH in one sentence.'",
    )
    demo_parser.set_defaults(run=_run)
    demo_parser.add_argument(
        "prompt", nargs="?", default=DEFAULT_PROMPT, help=f"What to ask. [{DEFAULT_PROMPT}]"
    )
    demo_parser.add_argument(
        "--once", action="store_true", help="End after the answer, on a terminal too."
    )
    demo_parser.add_argument(
        "--port",
        metavar="N",
        type=checked(parse_port),
        default=0,
        help="Where clients connect, on 127.0.0.1. [a free port]",
    )
    level = next(option for field, option in options() if field.name == "log_level")
    demo_parser.add_argument(
        level.flag,
        metavar=level.metavar,
        type=checked(level.parse),
        default="warning",
        help=f"{level.help} [warning]",
    )


def _run(arguments: argparse.Namespace) -> int:
    listen = ListenAddress("127.0.0.1", arguments.port)
    config = Config(listen=(listen,), log_level=arguments.log_level)
    log.configure(config.log_level, config.log_format)
    # Where nobody sits, nobody would press Ctrl-C.
    once = arguments.once or not sys.stdout.isatty()
    return run(Demo(arguments.prompt, config, once=once).run(os.environ))
