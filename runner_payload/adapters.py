"""What some upstreams have instead of OpenAI's API: other paths, headers, bodies, answers.

A table of small functions, one for each path of each such upstream; every other request goes up as
it came. Sans-IO. Used by relaying.py; the longest one has a file of its own (elevenlabs.py).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from . import elevenlabs
from .failures import UpstreamFailure
from .messages import Failure
from .multipart import InvalidMultipart

_ANTHROPIC_VERSION = "2023-06-01"

Body = bytes | AsyncIterator[bytes]


class NotServed(Exception):
    """Upstream cannot be asked this. One sentence, for the client."""


@dataclass(frozen=True)
class Sending:
    """A request on its way up, and what has to become of the answer.

    Attributes:
        before: goes down before upstream's answer.
        content_type: the answer's, where upstream's own is another.
        convert: makes the client's answer of upstream's, once that is whole: media type and body.
        refused: what is wrong with a body that was found to be no good on its way.
    """

    path: str
    query: str
    headers: dict[str, str]
    body: Body
    before: bytes = b""
    content_type: str = ""
    convert: Callable[[bytes], tuple[str, bytes]] | None = None
    refused: list[Exception] = field(default_factory=list)


def adapt(adapter: str, path: str, sending: Sending) -> Sending:
    """The request as upstream wants it.

    Raises:
        UpstreamFailure: it has nothing of the kind, or the request is none.
    """
    table = _ADAPTERS.get(adapter, {})
    change = table.get(path)
    try:
        if change is not None:
            return change(sending)
        if adapter == "elevenlabs":
            raise NotServed(f"ElevenLabs has no {path}: it has {', '.join(table)}.")
    except (NotServed, elevenlabs.CannotBeHad, InvalidMultipart) as error:
        raise refusal(error) from error
    return sending


def refusal(error: Exception) -> UpstreamFailure:
    """A request that is no good, told to its client."""
    return UpstreamFailure(Failure("bad_request", str(error)))


# --- Anthropic ----------------------------------------------------------------------------------


def _anthropic(sending: Sending) -> Sending:
    # "When making API requests, you must send an anthropic-version request header."
    return replace(sending, headers={"anthropic-version": _ANTHROPIC_VERSION, **sending.headers})


# --- Cohere: its own API stands beside the one that is compatible --------------------------------


def _cohere_rerank(sending: Sending) -> Sending:
    return replace(sending, path="../../v2/rerank")


def _cohere_models(sending: Sending) -> Sending:
    def convert(answer: bytes) -> tuple[str, bytes]:
        names = [model["name"] for model in json.loads(answer)["models"]]
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "cohere"} for n in names]
        return "application/json", json.dumps({"object": "list", "data": data}).encode()

    return replace(sending, path="../../v1/models", query="page_size=1000", convert=convert)


# --- ElevenLabs ---------------------------------------------------------------------------------


def _elevenlabs_speech(sending: Sending) -> Sending:
    try:
        fields = json.loads(sending.body) if isinstance(sending.body, bytes) else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise NotServed("The body has to be a JSON object.")
    asked = elevenlabs.speech_request(fields)
    return replace(
        sending,
        path=asked.path,
        query=urlencode(asked.query),
        body=asked.body,
        before=asked.before_audio,
        content_type=asked.content_type,
    )


def _elevenlabs_transcription(sending: Sending) -> Sending:
    rewriter = elevenlabs.TranscriptionRewriter(sending.headers.get("content-type", ""))
    body = sending.body
    sent: Body
    if isinstance(body, bytes):
        sent = rewriter.feed(body) + rewriter.finish()
    else:
        sent = _fed(rewriter, body, sending.refused)
    # Its length is known no more.
    headers = {name: value for name, value in sending.headers.items() if name != "content-length"}

    def convert(answer: bytes) -> tuple[str, bytes]:
        wanted = rewriter.response_format
        return elevenlabs.transcription_answer(answer, wanted, stream=rewriter.stream)

    return replace(
        sending,
        path=elevenlabs.TRANSCRIPTION_PATH,
        headers=headers | {"content-type": rewriter.content_type},
        body=sent,
        convert=convert,
    )


async def _fed(
    rewriter: elevenlabs.TranscriptionRewriter,
    pieces: AsyncIterator[bytes],
    refused: list[Exception],
) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            if data := rewriter.feed(piece):
                yield data
        yield rewriter.finish()
    except (elevenlabs.CannotBeHad, InvalidMultipart) as error:
        # What sends the body makes an error of its own of it.
        refused.append(error)
        raise


def _elevenlabs_models(sending: Sending) -> Sending:
    def convert(answer: bytes) -> tuple[str, bytes]:
        return "application/json", elevenlabs.models_answer(answer)

    return replace(sending, path=elevenlabs.MODELS_PATH, convert=convert)


# What convert() raises of an answer that is not what upstream documents.
BROKEN: tuple[type[Exception], ...] = (
    elevenlabs.BrokenAnswer,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
)

_ADAPTERS: dict[str, dict[str, Callable[[Sending], Sending]]] = {
    "anthropic": {
        "messages": _anthropic,
        "messages/count_tokens": _anthropic,
        "models": _anthropic,
    },
    "cohere": {"rerank": _cohere_rerank, "models": _cohere_models},
    "elevenlabs": {
        "audio/speech": _elevenlabs_speech,
        "audio/transcriptions": _elevenlabs_transcription,
        "models": _elevenlabs_models,
    },
}
