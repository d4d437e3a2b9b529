"""`llmrelay token`: a token that a client can ask with."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..http import tokens
from ..values import count
from .arguments import checked
from .output import remark, say

if TYPE_CHECKING:
    from .arguments import Subparsers


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    token_parser = commands.add_parser(
        "token",
        help="make a token that a client can ask with",
        description="Makes a token. Its line for the file of --auth-tokens, which holds its hash"
        " alone, goes to standard output; the token itself is shown once.",
        epilog="Example: llmrelay token alice --per-minute 60 >> tokens",
    )
    token_parser.set_defaults(run=_run)
    token_parser.add_argument(
        "name",
        metavar="NAME",
        type=checked(tokens.parse_name),
        help="Whose it is; the log shows it.",
    )
    token_parser.add_argument(
        "--calls",
        metavar="N",
        type=checked(count(1, tokens.MAX_CALLS)),
        help="How many calls it may have at once. [no limit]",
    )
    token_parser.add_argument(
        "--per-minute",
        metavar="N",
        type=checked(count(1, tokens.MAX_PER_MINUTE)),
        help="How many requests it may send in a minute. [no limit]",
    )


def _run(arguments: argparse.Namespace) -> int:
    token = tokens.make_token()
    line = tokens.make_line(arguments.name, token, arguments.calls, arguments.per_minute)
    say(line)
    # Whoever redirects the line into the file still sees the token.
    line = "The line above" if sys.stdout.isatty() else "Its line"
    remark(
        f"\n{line} belongs in the file of --auth-tokens, which `llmrelay serve`"
        f" reads when it starts\nand on SIGHUP. The token of {arguments.name},"
        f" shown this once and kept nowhere:\n\n  {token}\n\n"
        "Clients send it as `Authorization: Bearer TOKEN`; OpenAI's SDKs take it as api_key."
    )
    return 0
