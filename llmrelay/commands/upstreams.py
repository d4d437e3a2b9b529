"""`llmrelay upstreams`: the upstreams that are known by name, and what is served of each.

Prints the table of ../upstreams.py, for people or for programs. Connects to nothing.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..upstreams import UNSERVED, UPSTREAMS, KnownUpstream
from .output import say

if TYPE_CHECKING:
    from .arguments import Subparsers

_WIDTH = 100
_LABEL_WIDTH = 12


def add(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "upstreams",
        help="show the upstreams that are known by name",
        description="Shows the upstreams that are known by name: where each one is, which variable"
        " holds its key, what of /v1 is served there, and what is not.",
        usage="llmrelay upstreams [--json] [NAME ...]",
        epilog="Example: llmrelay upstreams groq mistral",
    )
    parser.set_defaults(run=_run, refuse=parser.error)
    parser.add_argument("--json", action="store_true", help="As JSON, for programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="These only.")


def _run(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        if name not in UPSTREAMS:
            arguments.refuse(_unknown(name))
    shown = {name: UPSTREAMS[name] for name in arguments.names or UPSTREAMS}
    if arguments.json:
        say(json.dumps({name: asdict(each) for name, each in shown.items()}, indent=2))
    else:
        say("\n\n".join("\n".join(_lines(name, each)) for name, each in shown.items()))
    return 0


def _unknown(name: str) -> str:
    if name in UNSERVED:
        return f"{name} is not served: {UNSERVED[name]}"
    return f"no upstream is known as {name!r}; there are {', '.join(UPSTREAMS)}"


def _lines(name: str, upstream: KnownUpstream) -> Iterator[str]:
    yield f"{name} ({upstream.title})"
    base_url = upstream.base_url or f"--base-url has to name it, such as {upstream.example_url}"
    yield from _field("base URL", base_url)
    yield from _field("key", upstream.key_variable or "none is needed")
    yield from _field("serves", ", ".join(upstream.paths))
    yield from _field("notes", upstream.notes)
    yield from _field("source", upstream.source)


def _field(label: str, text: str) -> list[str]:
    """A labelled text, with what does not fit into the line under it; nothing if there is none."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"  {label}".ljust(_LABEL_WIDTH),
        subsequent_indent=" " * _LABEL_WIDTH,
        # A URL, or a path, stays in one piece to be copied.
        break_long_words=False,
        break_on_hyphens=False,
    )
