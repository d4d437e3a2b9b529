"""What a person sees of `llmrelay chat`, and types into it.

Answers go to standard output as they come: byte for byte into a pipe or a file; on a terminal,
which an answer may not steer, with its control characters made harmless. Nothing is held back, so
nothing is left to be written when the program ends. Knows no connection and no messages.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import ModuleType

from ..commands.output import OutputLost, remark

_OUT, _ERR = 1, 2
_DIM, _RED, _PLAIN = "\033[2m", "\033[31m", "\033[0m"
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "?") | {ord(c): c for c in "\t\n"}


def harmless(text: str) -> str:
    """Text of another machine, with nothing in it that steers a terminal."""
    return text.translate(_CONTROLS)


class Terminal:
    """Standard output and stderr, whether they are a terminal or not.

    Args:
        typed: a person types into it, line by line.

    Attributes:
        shown: standard output is a terminal.
    """

    def __init__(self, *, typed: bool = False) -> None:
        self.shown = os.isatty(_OUT)
        self._coloured = self.shown and not os.environ.get("NO_COLOR")
        self._encoding = sys.stdout.encoding if self.shown and sys.stdout else "utf-8"
        self._at_line_start = True
        self._readline = _readline() if typed else None

    def write(self, text: str) -> None:
        """An answer's text, or a piece of it.

        Raises:
            OutputLost: it could not be written.
        """
        if self.shown:
            text = harmless(text)
        self._put(text)

    def end_line(self) -> None:
        """A person's next line begins at the left; a program's bytes are the answer's alone."""
        if self.shown and not self._at_line_start:
            self._put("\n")

    def leave_line(self) -> None:
        """Ends the line that Ctrl-C was pressed on, as the terminal shows ^C there."""
        if self.shown:
            self._put("\n")

    def note(self, text: str) -> None:
        """A line about the conversation."""
        self.end_line()
        self._put(self._styled(f"({text})", _DIM) + "\n")

    def complain(self, message: str) -> None:
        """What went wrong, on stderr."""
        self.end_line()
        text = f"llmrelay: {message}"
        remark(self._styled(text, _RED) if os.isatty(_ERR) else text)

    def read_line(self, prompt: str) -> str:
        """A line that a person types.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C, which takes back what was typed.
        """
        self.end_line()
        prompt = self._styled(prompt, _DIM, in_prompt=True)
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            # The line that was typed on is still open.
            self._put("\n")
            raise

    def _put(self, text: str) -> None:
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        rest = memoryview(text.encode(self._encoding, "replace"))
        try:
            while rest:
                rest = rest[os.write(_OUT, rest) :]
        except OSError as error:
            raise OutputLost(error) from error

    def _styled(self, text: str, style: str, *, in_prompt: bool = False) -> str:
        if not self._coloured:
            return text
        if not in_prompt or self._readline is None:
            return f"{style}{text}{_PLAIN}"
        if "libedit" in (self._readline.__doc__ or ""):
            return text  # it counts colours as columns
        # What readline must not count stands between these.
        return f"\001{style}\002{text}\001{_PLAIN}\002"


def _readline() -> ModuleType | None:
    """Line editing and a history of lines, for input(); not every Python has it."""
    try:
        import readline  # noqa: PLC0415
    except ImportError:
        return None
    with contextlib.suppress(OSError, ValueError):
        # Lines that are pasted are one message, and not one each.
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline
