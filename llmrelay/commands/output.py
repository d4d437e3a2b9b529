"""What commands print: what was asked for on standard output, the rest on stderr.

Whoever reads it may be gone and its disk full; that ends a command in words (../cli.py), and not in
a traceback. Knows no command.
"""

from __future__ import annotations

import os
import sys


class OutputLost(Exception):
    """Standard output takes no more; says why.

    Attributes:
        unread: its reader is gone, as with `| head`, and so it is nobody's concern.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.unread = isinstance(error, BrokenPipeError)


def say(text: str) -> None:
    """Prints lines that were asked for.

    Raises:
        OutputLost: they could not be written.
    """
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        # What is left would be tried again, and complained of, when the interpreter ends.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OutputLost(error) from error


def remark(text: str) -> None:
    """Prints lines about the command itself."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """Prints what does not stop the command."""
    remark(f"llmrelay: warning: {text}")
