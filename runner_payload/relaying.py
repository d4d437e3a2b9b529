"""A request that is relayed as it is: the client's bytes up, upstream's bytes down.

Touches a JSON body only where it has to say something else than the client did: another name of the
model, or that usage is wanted. Of the answer nothing is parsed but what counts tokens (events.py).
Knows upstream.py by its interface alone; RunningCall, which runs this, is the way back.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from .adapters import BROKEN, Body, Sending, adapt, refusal
from .events import EventRelay, Usage
from .failures import UpstreamFailure, broken, passed_down
from .messages import End, Failure, Pairs, Request, Response
from .reply import Destination, Reply, Through, send
from .transcript import TranscriptDecoder

if TYPE_CHECKING:
    # Not at run time: it imports openai.
    from .upstream import Upstream

METHODS = frozenset({"GET", "POST", "DELETE"})
# No scheme, no host and no way up: the SDK would follow each to somewhere else.
# Nothing escaped either: the HTTP stack decodes before it resolves, so %2e%2e goes up, too.
_PATH = re.compile(r"(?!\.)[A-Za-z0-9_.~:@-]+(?:/(?!\.)[A-Za-z0-9_.~:@-]+)*")
# Where a stream can be asked to count its tokens (OpenAI reference, `stream_options`).
_COUNTED = frozenset({"chat/completions", "completions"})
# Of an answer that is no stream this much is kept to look for usage in it, from its end.
_KEPT_BYTES = 64 * 1024

# Of an answer that an adapter converts: a transcript of days, with times for each word.
_MAX_CONVERTED_BYTES = 32 * 1024 * 1024


class Answer(Destination, Protocol):
    """Where an answer goes."""

    def head(self, response: Response) -> None:
        """The answer begins."""


async def relay(upstream: Upstream, request: Request, body: Body, answer: Answer) -> End:
    """Sends `request` and gives `answer` what upstream says.

    Raises:
        UpstreamFailure: no answer, or one that is not whole.
    """
    if request.method not in METHODS or not _PATH.fullmatch(request.path):
        raise UpstreamFailure(Failure("bad_request", "The runner relays no such request."))
    asked = False
    if isinstance(body, bytes):
        body, asked = _rewritten(request, body, ask_usage=upstream.ask_usage)
    elif renames_form(request):
        body = _respelled(body, request)
    sending = Sending(
        upstream.path_of(request.path, request.model), request.query, _headers(request), body
    )
    sending = adapt(upstream.adapter, request.path, sending)
    usage = Usage()
    try:
        async with upstream.send(
            request.method,
            f"{sending.path}?{sending.query}" if sending.query else sending.path,
            sending.headers,
            None if request.method == "GET" or sending.body == b"" else sending.body,
            request.retries,
            native=request.path in upstream.native,
        ) as said:
            reply = said if sending.convert is None else await _converted(said, sending.convert)
            if request.transcript:
                await _transcribe(reply, answer)
            else:
                answer.head(Response(reply.status, _head(reply, sending)))
                await send(answer, sending.before)
                await _copy(reply, answer, usage, take_out=asked)
    except UpstreamFailure:
        if sending.refused:
            raise refusal(sending.refused[0]) from None
        raise
    return End(None, said.retries, usage.input_tokens, usage.output_tokens)


def _head(reply: Reply, sending: Sending) -> Pairs:
    headers = passed_down(reply.headers)
    if not sending.content_type:
        return headers
    return (("content-type", sending.content_type), *(h for h in headers if h[0] != "content-type"))


async def _converted(reply: Reply, convert: Callable[[bytes], tuple[str, bytes]]) -> Reply:
    """What an adapter makes of a whole answer."""
    answer = bytearray()
    async for chunk in reply.chunks:
        answer += chunk
        if len(answer) > _MAX_CONVERTED_BYTES:
            raise broken("with something that has no end")
    try:
        kind, body = convert(bytes(answer))
    except BROKEN as error:
        raise broken(f"with something that it does not document ({error})") from error

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    headers = {n.lower(): v for n, v in reply.headers.items()} | {"content-type": kind}
    return Reply(reply.status, headers, chunks())


def _headers(request: Request) -> dict[str, str]:
    """What goes up: the client's, and that bytes are to come as they are."""
    headers = dict(request.headers) | {"accept-encoding": "identity"}
    if request.streamed and request.length is not None:
        added = len(request.model.encode()) - len(request.asked_model.encode())
        length = request.length + (added if renames_form(request) else 0)
        headers["content-length"] = str(length)
    return headers


