"""The commands' arguments, and how each one ends. No logic of its own.

The options of `serve` come from Config's fields, so that none is declared twice. An error is one
sentence on stderr and an exit status of its own (docs/errors.md).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from . import __version__, log, systemd
from .config import Config, options
from .demo.demo import DEFAULT_PROMPT, Demo
from .errors import ConnectError, UnusableConfig
from .http import tokens
from .option import Option
from .secret import read_key
from .serve import serve
from .signals import EndedBySignal
from .values import Listen, ListenAddress, count, parse_port

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status."""
    _open_standard_descriptors()
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except ConnectError as error:
        print(f"llmrelay: {error.message}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except EndedBySignal as error:
        print(f"llmrelay: ended at once by {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    return status


def _open_standard_descriptors() -> None:
    """What we were started without would become a socket's, and be written to or closed with it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # stderr
        pass
    os.close(descriptor)


def _serve(arguments: argparse.Namespace) -> int:
    if not arguments.runners and arguments.inventory is None:
        arguments.refuse("give --runner [USER@]HOST or --inventory FILE")
    handed_in = systemd.handed_in_sockets(os.environ)
    notifier = systemd.Notifier(os.environ)
    config = _config(arguments, listens_already=bool(handed_in))
    log.configure(config.log_level, config.log_format)
    key = read_key(config, os.environ)
    host = config.runners[0]

    def announce(addresses: Sequence[Listen]) -> None:
        notifier.ready()
        scheme = "https" if config.tls_cert else "http"
        where = " and ".join(_url(scheme, address) for address in addresses)
        try:
            print(f"llmrelay is ready on {where} (runner {host})", flush=True)  # noqa: T201
        except OSError:  # nobody reads it, which is no reason not to serve
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    _run(serve(config, host, key, announce, notifier, handed_in))
    return 0


def _url(scheme: str, address: Listen) -> str:
    return f"{scheme}://{address}" if isinstance(address, ListenAddress) else str(address)


def _demo(arguments: argparse.Namespace) -> int:
    listen = ListenAddress("127.0.0.1", arguments.port)
    config = Config(listen=(listen,), log_level=arguments.log_level)
    log.configure(config.log_level, config.log_format)
    # Where nobody sits, nobody would press Ctrl-C.
    once = arguments.once or not sys.stdout.isatty()
    return _run(Demo(arguments.prompt, config, once=once).run(os.environ))


def _token(arguments: argparse.Namespace) -> int:
    token = tokens.make_token()
    line = tokens.make_line(arguments.name, token, arguments.calls, arguments.per_minute)
    try:
        print(line, flush=True)  # noqa: T201
    except OSError as error:
        print(f"llmrelay: The line could not be written: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return 1
    # Whoever redirects the line into the file still sees the token.
    line = "The line above" if sys.stdout.isatty() else "Its line"
    print(  # noqa: T201
        f"\n{line} belongs in the file of --auth-tokens, which `llmrelay serve`"
        f" reads when it starts\nand on SIGHUP. The token of {arguments.name},"
        f" shown this once and kept nowhere:\n\n  {token}\n\n"
        "Clients send it as `Authorization: Bearer TOKEN`; OpenAI's SDKs take it as api_key.",
        file=sys.stderr,
    )
    return 0


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop where there is one (not on Windows)."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


# --- Arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmrelay",
        description="Streams LLM answers over HTTP from runners that are reached by SSH.",
    )
    parser.add_argument("--version", action="version", version=f"llmrelay {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_parser = commands.add_parser(
        "serve",
        help="serve answers from a runner",
        description="Starts a runner over SSH and serves POST /chat and GET /healthz.",
        usage="llmrelay serve --runner [USER@]HOST[:PORT] [option ...]",
        epilog="Example: llmrelay serve --runner user@host",
    )
    serve_parser.set_defaults(run=_serve, refuse=serve_parser.error)
    add_options(serve_parser)
    _add_demo(commands)
    _add_token(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo_parser = commands.add_parser(
        "demo",
        help="show it all on this machine alone",
        description="Starts an SSH server and a runner on it, both on this machine with throwaway"
        " keys, serves from them, and asks a prompt. Without OPENAI_API_KEY upstream is simulated.",
        epilog="Example: llmrelay demo 'Explain SSH in one sentence.'",
    )
    demo_parser.set_defaults(run=_demo)
    demo_parser.add_argument(
        "prompt", nargs="?", default=DEFAULT_PROMPT, help=f"What to ask. [{DEFAULT_PROMPT}]"
    )
    demo_parser.add_argument(
        "--once", action="store_true", help="End after the answer, on a terminal too."
    )
    demo_parser.add_argument(
        "--port",
        metavar="N",
        type=_checked(parse_port),
        default=0,
        help="Where clients connect, on 127.0.0.1. [a free port]",
    )
    level = next(option for field, option in options() if field.name == "log_level")
    demo_parser.add_argument(
        level.flag,
        metavar=level.metavar,
        type=_checked(level.parse),
        default="warning",
        help=f"{level.help} [warning]",
    )


def _add_token(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    token_parser = commands.add_parser(
        "token",
        help="make a token that a client can ask with",
        description="Makes a token. Its line for the file of --auth-tokens, which holds its hash"
        " alone, goes to standard output; the token itself is shown once.",
        epilog="Example: llmrelay token alice --per-minute 60 >> tokens",
    )
    token_parser.set_defaults(run=_token)
    token_parser.add_argument(
        "name",
        metavar="NAME",
        type=_checked(tokens.parse_name),
        help="Whose it is; the log shows it.",
    )
    token_parser.add_argument(
        "--calls",
        metavar="N",
        type=_checked(count(1, tokens.MAX_CALLS)),
        help="How many calls it may have at once. [no limit]",
    )
    token_parser.add_argument(
        "--per-minute",
        metavar="N",
        type=_checked(count(1, tokens.MAX_PER_MINUTE)),
        help="How many requests it may send in a minute. [no limit]",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Config's options, in their groups."""
    groups: dict[str, Any] = {}
    for field, option in options():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_option(groups[option.group], field.name, option, field.default)
    groups["Clients"].add_argument(
        "--port",
        metavar="N",
        type=_checked(parse_port),
        help="Short for --listen with another port.",
    )


def _add_option(group: Any, name: str, option: Option, default: Any) -> None:
    written = option.written(default)
    text = f"{option.description} [{written}]" if written else option.description
    given: dict[str, Any] = {"dest": name, "default": default, "help": text.replace("%", "%%")}
    if option.metavar is None:
        group.add_argument(option.flag, action="store_true", **given)
        return
    group.add_argument(
        option.flag,
        action=_Repeated if option.repeated else "store",
        metavar=option.metavar,
        type=_checked(option.parse),
        **given,
    )


class _Repeated(argparse.Action):
    """Collects a tuple: the first use takes the place of the default, each further one adds."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        before = () if given is self.default else given
        setattr(namespace, self.dest, (*before, values))


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """argparse shows a ValueError's text only if it comes as its own exception."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _config(arguments: argparse.Namespace, *, listens_already: bool = False) -> Config:
    fields = dataclasses.fields(Config)
    values = {field.name: getattr(arguments, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    if arguments.port is not None:
        if not any(isinstance(each, ListenAddress) for each in arguments.listen):
            raise UnusableConfig("--port goes with a TCP address, and --listen names none.")
        values["listen"] = tuple(
            ListenAddress(each.host, arguments.port) if isinstance(each, ListenAddress) else each
            for each in arguments.listen
        )
    elif listens_already and arguments.listen is defaults["listen"]:
        values["listen"] = ()
    return Config(**values)
