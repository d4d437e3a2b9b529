"""How an answer looks to its client: plain text, server-sent events, one JSON object, or upstream's
own bytes.

A form says what goes out when a call begins, brings a piece, ends or breaks. Pure: bytes in, bytes
out. relay.py asks it and knows what has gone out already.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import Protocol

from runner_payload.messages import End, Response

from ..errors import RelayError, UpstreamBroken
from .errors import error_object

Header = tuple[str, str]

# The finish reason is known only after the text, so it comes in the trailer section
# (RFC 9112, section 7.1.2), which curl shows with -i, behind the text.
FINISH_REASON = "X-Finish-Reason"

_NO_STORE: Header = ("Cache-Control", "no-store")
# nginx would otherwise collect the answer before it passes it on.
_UNBUFFERED: Header = ("X-Accel-Buffering", "no")
_TEXT: Header = ("Content-Type", "text/plain; charset=utf-8")
_EVENTS: Header = ("Content-Type", "text/event-stream; charset=utf-8")
_JSON: Header = ("Content-Type", "application/json")

# Comments, which event streams have for this (WHATWG HTML, section 9.2.7).
HEARTBEAT = b": waiting for upstream\n\n"
_DONE = b"data: [DONE]\n\n"

# Of an answer that is collected: some books.
_MAX_COLLECTED_BYTES = 8 * 1024 * 1024


class Form(Protocol):
    """One answer's form; another call's answer to the same request has another.

    Attributes:
        heartbeat: headers to open the response with, should upstream be slow; empty if a response
            that has begun could not tell of an error any more.
    """

    heartbeat: Sequence[Header]

    def head(self) -> tuple[int, Sequence[Header]]:
        """Status and headers."""

    def response(self, response: Response, *, opened: bool) -> None:
        """Upstream's own head has come; `opened` if a heartbeat has sent one already.

        Raises:
            RelayError: it cannot go on so.
        """

    def piece(self, data: bytes) -> bytes:
        """A piece of the answer; empty if it has to wait."""

    def end(self, end: End) -> bytes:
        """The answer is whole: what is left to say."""

    def trailers(self, end: End) -> Sequence[Header]:
        """What follows it."""

    def broken(self, error: RelayError) -> bytes:
        """It will not be whole, and the head is out: what to say before the cut."""


class Text:
    """The answer's text, as it is."""

    heartbeat: Sequence[Header] = ()

    def head(self) -> tuple[int, Sequence[Header]]:
        return 200, (_TEXT, _NO_STORE, _UNBUFFERED, ("Trailer", FINISH_REASON))

    def response(self, response: Response, *, opened: bool) -> None:
        """The text is what there is; upstream's head is about what it was taken out of."""

    def piece(self, data: bytes) -> bytes:
        return data

    def end(self, end: End) -> bytes:
        return b""

    def trailers(self, end: End) -> Sequence[Header]:
        return ((FINISH_REASON, end.finish_reason or "unknown"),)

    def broken(self, error: RelayError) -> bytes:
        return b""


class Events(Text):
    """The answer's text in events: `{"delta": …}`, and how it ended.

    Args:
        model: that was asked.
    """

    heartbeat: Sequence[Header] = (_EVENTS, _NO_STORE, _UNBUFFERED)

    def __init__(self, model: str) -> None:
        self._model = model
        # A piece may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def head(self) -> tuple[int, Sequence[Header]]:
        return 200, self.heartbeat

    def piece(self, data: bytes) -> bytes:
        text = self._decoder.decode(data)
        return _event({"delta": text}) if text else b""

    def end(self, end: End) -> bytes:
        return _event(_told(self._model, end)) + _DONE

    def trailers(self, end: End) -> Sequence[Header]:
        return ()

    def broken(self, error: RelayError) -> bytes:
        return broken_stream(error)


class Json(Text):
    """The whole answer as one object: `{"text": …}`, and how it ended."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text = bytearray()

    def head(self) -> tuple[int, Sequence[Header]]:
        return 200, (_JSON, _NO_STORE)

    def piece(self, data: bytes) -> bytes:
        self._text += data
        if len(self._text) > _MAX_COLLECTED_BYTES:
            raise UpstreamBroken("The answer is too long for one object; ask for text or events.")
        return b""

    def end(self, end: End) -> bytes:
        text = self._text.decode("utf-8", "replace")
        return json.dumps({"text": text} | _told(self._model, end)).encode() + b"\n"

    def trailers(self, end: End) -> Sequence[Header]:
        return ()


_UNSAID = Response(200)


class Raw:
    """Upstream's answer, byte for byte.

    Args:
        events: an event stream was asked for.
        anthropic: errors have the form of Anthropic's API.
    """

    def __init__(self, *, events: bool = False, anthropic: bool = False) -> None:
        self.heartbeat: Sequence[Header] = (_EVENTS, _NO_STORE, _UNBUFFERED) if events else ()
        self._anthropic = anthropic
        self._response = _UNSAID
        self._streams = events

    def head(self) -> tuple[int, Sequence[Header]]:
        headers = [*self._response.headers, _NO_STORE]
        return self._response.status, [*headers, _UNBUFFERED] if self._streams else headers

    def response(self, response: Response, *, opened: bool) -> None:
        kind = dict(response.headers).get("content-type", "")
        streams = kind.startswith("text/event-stream")
        if opened and not streams:
            raise UpstreamBroken(f"The upstream answered with {kind or 'no type'} and no events.")
        self._response, self._streams = response, streams
        if not streams:
            self.heartbeat = ()

    def piece(self, data: bytes) -> bytes:
        return data

    def end(self, end: End) -> bytes:
        return b""

    def trailers(self, end: End) -> Sequence[Header]:
        return ()

    def broken(self, error: RelayError) -> bytes:
        return broken_stream(error, anthropic=self._anthropic) if self._streams else b""


def broken_stream(error: RelayError, *, anthropic: bool = False) -> bytes:
    """An event that tells of an error; clients look for `error` in its data, or at its type."""
    return b"event: error\n" + _event(error_object(error, anthropic=anthropic))


def _event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _told(model: str, end: End) -> dict[str, object]:
    """What is known of an answer at its end."""
    told: dict[str, object] = {"model": model, "finish_reason": end.finish_reason or "unknown"}
    if end.input_tokens is not None or end.output_tokens is not None:
        told["usage"] = {"input_tokens": end.input_tokens, "output_tokens": end.output_tokens}
    return told
