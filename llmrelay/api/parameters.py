"""The parameters of the plain endpoints, wherever they stand: in the query, a form, or JSON.

Pure. One that is not known, there twice, or not what it must be is a BadRequest that says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from ..errors import BadRequest
from ..http.events import Request
from ..peer_text import one_line

_MAX_QUERY_FIELDS = 32
# Of what a client has sent itself, in an error's sentence.
_SHOWN_CHARS = 200
GROUP_HEADER = "X-LLMRelay-Group"


def parse_text(text: str) -> str:
    """Any text; JSON can have half a surrogate pair, which is none."""
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("there is half a surrogate pair in it")
    return text


def parse_group(text: str) -> str:
    """The name of a group of runners."""
    if not text or len(text) > 256 or not text.isprintable():
        raise ValueError("a group's name is 1 to 256 printable characters")
    return text


# Parameter -> its parser, which raises ValueError with the reason in words.
Known = Mapping[str, Callable[[str], Any]]


class Parameters:
    """What a request says of `known`, from all places that it may say it in.

    Args:
        request: whose query, and whose header that names a group, are read.

    Attributes:
        said: name -> value.
    """

    def __init__(self, request: Request, known: Known) -> None:
        self.said: dict[str, Any] = {}
        self._known = known
        if request.query:
            for name, text in _query(request):
                self.take(name, text)
        group = request.headers.get(GROUP_HEADER)
        if group is not None and "group" in known:
            self._take_header(group)

    def take(self, name: str, value: object) -> None:
        """The request says so of `name`; a number, as JSON has it, is as good as its digits.

        Raises:
            BadRequest: it is not known, said before, or not what it must be.
        """
        parse = self._known.get(name)
        if parse is None:
            near = difflib.get_close_matches(name[:_SHOWN_CHARS], self._known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(self._known)}."
            raise BadRequest(f"There is no parameter {one_line(name, _SHOWN_CHARS)!r}; {hint}")
        if name in self.said:
            raise BadRequest(f"The parameter {name} is there twice.")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise BadRequest(f"The parameter {name} is neither text nor a number.")
        try:
            self.said[name] = parse(str(value))
        except ValueError as error:
            why = one_line(str(error), _SHOWN_CHARS)
            raise BadRequest(f"The parameter {name} cannot be used: {why}.") from error

    def _take_header(self, group: str) -> None:
        if self.said.setdefault("group", group) != group:
            raise BadRequest(f"The parameter group and {GROUP_HEADER} name different groups.")
        try:
            parse_group(group)
        except ValueError as error:
            raise BadRequest(f"{GROUP_HEADER} cannot be used: {error}.") from error


def _query(request: Request) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            request.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError as error:
        raise BadRequest(f"The query cannot be read: {error}.") from error
