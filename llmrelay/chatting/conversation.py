"""`llmrelay chat` without a prompt: a person and a model take turns, and each sends all before it.

A turn that fails is forgotten, so that the next one does not fail for it; one that Ctrl-C stops is
kept with what had come. Knows a client that answers and a terminal, and not how they do it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .answers import Client
from .connection import AskingFailed
from .prompts import Image, Message, user_message
from .terminal import Terminal

PROMPT, CONTINUED = "> ", ". "
_QUOTES = '"""'
_COMMAND = re.compile(r"/[a-z]+")

_HELP = f"""\
Ctrl-C stops an answer; what came of it is kept.
A line that ends with \\ goes on in the next one; so do all lines between {_QUOTES} and {_QUOTES}.
/clear  forgets the conversation
/help   shows this
/quit   leaves, and so does Ctrl-D
"""

# The front-end takes no body of that length; upstream no prompt of that length, or of that kind.
_MAYBE_TOO_LONG = {"content_too_large", "upstream_bad_request"}


class Conversation:
    """One conversation, from the first prompt to Ctrl-D.

    Args:
        question: what every question holds beside the messages.
        images: go with the first message.
    """

    def __init__(
        self,
        client: Client,
        question: Mapping[str, Any],
        terminal: Terminal,
        images: Sequence[Image] = (),
    ) -> None:
        self._client = client
        self._question = question
        self._terminal = terminal
        self._images = images
        self._history: list[Message] = []

    def run(self) -> None:
        """Until the person leaves.

        Raises:
            OutputLost: the terminal is gone.
        """
        hint = "/help says more, Ctrl-D leaves"
        while True:
            try:
                if hint:
                    self._terminal.note(hint)
                hint = ""
                if not self._turn():
                    return
            except KeyboardInterrupt:
                # Said above, where one more Ctrl-C does no harm.
                hint = "Ctrl-D leaves"
            except EOFError:
                return

    def _turn(self) -> bool:
        """A prompt and what becomes of it; False when the person leaves."""
        try:
            text = read_message(self._terminal.read_line)
            if _COMMAND.fullmatch(command := text.strip()):
                return self._obey(command)
            if not command:
                return True
            self._ask(user_message(text, self._images))
        except UnicodeDecodeError:
            self._terminal.complain("What was typed is not UTF-8.")
        except AskingFailed as error:
            self._terminal.complain(error.message)
            if self._history and error.code in _MAYBE_TOO_LONG:
                self._terminal.note("if the conversation is too long: /clear starts anew")
        return True

    def _obey(self, command: str) -> bool:
        match command:
            case "/quit":
                return False
            case "/clear":
                self._history.clear()
                self._terminal.note("the conversation is forgotten")
            case "/help":
                self._terminal.write(_HELP)
            case _:
                self._terminal.note(f"there is no {command}; /help shows what there is")
        return True

    def _ask(self, message: Message) -> None:
        """Shows the answer to a message, and keeps both if there is one."""
        said: list[str] = []
        stopped = False
        reason = ""
        try:
            question = {**self._question, "messages": [*self._history, message]}
            with self._client.ask(question) as answer:
                for delta in answer:
                    said.append(delta)
                    self._terminal.write(delta)
                reason = answer.finish_reason
        except KeyboardInterrupt:
            stopped = True
        # Upstreams refuse an answer without text in a history.
        if said:
            self._history += [message, {"role": "assistant", "content": "".join(said)}]
            self._images = ()
        if stopped:
            self._terminal.leave_line()
            self._terminal.note("stopped" if said else "stopped before anything came")
        elif note := remark_on(reason):
            self._terminal.note(note)


def read_message(read_line: Callable[[str], str]) -> str:
    r"""A message: a line, or several if they end with \ or stand between three quotes."""
    line = read_line(PROMPT)
    if line.lstrip().startswith(_QUOTES):
        return _quoted(line.lstrip().removeprefix(_QUOTES), read_line)
    lines = []
    while line.endswith("\\"):
        lines.append(line.removesuffix("\\"))
        line = read_line(CONTINUED)
    return "\n".join([*lines, line])


def _quoted(line: str, read_line: Callable[[str], str]) -> str:
    lines = []
    while not line.rstrip().endswith(_QUOTES):
        lines.append(line)
        line = read_line(CONTINUED)
    lines.append(line.rstrip().removesuffix(_QUOTES))
    return "\n".join(lines).strip("\n")


def remark_on(finish_reason: str) -> str:
    """What a person should know of how an answer ended; empty if it is all there."""
    if finish_reason == "length":
        return "the answer ended at its limit, which --max-tokens sets"
    if finish_reason == "content_filter":
        return "upstream's content filter ended the answer"
    return ""
