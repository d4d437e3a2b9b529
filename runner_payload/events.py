"""An event stream that is relayed as it is: whole events only, and what upstream counted in it.

A client that is shown half an event cannot be shown an error after it, so what follows the last
whole one waits for its rest; a delta is an event, so none waits. Nothing is parsed but events that
speak of usage. Bytes go out as they came, apart from a count that we have asked for and the client
has not (OpenAI reference, `stream_options.include_usage`).

Sans-IO; knows no connection. Used by relaying.py.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

# What is held back for the end of an event; a longer one goes on in parts.
MAX_HELD_BYTES = 1024 * 1024

# An object that has at the most objects of one level in it. In a JSON string the name's quotes
# would be escaped, so text of an answer is never taken for it.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
# With include_usage every other event says that it has none.
_NO_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
_AS_MOST_SAY = b',"usage":null'
_NAME = b'"usage"'
# However the line before it ends; nobody ends one with LF and the next with CR.
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
_EVENT = re.compile(rb"(?:[^\r\n]+(?:\r\n|\n|\r))*(?:\r\n|\n|\r)")


class Usage:
    """How many tokens upstream has counted, as far as is known.

    Attributes:
        input_tokens, output_tokens: by the newest count; None if there was none.
    """

    __slots__ = ("input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    def look(self, data: bytes) -> bool:
        """Takes up what `data`, JSON or events of JSON, says of usage; whether it does."""
        found = _USAGE.findall(data)
        for usage in found:
            with contextlib.suppress(ValueError, RecursionError):
                self.take(json.loads(usage))
        return bool(found)

    def take(self, usage: dict[str, Any]) -> None:
        """Takes up one object of usage."""
        # Chat completions and embeddings have the first names, all newer APIs the second.
        for mine, names in (
            ("input_tokens", ("prompt_tokens", "input_tokens")),
            ("output_tokens", ("completion_tokens", "output_tokens")),
        ):
            for name in names:
                count = usage.get(name)
                if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                    setattr(self, mine, count)


class EventRelay:
    """Bytes of an event stream in any split -> the same bytes, whole events at a time.

    Args:
        usage: takes up what upstream counts.
        take_out: leave out what was asked for in the client's place: the event that has nothing but
            usage, and the fields that say that there is none yet.
    """

    __slots__ = ("_rest", "_take_out", "_usage")

    def __init__(self, usage: Usage, *, take_out: bool = False) -> None:
        self._usage = usage
        self._take_out = take_out
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """All that can go on; often all of `chunk`."""
        if chunk[-2:] == b"\n\n" and not self._rest:
            # What nearly every read is. Not `in`, which first tries what it looks for as a number,
            # and makes an exception of it, for longer than it searches.
            return chunk if chunk.find(_NAME) < 0 else self._of_usage(chunk)
        data = self._rest + chunk if self._rest else chunk
        end = _end_of_events(data)
        if not end and len(data) > MAX_HELD_BYTES:
            end = len(data)
        self._rest = data[end:]
        return self._counted(data[:end])

    def finish(self) -> bytes:
        """The stream has ended as it should: what is left of it."""
        rest, self._rest = self._rest, b""
        return self._counted(rest)

    def _counted(self, events: bytes) -> bytes:
        return events if events.find(_NAME) < 0 else self._of_usage(events)

    def _of_usage(self, events: bytes) -> bytes:
        """As _counted(), of events that have the name in them."""
        rest = events.replace(_AS_MOST_SAY, b"")
        if rest.find(_NAME) < 0:
            return rest if self._take_out else events
        counted = self._usage.look(events)
        if not self._take_out:
            return events
        if counted:
            events = _EVENT.sub(lambda event: b"" if _is_count(event[0]) else event[0], events)
        return _NO_USAGE.sub(b"", events)


def _end_of_events(data: bytes) -> int:
    """Behind the last blank line (WHATWG HTML, section 9.2.5); 0 if there is none."""
    # Three finds, and never a loop over lines.
    ends = (at + len(mark) for mark in _BLANK_LINES if (at := data.rfind(mark)) >= 0)
    return max(ends, default=0)


def _is_count(event: bytes) -> bool:
    """Whether an event is a chat completion's chunk with usage and no choice."""
    try:
        data = json.loads(b"".join(line[5:] for line in event.splitlines() if line[:5] == b"data:"))
        return isinstance(data, dict) and data.get("choices") == [] and bool(data.get("usage"))
    except (ValueError, RecursionError):
        return False
