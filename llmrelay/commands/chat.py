"""`llmrelay chat`: asks a front-end that serves, once or in a conversation.

What is not given is as the front-end has it. The token comes from the environment, as a command
line can be read by every user of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..chatting.answers import Client
from ..chatting.connection import (
    TOKEN_VARIABLE,
    URL_VARIABLE,
    AskingFailed,
    FrontEndUrl,
    parse_front_end_url,
)
from ..chatting.conversation import Conversation, remark_on
from ..chatting.prompts import (
    STDIN,
    UnusableInput,
    read_image,
    read_text,
    user_message,
)
from ..chatting.terminal import Terminal
from ..config import options
from .arguments import checked
from .output import warn

if TYPE_CHECKING:
    from .arguments import Subparsers

DEFAULT_URL = "http://127.0.0.1:8080"

# Of Config's options, those that a question may bring: short names, and what they do here.
_ASKED = {
    "model": (["-m"], "Which model answers."),
    "system": (["-s"], "The system prompt; an empty one sends none."),
    "max_tokens": ([], "The longest answer, in tokens."),
}


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "chat",
        help="ask a front-end that serves, from a terminal",
        description="Asks a running `llmrelay serve`. The prompt is the argument, or what a pipe"
        " brings, or both, the argument first; with neither it is a conversation. Where tokens are"
        f" asked for, {TOKEN_VARIABLE} holds one.",
        epilog='Example: git diff | llmrelay chat -s "Write a commit message"',
    )
    parser.set_defaults(run=_run, refuse=parser.error)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="What to ask.")
    for field, option in options():
        if field.name in _ASKED:
            short, text = _ASKED[field.name]
            parser.add_argument(
                *short,
                option.flag,
                dest=field.name,
                metavar=option.metavar,
                type=checked(option.parse),
                help=f"{text} [as serve has it]",
            )
    parser.add_argument(
        "-i",
        "--image",
        dest="images",
        metavar="FILE",
        action="append",
        default=[],
        help="An image (PNG, JPEG, GIF, WebP) to ask about: a file, a URL, or - for what a pipe"
        " brings. Can be given several times.",
    )
    parser.add_argument("--group", metavar="NAME", help="The group of runners that is asked. [any]")
    parser.add_argument(
        "--json", action="store_true", help="The answer as a JSON object, once it is whole."
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        type=checked(parse_front_end_url),
        help=f"Where the front-end is; else {URL_VARIABLE} says it. [{DEFAULT_URL}]",
    )


def _run(arguments: argparse.Namespace) -> int:
    at_terminal = os.isatty(0)
    talks = at_terminal and arguments.prompt is None and os.isatty(1) and not arguments.json
    if at_terminal and arguments.prompt is None and not talks:
        arguments.refuse("give a prompt: a conversation needs a terminal, and no --json")
    if at_terminal and STDIN in arguments.images:
        arguments.refuse("-i - is for a pipe, and there is none")
    client = Client(_url(arguments), _token(arguments))
    terminal = Terminal(typed=talks)
    try:
        with open(0, "rb", closefd=False) as stdin:
            images = [read_image(name, stdin) for name in arguments.images]
            piped = not at_terminal and STDIN not in arguments.images
            text = read_text(stdin) if piped else ""
        if talks:
            Conversation(client, _question(arguments), terminal, images).run()
            return 0
        text = _prompt(arguments.prompt, text)
        question = _question(arguments) | {"messages": [user_message(text, images)]}
        if arguments.json:
            _show_object(client.ask_for_all(question), terminal)
        else:
            _show(client, question, terminal)
    except (AskingFailed, UnusableInput) as error:
        terminal.complain(str(error))
        return 1
    return 0


def _url(arguments: argparse.Namespace) -> FrontEndUrl:
    if arguments.url is not None:
        given: FrontEndUrl = arguments.url
        return given
    try:
        return parse_front_end_url(os.environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL)
    except ValueError as error:
        arguments.refuse(f"{URL_VARIABLE}: {error}")
        raise


def _token(arguments: argparse.Namespace) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    # It becomes a header; the message must not show what it is.
    if not all("!" <= c <= "~" for c in token):
        arguments.refuse(f"{TOKEN_VARIABLE} holds no token: it is one word of plain characters")
    return token


def _question(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is asked for beside the messages."""
    given = {name: getattr(arguments, name) for name in (*_ASKED, "group")}
    return {name: value for name, value in given.items() if value is not None}


def _prompt(argument: str | None, piped: str) -> str:
    """The argument, and behind it what was piped.

    Raises:
        UnusableInput: both are empty.
    """
    # What was piped is taken as it is; a model should still see where it begins.
    text = "\n\n".join(each for each in (argument, piped) if each)
    if not text.strip():
        raise UnusableInput("There is no prompt: give it as an argument, or a pipe that brings it.")
    return text


def _show(client: Client, question: Mapping[str, Any], terminal: Terminal) -> None:
    """The answer as it comes."""
    try:
        with client.ask(question) as answer:
            for delta in answer:
                terminal.write(delta)
    except KeyboardInterrupt:
        terminal.leave_line()
        raise
    terminal.end_line()
    if note := remark_on(answer.finish_reason):
        warn(note)


def _show_object(answer: Mapping[str, Any], terminal: Terminal) -> None:
    terminal.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
