"""The command line: which commands there are, and how each one ends. No logic of its own.

commands/ has a file for each. An error is one sentence on stderr and an exit status of its own
(docs/errors.md).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .commands.output import OutputLost, remark
from .errors import ConnectError
from .signals import EndedBySignal

# In the order of the help; each is a module of commands/.
_COMMANDS = ("serve", "chat", "check", "inventory", "demo", "token", "upstreams")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status."""
    _open_standard_descriptors()
    given = sys.argv[1:] if argv is None else argv
    # What the others import takes a third of a start.
    wanted = given[:1] if given and given[0] in _COMMANDS else _COMMANDS
    arguments = _parser(wanted).parse_args(given)
    try:
        status: int = arguments.run(arguments)
    except ConnectError as error:
        remark(f"llmrelay: {error.message}")
        return error.exit_code
    except EndedBySignal as error:
        remark(f"llmrelay: ended at once by {error}")
        return error.exit_status
    except OutputLost as error:
        if error.unread:
            return 128 + signal.SIGPIPE  # as a shell shows it of other programs
        remark(f"llmrelay: The output could not be written: {error}.")
        return 1
    return status


def _open_standard_descriptors() -> None:
    """What we were started without would become a socket's, and be written to or closed with it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # stderr
        pass
    os.close(descriptor)


def _parser(wanted: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmrelay",
        description="Streams LLM answers over HTTP from runners that are reached by SSH.",
    )
    parser.add_argument("--version", action="version", version=f"llmrelay {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in wanted:
        import_module(f"{__package__}.commands.{name}").add(commands)
    return parser