def renames_form(request: Request) -> bool:
    """Whether the model has another name in the form that goes up."""
    return request.model_at is not None and request.model != request.asked_model


async def _respelled(pieces: AsyncIterator[bytes], request: Request) -> AsyncIterator[bytes]:
    """A form with upstream's name of the model in the place of the client's."""
    assert request.model_at is not None
    begin, end = request.model_at, request.model_at + len(request.asked_model.encode())
    at = 0
    async for piece in pieces:
        before, behind = piece[: max(0, begin - at)], piece[max(0, end - at) :]
        name = request.model.encode() if at <= begin < at + len(piece) else b""
        if respelled := before + name + behind if at < end else piece:
            yield respelled
        at += len(piece)


def _rewritten(request: Request, body: bytes, *, ask_usage: bool) -> tuple[bytes, bool]:
    """The body, and whether it asks for usage where the client did not."""
    if request.model_at is not None:
        at, end = request.model_at, request.model_at + len(request.asked_model.encode())
        return body[:at] + request.model.encode() + body[end:], False
    renamed = request.model != request.asked_model
    ask_usage = ask_usage and request.path in _COUNTED
    if not (renamed or ask_usage):
        return body, False
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return body, False  # upstream says best what is wrong with it
    if not isinstance(fields, dict):
        return body, False
    if renamed:
        fields["model"] = request.model
    ask_usage = ask_usage and _ask_usage(fields)
    # ASCII, as half of a surrogate pair has no UTF-8.
    return (json.dumps(fields).encode() if renamed or ask_usage else body), ask_usage


def _ask_usage(fields: dict[str, object]) -> bool:
    """Has a stream count its tokens; false if it does so by itself, or is none."""
    options = fields.get("stream_options")
    if fields.get("stream") is not True or not isinstance(options, (dict, type(None))):
        return False
    if options is not None and options.get("include_usage"):
        return False
    fields["stream_options"] = {**(options or {}), "include_usage": True}
    return True


async def _copy(reply: Reply, answer: Answer, usage: Usage, *, take_out: bool) -> None:
    """The body as it comes, whole events at a time if it is an event stream."""
    if is_event_stream(reply.headers):
        events = EventRelay(usage, take_out=take_out)
        # Even without a whole event: upstream is alive.
        await reply.pour(Through(events.feed, answer))
        await send(answer, events.finish())
        return
    end = _End(reply.headers.get("content-type", ""))
    await reply.pour(Through(end.keep, answer))
    usage.look(end.kept)


class _End:
    """Keeps the end of a body that goes by, where it may speak of usage."""

    def __init__(self, content_type: str) -> None:
        self.kept = b""
        self._looks = content_type.startswith("application/json")

    def keep(self, data: bytes) -> bytes:
        if self._looks:
            self.kept = (self.kept + data)[-_KEPT_BYTES:]
        return data


async def _transcribe(reply: Reply, answer: Answer) -> None:
    """The text of a transcription, as it comes."""
    answer.head(Response(reply.status))
    decoder = TranscriptDecoder(events=is_event_stream(reply.headers))
    await reply.pour(Through(decoder.feed, answer))
    await send(answer, decoder.finish())


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """Whether a body is server-sent events, and uncompressed."""
    kind = headers.get("content-type", "")
    return kind.startswith("text/event-stream") and "content-encoding" not in headers
