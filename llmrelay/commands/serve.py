"""`llmrelay serve`: the front-end, or several under a supervisor, until a signal ends it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import log, systemd
from ..client_options import CLIENTS
from ..config import Config
from ..errors import UnusableConfig
from ..http.listeners import Listener, adopt
from ..inventory.load import load
from ..secret import Keys
from ..serve import serve
from ..supervisor import Supervisor
from ..values import Listen, ListenAddress, parse_port
from ..worker import Line
from .arguments import add_options, checked, config_of, require_runners, run
from .output import OutputLost, remark, say

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
    handed_in = [adopt(sock) for sock in systemd.handed_in_sockets(os.environ)]
    notifier = systemd.Notifier(os.environ)
    config = _config(arguments, listens_already=bool(handed_in))
    log.configure(config.log_level, config.log_format)
    keys = Keys(config, os.environ)
    if config.workers > 1:
        return _supervise(config, keys, notifier, handed_in)

    def announce(addresses: Sequence[Listen], runners: str) -> None:
        notifier.ready()
        _announce(config, addresses, runners)

    run(serve(config, keys, announce, notifier, handed_in))
    return 0


def _supervise(
    config: Config, keys: Keys, notifier: systemd.Notifier, handed_in: Sequence[Listener]
) -> int:
    # From here on they are known, so that who has to type one is asked once.
    for spec in load(config).specs:
        keys.read(spec.host.key)

    def work(number: int, line: Line, listening: Sequence[Listener]) -> None:
        log.configure(config.log_level, config.log_format, number)
        own = replace(config, listen=())
        run(serve(own, keys, lambda _, runners: line.serving(runners), line, listening, line))

    announce = functools.partial(_announce, config)
    end = Supervisor(config, handed_in, notifier, work, announce).run()
    if end.sentence:
        remark(f"llmrelay: {end.sentence}")
    return end.exit_status


def _announce(config: Config, addresses: Sequence[Listen], runners: str) -> None:
    scheme = "https" if config.tls_cert else "http"
    where = " and ".join(_url(scheme, address) for address in addresses)
    # Nobody reads it? That is no reason not to serve.
    with contextlib.suppress(OutputLost):
        say(f"llmrelay is ready on {where} ({runners})")


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
