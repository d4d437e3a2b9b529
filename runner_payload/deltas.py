"""An upstream's event stream -> the answer's text, and how it ended.

Sans-IO and without openai; `jiter` is the JSON parser that openai brings. Knows the events of chat
completions (OpenAI reference, "The chat completion chunk object") and nothing of connections.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jiter

from .alike import Alike
from .events import Usage
from .sse import EventDecoder, EventTooLong

MAX_EVENT_BYTES = 1024 * 1024
# A read of more has several events in it.
_LARGE_BYTES = 1024
_EVENT_END = re.compile(rb"\n\r?\n")


class NotAnEventStream(Exception):
    """An event's data is not what the API documents."""


class ErrorEvent(Exception):
    """Upstream sent an error in its stream."""


class DeltaDecoder:
    """Bytes of an event stream in, UTF-8 text out.

    Attributes:
        begun: some text has come out.
        done: [DONE] has come.
        events: how many events have been parsed, with text or without.
        finish_reason: upstream's, once it has said it.
        usage: upstream's count, once it has given one.
    """

    __slots__ = (
        "_alike",
        "_events",
        "_high_surrogate",
        "alike",
        "begun",
        "done",
        "events",
        "finish_reason",
        "usage",
    )

    def __init__(self) -> None:
        self.begun = False
        self.done = False
        self.events = 0
        self.finish_reason: str | None = None
        self.usage = Usage()
        self._events = EventDecoder(MAX_EVENT_BYTES)
        self._high_surrogate = ""
        self._alike = Alike(jiter.from_json)
        # The hot path: the text of a read that brings nothing but events like those before it, or
        # None, and then it is for feed().
        self.alike = self._alike.text

    def feed(self, chunk: bytes) -> bytes:
        """The text of all deltas that `chunk` completes; often empty.

        Raises:
            NotAnEventStream: an event that the API does not document, or one without an end.
            ErrorEvent: upstream reports an error. Text that stood before it in the same chunk is
                lost with the answer, which is broken anyway.
        """
        if (text := self.alike(chunk)) is not None:
            return text
        if len(chunk) > _LARGE_BYTES:
            # A half may be alike: it has begun within an event, or one of many says something else.
            half = _EVENT_END.search(chunk, len(chunk) // 2)
            if half is not None and (at := half.end()) < len(chunk):
                return self.feed(chunk[:at]) + self.feed(chunk[at:])
        return self._parsed(chunk)

    def _parsed(self, chunk: bytes) -> bytes:
        """As feed(), whatever it may be."""
        if self.done or not chunk:
            return b""
        try:
            events = self._events.feed(chunk)
        except EventTooLong:
            raise NotAnEventStream(f"an event of more than {MAX_EVENT_BYTES} bytes") from None
        self.events += len(events)
        text = last = ""
        for data in events:
            if data.startswith(b"[DONE]"):
                self.done = True
                break
            text += (last := self._delta(data))
        if text:
            self.begun = True
        answer = self._encode(text, last=self.done)
        more = self.begun and not (self.done or self._high_surrogate)
        between = more and self._events.between
        self._alike.expect(between=between)
        if between and last:
            self._learn(chunk, events[-1])
        return answer

    def _learn(self, chunk: bytes, data: bytes) -> None:
        """Takes the event that `chunk` ends with, if it is a line, for a model of those to come."""
        event = chunk[chunk.rfind(b"\ndata:") + 1 :]
        if event[:5] != b"data:" or event[5:].strip() != data:
            return
        other = self._alike.learn(event)
        if other is not None and not _differ_in_text(event, other):
            self._alike.forget()

    def finish(self) -> bytes:
        """The stream has ended: what its last event held, should the blank line after it lack."""
        if self.done:
            return b""
        return self.feed(b"\n") + self._encode("", last=True)

    def _delta(self, data: bytes) -> str:
        try:
            event = _parse(data)
        except (ValueError, RecursionError):
            raise NotAnEventStream("an event that is not JSON") from None
        if not isinstance(event, dict):
            raise NotAnEventStream("an event that is not a JSON object")
        error = event.get("error")
        if error:
            message = error.get("message") if isinstance(error, dict) else error
            raise ErrorEvent(message if isinstance(message, str) else "an error without a message")
        choices = event.get("choices")
        # Usage has an event of its own, or comes with the last one that has a choice.
        if isinstance(usage := event.get("usage"), dict):
            self.usage.take(usage)
        if not choices:
            return ""
        try:
            choice = choices[0]
            delta = choice.get("delta") or {}
            reason = choice.get("finish_reason")
            text = delta.get("content") or delta.get("refusal") or ""
        except (AttributeError, TypeError, KeyError):
            raise NotAnEventStream("an event that is no chat completion") from None
        # Some servers say "" where others say null.
        if reason:
            self.finish_reason = str(reason)[:64]
        if not isinstance(text, str):
            raise NotAnEventStream("a delta that is not text")
        return text

    def _encode(self, text: str, *, last: bool = False) -> bytes:
        """UTF-8; a surrogate pair that upstream split over two deltas becomes its character."""
        if text.isascii() and not self._high_surrogate:
            return text.encode()
        text = self._high_surrogate + text
        self._high_surrogate = ""
        if text and not last and "\ud800" <= text[-1] <= "\udbff":
            self._high_surrogate = text[-1]
            text = text[:-1]
        try:
            return text.encode()
        except UnicodeEncodeError:
            # UTF-16 joins pairs; what is left alone becomes U+FFFD.
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _differ_in_text(one: bytes, other: bytes) -> bool:
    """Whether two events are the same but for the text, and say nothing else that matters."""
    try:
        mine, its = (_parse(event.partition(b":")[2]) for event in (one, other))
        choice, its_delta = mine["choices"][0], its["choices"][0]["delta"]
        choice["delta"]["content"] = its_delta["content"]
        quiet = not (choice.get("finish_reason") or mine.get("usage") or mine.get("error"))
        return quiet and mine == its and its_delta["content"] == Alike.OTHER
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _parse(data: bytes) -> Any:
    try:
        return jiter.from_json(data)
    except ValueError:
        # jiter refuses lone surrogates, which some servers send as halves of a pair.
        return json.loads(data)
