"""A chat completion: a prompt, or messages, and the text of the answer as it comes.

Asked for as a stream, whose deltas are taken out (deltas.py). Retries up to the first delta, where
the front-end lets it. Knows upstream.py by its interface alone.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from . import failures
from .deltas import DeltaDecoder, ErrorEvent, NotAnEventStream
from .failures import UpstreamFailure
from .messages import Call, End
from .reply import Destination, send

if TYPE_CHECKING:
    # Not at run time: it imports us.
    from .upstream import Upstream

# No call is retried more often than this, nor after its first delta.
MAX_RETRIES = 2
RETRY_DELAY_S = 0.5

_PATH = "chat/completions"
_HEADERS = {"content-type": "application/json"}


class _Retries:
    """How many retries of a call have been taken, by the SDK and by us together."""

    __slots__ = ("_most", "taken")

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._most = min(most, MAX_RETRIES)

    @property
    def left(self) -> int:
        """How often upstream may be asked again."""
        return max(0, self._most - self.taken)


async def chat(upstream: Upstream, call: Call, prompt: str, answer: Destination) -> End:
    """Sends `answer` the text in UTF-8, as each read from upstream brings it.

    An event without text (a role, a thought) is passed on as none: upstream is alive.

    Raises:
        UpstreamFailure: no answer, or one that is not whole.
    """
    retries = _Retries(call.retries)
    body = json.dumps(_parameters(upstream, call, prompt)).encode()
    while True:
        deltas = DeltaDecoder()
        try:
            await _attempt(upstream, call.model, body, retries, deltas, answer)
            usage = deltas.usage
            return End(deltas.finish_reason, retries.taken, usage.input_tokens, usage.output_tokens)
        except UpstreamFailure as error:
            if deltas.begun or not error.repeatable or not retries.left:
                raise
        # The SDK retries up to the response's head; from there to the first delta we do.
        await asyncio.sleep(RETRY_DELAY_S * 2**retries.taken)
        retries.taken += 1


async def _attempt(
    upstream: Upstream,
    model: str,
    body: bytes,
    retries: _Retries,
    deltas: DeltaDecoder,
    answer: Destination,
) -> None:
    """One answer, with the SDK's retries up to its head."""
    path = upstream.path_of(_PATH, model)
    try:
        async with upstream.send("POST", path, _HEADERS, body, retries.left, decoded=True) as reply:
            retries.taken += reply.retries
            kind = reply.headers.get("content-type", "")
            if kind.startswith(("text/html", "application/json")):
                raise failures.broken(f"with {kind} and not with an event stream")
            await reply.pour(_Texts(deltas, answer))
            await send(answer, deltas.finish())
            if deltas.done:
                reply.release()
    except NotAnEventStream as error:
        raise failures.broken(f"with {error}") from error
    except ErrorEvent as error:
        raise failures.error_event(str(error)) from error
    if not deltas.done and deltas.finish_reason is None:
        raise UpstreamFailure(failures.INCOMPLETE, repeatable=True)


def _parameters(upstream: Upstream, call: Call, prompt: str) -> dict[str, Any]:
    """The request's body (OpenAI reference, "Create chat completion")."""
    if call.kind == "messages":
        messages = json.loads(prompt)
    else:
        messages = [{"role": "user", "content": prompt}]
    if call.system:
        messages.insert(0, {"role": "system", "content": call.system})
    parameters: dict[str, Any] = {
        "model": call.model,
        "messages": messages,
        "stream": True,
        upstream.max_tokens_field: call.max_tokens,
    }
    if call.temperature is not None:
        parameters["temperature"] = call.temperature
    if call.top_p is not None:
        parameters["top_p"] = call.top_p
    if upstream.ask_usage:
        parameters["stream_options"] = {"include_usage": True}
    return parameters


class _Texts:
    """A sink for an answer's events: sends their text on, up to [DONE]."""

    __slots__ = ("_alike", "_deltas", "_emit", "_events", "done", "ready")

    def __init__(self, deltas: DeltaDecoder, answer: Destination) -> None:
        self.done = False
        self.ready = answer.ready
        self._deltas = deltas
        self._alike = deltas.alike
        self._emit = answer.emit
        self._events = 0

    def take(self, piece: bytes) -> bool:
        """The deltas of one read: the runner's hot path."""
        alike, emit = self._alike, self._emit
        text = alike(piece)
        if text is not None:
            return emit(text)
        deltas = self._deltas
        text = deltas.feed(piece)
        # Comments and parts of events are no sign of life worth passing on.
        if not text and deltas.events == self._events:
            return True
        self._events = deltas.events
        self.done = deltas.done
        return emit(text) and not deltas.done
