"""What upstream says of a recording -> the text that was spoken.

A transcription comes as events, a few words in each; as one JSON object; or as plain text, all at
the end, as upstream and its model will have it (OpenAI reference, "Create transcription"; vLLM's
events are like its chat's). Sans-IO. Used by relaying.py.
"""

from __future__ import annotations

import json
from typing import Any

from . import failures
from .sse import EventDecoder, EventTooLong

# Of a transcription that comes as one object: some days of speech.
MAX_BYTES = 8 * 1024 * 1024
_MAX_EVENT_BYTES = 1024 * 1024


class TranscriptDecoder:
    """Bytes of an answer in any split -> UTF-8 text.

    Args:
        events: the answer is an event stream.
    """

    def __init__(self, *, events: bool) -> None:
        self._events = EventDecoder(_MAX_EVENT_BYTES) if events else None
        self._whole = bytearray()
        self._said = False
        self._done = False

    def feed(self, chunk: bytes) -> bytes:
        """The text that `chunk` completes; often empty.

        Raises:
            UpstreamFailure: it is no transcription, or upstream reports an error.
        """
        if self._events is None:
            self._whole += chunk
            if len(self._whole) > MAX_BYTES:
                raise failures.broken("with a transcription that has no end")
            return b""
        try:
            events = self._events.feed(chunk)
        except EventTooLong:
            raise failures.broken("with an event that has no end") from None
        return b"".join(self._text_of(data) for data in events)

    def finish(self) -> bytes:
        """The answer has ended: the text that is left.

        Raises:
            UpstreamFailure: as feed; or the stream ended before the transcription did.
        """
        if self._events is not None:
            text = self.feed(b"\n")
            if not self._done:
                raise failures.UpstreamFailure(failures.INCOMPLETE)
            return text
        try:
            answer = json.loads(self._whole)
        except (ValueError, RecursionError):
            return bytes(self._whole)  # response_format=text, srt or vtt
        if not isinstance(answer, dict):
            return bytes(self._whole)  # as text, too: what was spoken may be a number
        if not isinstance(answer.get("text"), str):
            raise failures.broken("with something that is no transcription")
        return _encoded(answer["text"])

    def _text_of(self, data: bytes) -> bytes:
        if data[:6] == b"[DONE]":
            self._done = True
            return b""
        try:
            event: Any = json.loads(data)
            kind = event.get("type", "")
            error = event.get("error")
        except (ValueError, RecursionError, AttributeError):
            raise failures.broken("with an event that is no transcription") from None
        if error or kind == "error":
            message = error.get("message") if isinstance(error, dict) else error
            message = message or event.get("message") or "an error without a message"
            raise failures.error_event(str(message))
        if kind == "transcript.text.delta":
            self._said = True
            return _encoded(str(event.get("delta") or ""))
        if kind == "transcript.text.done":
            self._done = True
            # All of it once more, unless there were no deltas.
            return b"" if self._said else _encoded(str(event.get("text") or ""))
        return _encoded(_chunk_text(event))


def _chunk_text(event: dict[str, Any]) -> str:
    """Of an event as vLLM has it: a `transcription.chunk`, made like a chat completion's."""
    try:
        return str(event["choices"][0]["delta"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        return ""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
