"""Drives a RequestParser in tests: bytes in any portions -> what it said, in a comparable form.

The requests to feed come from the builders here, from corpus.py or from a fuzzer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmrelay.errors import RelayError
from llmrelay.http.events import NEED_DATA, Data, EndOfMessage, Request
from llmrelay.http.http11 import RequestParser

from .corpus import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS


def get(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"Host: a") -> bytes:
    """A request's head; `host` is that header's line."""
    lines = [line, *([host] if host else []), *fields]
    return b"".join(one + b"\r\n" for one in lines) + b"\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(b"POST / HTTP/1.1", *fields) + body


def chunked(body: bytes) -> bytes:
    """A request with that text as its body in chunked coding."""
    return post(b"Transfer-Encoding: chunked", body=body)


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
