"""One stream of bytes, read by our parser, h11 and llhttp: where do they disagree?

The rule: what either of them refuses we refuse, and requests that both take are the same, end
included. What we alone refuse is no disagreement: the connection ends, and no byte behind it can be
taken for a request. Disagreements that have a reason are listed in differential_reasons.py.

Pure: bytes -> disagreements. Used by test_differential.py and by scripts/fuzz compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import h11
import httptools

from llmrelay.errors import RelayError
from llmrelay.http.events import NEED_DATA, Data, EndOfMessage, Request
from llmrelay.http.http11 import RequestParser

# Past what the generated streams need: limits are tested elsewhere.
_LIMIT: Final = 1 << 20


@dataclass
class Read:
    """A request as a parser read it, normalised: names in lower case, values without outer blanks.

    Chunked coding is removed and trailers are dropped, which llhttp does not tell from headers.
    """

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""


@dataclass
class Outcome:
    """What one parser made of a stream.

    Attributes:
        requests: those that were whole, up to one that ends the connection.
        refused: why it refused what followed them, or empty.
        closed: the last request ends the connection: nothing behind it was read.
        cut: the stream stops inside a request, which we refuse at its end; said by ours alone.
    """

    requests: list[Read] = field(default_factory=list)
    refused: str = ""
    closed: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Disagreement:
    """One that matters.

    Attributes:
        kind: one of the constants below.
        detail: their error, or both readings.
        request: the one that is in question, as we read it, or they if we do not; None where
            there is none.
    """

    peer: str
    kind: str
    raw: bytes
    detail: str
    request: Read | None


THEY_REFUSE: Final = "they refuse what we take"
THEY_WAIT: Final = "they wait for the rest of what we take as whole"
WE_WAIT: Final = "we wait for the rest of what they take as whole"
DIFFERENT: Final = "the request reads differently"


def read_ours(raw: bytes) -> Outcome:
    """By llmrelay.http.http11."""
    outcome = Outcome()
    parser = RequestParser(_LIMIT, 1000, _LIMIT)
    parser.feed(raw)
    read, keep_alive = Read(b"", b""), True
    try:
        while (event := parser.next_event()) is not NEED_DATA:
            if isinstance(event, Request):
                headers = [
                    (name.encode(), value.encode("latin-1")) for name, value in event.headers
                ]
                read = Read(event.method.encode(), event.target.encode(), headers)
                keep_alive = event.keep_alive
            elif isinstance(event, Data):
                read.body += event.data
            elif isinstance(event, EndOfMessage):
                outcome.requests.append(_normalised(read))
                if not keep_alive:
                    outcome.closed = True
                    break
                parser.next_cycle()
    except RelayError as error:
        outcome.refused = f"{error.status} {error.message}"
        return outcome
    if not outcome.closed:
        parser.feed_eof()
        try:
            parser.next_event()
        except RelayError:
            outcome.cut = True
    return outcome


def read_h11(raw: bytes) -> Outcome:
    """By h11, which wants each request answered before the next."""
    outcome = Outcome()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LIMIT)
    if raw:  # no bytes would say that the client has ended
        connection.receive_data(raw)
    read = Read(b"", b"")
    try:
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                read = Read(event.method, event.target, list(event.headers))
            elif isinstance(event, h11.Data):
                read.body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage)
                outcome.requests.append(_normalised(read))
                # No 2xx, by which a CONNECT would end the reading of requests.
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    outcome.closed = True
                    break
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        outcome.refused = str(error)
    return outcome


class _Callbacks:
    """What httptools calls; after a request that ends the connection it stops the parser."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.parser: httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        self._read = Read(b"", b"")
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._read.target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if self._in_head:
            self._read.headers.append((name, value or b""))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._read.method = self.parser.get_method()

    def on_body(self, data: bytes) -> None:
        self._read.body += data

    def on_message_complete(self) -> None:
        self._outcome.requests.append(_normalised(self._read))
        if not self.parser.should_keep_alive():
            self._outcome.closed = True


def read_llhttp(raw: bytes) -> Outcome:
    """By llhttp, through httptools."""
    outcome = Outcome()
    callbacks = _Callbacks(outcome)
    callbacks.parser = httptools.HttpRequestParser(callbacks)
    try:
        callbacks.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        outcome.closed = True  # it reads no further once another protocol was asked for
    except httptools.HttpParserError as error:
        # Bytes behind a request that ends the connection are an error to it, and not to us.
        if not outcome.closed:
            outcome.refused = str(error)
    return outcome


PEERS: Final = {"h11": read_h11, "llhttp": read_llhttp}


def compare(raw: bytes) -> tuple[Outcome, dict[str, Outcome], list[Disagreement]]:
    """What we and each peer make of the stream, and how ours differs in a way that matters."""
    ours = read_ours(raw)
    theirs = {peer: read(raw) for peer, read in PEERS.items()}
    found = [
        Disagreement(peer, kind, raw, detail, request)
        for peer, outcome in theirs.items()
        for kind, detail, request in difference(ours, outcome)
    ]
    return ours, theirs, found


def difference(ours: Outcome, theirs: Outcome) -> Iterator[tuple[str, str, Read | None]]:
    """The first difference's kind, detail and request; nothing if there is none that matters."""
    for one, other in zip(ours.requests, theirs.requests, strict=False):
        if one != other:
            yield DIFFERENT, f"we: {one}; they: {other}", one
            return
    count = min(len(ours.requests), len(theirs.requests))
    # Who closed has said nothing of what follows.
    if len(ours.requests) > count and not theirs.closed:
        detail = theirs.refused or f"we: {ours.requests[count]}"
        yield THEY_REFUSE if theirs.refused else THEY_WAIT, detail, ours.requests[count]
    elif len(theirs.requests) > count and not (ours.closed or ours.refused):
        yield WE_WAIT, f"they: {theirs.requests[count]}", theirs.requests[count]
    elif theirs.refused and len(ours.requests) == len(theirs.requests):
        if ours.refused or ours.closed or ours.cut:
            return
        yield THEY_REFUSE, theirs.refused, None


def _normalised(read: Read) -> Read:
    headers = [(name.lower(), value.strip(b" \t")) for name, value in read.headers]
    # The one value that h11 changes: the coding's name.
    read.headers = [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers
    ]
    return read
