"""`llmrelay serve`: the front-end, until a signal ends it."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import log, systemd
from ..client_options import CLIENTS
from ..config import Config
from ..errors import UnusableConfig
from ..secret import Keys
from ..serve import serve
from ..values import Listen, ListenAddress, parse_port
from .arguments import add_options, checked, config_of, require_runners, run
from .output import OutputLost, say

if TYPE_CHECKING:
    from .arguments import Subparsers


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "serve",
        help="serve answers from runners",
        description="Starts runners over SSH and serves POST /chat and GET /healthz.",
        usage="llmrelay serve (--runner [USER@]HOST[:PORT] | --inventory FILE) [option ...]",
        epilog="Example: llmrelay serve --runner user@host",
    )
    parser.set_defaults(run=_run, refuse=parser.error)
    add_options(parser)
    [clients] = [group for group in parser._action_groups if group.title == CLIENTS]
    clients.add_argument(
        "--port",
        metavar="N",
        type=checked(parse_port),
        help="Short for --listen with another port.",
    )


def _run(arguments: argparse.Namespace) -> int:
    require_runners(arguments)
    handed_in = systemd.handed_in_sockets(os.environ)
    notifier = systemd.Notifier(os.environ)
    config = _config(arguments, listens_already=bool(handed_in))
    log.configure(config.log_level, config.log_format)

    def announce(addresses: Sequence[Listen], runners: str) -> None:
        notifier.ready()
        scheme = "https" if config.tls_cert else "http"
        where = " and ".join(_url(scheme, address) for address in addresses)
        # Nobody reads it? That is no reason not to serve.
        with contextlib.suppress(OutputLost):
            say(f"llmrelay is ready on {where} ({runners})")

    run(serve(config, Keys(config, os.environ), announce, notifier, handed_in))
    return 0


def _url(scheme: str, address: Listen) -> str:
    return f"{scheme}://{address}" if isinstance(address, ListenAddress) else str(address)


def _config(arguments: argparse.Namespace, *, listens_already: bool) -> Config:
    listen: tuple[Listen, ...] = arguments.listen
    if arguments.port is not None:
        if not any(isinstance(each, ListenAddress) for each in listen):
            raise UnusableConfig("--port goes with a TCP address, and --listen names none.")
        listen = tuple(
            ListenAddress(each.host, arguments.port) if isinstance(each, ListenAddress) else each
            for each in listen
        )
    elif listens_already and listen is Config.listen:
        listen = ()
    return config_of(arguments, listen=listen)
