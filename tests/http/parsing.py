"""Drives a RequestParser in tests: bytes in any portions -> what it said, in a comparable form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmrelay.errors import RelayError
from llmrelay.http.events import NEED_DATA, Data, EndOfMessage, Request
from llmrelay.http.http11 import RequestParser

MAX_HEAD_BYTES = 2048
MAX_HEADERS = 10
MAX_BODY_BYTES = 1000


@dataclass
class Message:
    request: Request
    body: bytes = b""
    whole: bool = False


@dataclass
class Parsed:
    """All messages that were read, and the error that ended it, if any."""

    messages: list[Message] = field(default_factory=list)
    error: type[RelayError] | None = None


def new_parser() -> RequestParser:
    return RequestParser(MAX_HEAD_BYTES, MAX_HEADERS, MAX_BODY_BYTES)


def parse(portions: Iterable[bytes], *, end: bool = False) -> Parsed:
    """Feed the portions one after the other, taking all events after each; `end` feeds EOF too."""
    parser, parsed = new_parser(), Parsed()
    for portion in portions:
        parser.feed(portion)
        if not _take_events(parser, parsed):
            return parsed
    if end:
        parser.feed_eof()
        _take_events(parser, parsed)
    return parsed


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def _take_events(parser: RequestParser, parsed: Parsed) -> bool:
    try:
        while (event := parser.next_event()) is not NEED_DATA:
            if isinstance(event, Request):
                parsed.messages.append(Message(event))
            elif isinstance(event, Data):
                assert event.data
                parsed.messages[-1].body += event.data
            else:
                assert isinstance(event, EndOfMessage)
                parsed.messages[-1].whole = True
                parser.next_cycle()
    except RelayError as error:
        parsed.error = type(error)
        return False
    return True


def a_request(host: str, *fields: str, line: str = "GET / HTTP/1.1") -> Request:
    """The Request that comes of a head; empty host for none."""
    lines = [line, *([f"Host: {host}"] if host else []), *fields, "", ""]
    [message] = parse(["\r\n".join(lines).encode("latin-1")]).messages
    return message.request
