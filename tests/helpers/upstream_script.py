"""The words in which a test tells the scripted upstream what to answer, and their bytes.

A script is a row of steps. Some put an event into the body (`Delta`, `Finish`, `Usage`, `Done`,
`ErrorEvent`, `Raw`, `Together`), the others shape the answer around the events: its head, its
pauses, its end, its faults. Here is also what each event looks like as bytes.

It may not know sockets, clocks or tasks: `upstream.py`, which carries scripts out, has those, and
offers all names of this file as its own. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# --- The vocabulary: steps that put an event into the body --------------------------------------


@dataclass(frozen=True)
class Delta:
    """One chat.completion.chunk with a piece of text; the answer's first one carries the role."""

    text: str


@dataclass(frozen=True)
class Finish:
    """The chunk with the finish_reason: stop, length, content_filter, tool_calls."""

    reason: str = "stop"


@dataclass(frozen=True)
class Usage:
    """The chunk with empty choices that `stream_options.include_usage` asks for."""

    prompt_tokens: int = 3
    completion_tokens: int = 5


@dataclass(frozen=True)
class Done:
    """`data: [DONE]`; the last chunk of the transfer is not part of it."""


@dataclass(frozen=True)
class ErrorEvent:
    """An error inside a stream that began with 200, as vLLM and OpenAI send it."""

    message: str
    code: str | int | None = None


@dataclass(frozen=True)
class Raw:
    """Any bytes as one chunk of the body: half an event, comments, CRLF events, no JSON at all."""

    data: bytes


@dataclass(frozen=True)
class Together:
    """Several events in one chunk and one write; `together()` spares the brackets."""

    events: tuple[Event, ...]


# --- The vocabulary: steps that shape the answer around the events -------------------------------


@dataclass(frozen=True)
class Headers:
    """Sends the response's head now; without this step it goes out with the first event.

    `chunked=False` makes a body that ends with the connection, as HTTP/1.0 servers do.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = True


@dataclass(frozen=True)
class Status:
    """A whole answer that is no stream; without a body it is OpenAI's error object."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] | None = None
    message: str = "scripted error"
    code: str | None = None


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class WaitFor:
    """Waits for an event of the test, or for a gate that `upstream.open(name)` opens."""

    gate: str | asyncio.Event


@dataclass(frozen=True)
class ReadBody:
    """Reads an upload on: until so much of it is there, or to its end."""

    least_bytes: int | None = None


@dataclass(frozen=True)
class Wire:
    """Bytes straight onto the socket, past head and chunked coding: a broken chunk size."""

    data: bytes


@dataclass(frozen=True)
class Garbage:
    """Bytes that are not HTTP in the place of an answer, and the connection's end."""

    data: bytes = b"\x00\xffthis is not HTTP\r\n\r\n"


@dataclass(frozen=True)
class Cut:
    """Closes the connection without the last chunk (before the head: without any answer).

    All that was sent before is delivered. `reset=True` sends RST, which may overtake it.
    """

    reset: bool = False


@dataclass(frozen=True)
class CleanEnd:
    """The last chunk now, whatever was or was not said: the end of a script says it too."""


@dataclass(frozen=True)
class Silence:
    """Says nothing more until the client closes."""


@dataclass(frozen=True)
class NoAnswer:
    """Reads the request and never sends a head: Silence that may only stand first."""


Event = Delta | Finish | Usage | Done | ErrorEvent | Raw | Together
Step = (
    Event
    | Headers
    | Status
    | Pause
    | WaitFor
    | ReadBody
    | Wire
    | Garbage
    | Cut
    | CleanEnd
    | Silence
    | NoAnswer
)
Script = Iterable[Step]


def answer(*deltas: str, finish: str = "stop") -> list[Step]:
    """The script of a whole, healthy answer."""
    return [*(Delta(text) for text in deltas), Finish(finish), Done()]


def together(*events: Event) -> Together:
    return Together(events)


def sse(data: object) -> bytes:
    """One server-sent event: text as it is, anything else as JSON (UTF-8, so it can be split)."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def encode(event: Event) -> bytes:
    """The bytes of one event, for tests that split or damage it and send it as `Raw`."""
    return Encoder(1, "scripted").encode(event)


# --- Bytes --------------------------------------------------------------------------------------


class Encoder:
    """Events to bytes for one answer; remembers only whether the role was said."""

    def __init__(self, number: int, model: str) -> None:
        self._id = f"chatcmpl-scripted-{number}"
        self._model = model
        self._role_said = False

    def encode(self, event: Event) -> bytes:  # noqa: PLR0911 - one for each kind of event
        match event:
            case Delta(text):
                role = {} if self._role_said else {"role": "assistant"}
                self._role_said = True
                return self._chunk([_choice({**role, "content": text}, None)])
            case Finish(reason):
                return self._chunk([_choice({}, reason)])
            case Usage(prompt, completion):
                counts = {"prompt_tokens": prompt, "completion_tokens": completion}
                return self._chunk([], usage={**counts, "total_tokens": prompt + completion})
            case Done():
                return sse("[DONE]")
            case ErrorEvent(message, code):
                return sse({"error": _error(message, code)})
            case Raw(data):
                return data
            case Together(events):
                return b"".join(self.encode(each) for each in events)

    def _chunk(self, choices: list[Any], **more: object) -> bytes:
        common = {"id": self._id, "object": "chat.completion.chunk", "created": 1}
        return sse({**common, "model": self._model, "choices": choices, **more})


def _choice(delta: Mapping[str, str], reason: str | None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _error(message: str, code: str | int | None) -> dict[str, object]:
    return {"message": message, "type": "scripted_error", "param": None, "code": code}


def whole(step: Status) -> bytes:
    body = {"error": _error(step.message, step.code)} if step.body is None else step.body
    if isinstance(body, Mapping):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    fixed = {"content-type": "application/json", "content-length": str(len(data))}
    return head(step.status, fixed, step) + data


def head(status: int, fixed: dict[str, str], step: Headers | Status) -> bytes:
    # The script's headers win, in any case of letters.
    fields = {**fixed, **{name.lower(): value for name, value in step.headers.items()}}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
