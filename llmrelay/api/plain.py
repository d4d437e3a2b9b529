"""What `/transcribe`, `/speak` and `/embed` mean: OpenAI's audio and embeddings API, for curl.

Pure: a request's parameters and body become a request for upstream. What a body does not say is as
configured. Knows no sockets and no runners.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner_payload.messages import End
from runner_payload.messages import Request as UpstreamRequest
from runner_payload.multipart import (
    boundary_of,
    encode_end,
    encode_field,
    encode_file_head,
    new_boundary,
)

from ..config import Config
from ..errors import BadRequest, ContentTooLarge, LengthRequired, UnsupportedMediaType
from ..http.events import Request
from ..values import count, number, parse_model, parse_word
from . import bodies
from .accept import preferred
from .answers import Header, Text
from .openai import is_form, subject_of_form
from .parameters import Known, Parameters, parse_group, parse_text

# response_format -> what Accept calls it (OpenAI reference, "Create speech").
FORMATS = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
# The same by other names; what browsers and sound programs say.
_FORMAT_OF = {kind: name for name, kind in FORMATS.items()} | {
    "audio/mp3": "mp3",
    "audio/opus": "opus",
    "audio/x-aac": "aac",
    "audio/x-flac": "flac",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
}
# What recordings are called, by what they begin with: upstreams go by the name's ending.
_SOUNDS = (
    (b"RIFF", 0, "wav"),
    (b"fLaC", 0, "flac"),
    (b"OggS", 0, "ogg"),
    (b"ID3", 0, "mp3"),
    (b"\x1aE\xdf\xa3", 0, "webm"),
    (b"ftyp", 4, "m4a"),
)
_COMMON: dict[str, Callable[[str], Any]] = {"model": parse_model, "group": parse_group}


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"a format is one of {', '.join(FORMATS)}")
    return text


_SPEECH: Known = {
    **_COMMON,
    "voice": parse_word,
    "format": _format,
    "speed": number(0.25, 4),
    "instructions": parse_text,
}
_EMBEDDING: Known = {**_COMMON, "dimensions": count(1, 65536)}
_TRANSCRIPTION: Known = {
    **_COMMON,
    "language": parse_word,
    "prompt": parse_text,
    "temperature": number(0, 1),
}


class Plain:
    """One request of an endpoint, by its head.

    Args:
        known: its parameters.
        model: what is asked where the request names none.

    Attributes:
        model, group: as Call's and Ask's.

    Raises:
        LengthRequired, UnsupportedMediaType, BadRequest: it is none.
    """

    path = ""
    example = "-d 'Good morning.'"

    def __init__(self, request: Request, known: Known, model: str, config: Config) -> None:
        if request.framing is None:
            raise LengthRequired(
                f"There is no body; {request.path} needs one: curl {self.example} …"
            )
        bodies.check_coding(request)
        self._sent = request
        self._max_bytes = config.max_call_bytes
        self.said = Parameters(request, known).said
        self._names_model = "model" in self.said
        self.model: str = self.said.pop("model", model)
        self.group: str | None = self.said.pop("group", None)

    def _with_text(self, text: bytes, fields: Mapping[str, object]) -> bytes:
        """The JSON that goes up.

        Raises:
            BadRequest, UnsupportedMediaType: there is no text.
            ContentTooLarge: written as JSON it is too long for a runner.
        """
        if is_form(self._sent):
            raise UnsupportedMediaType(
                f"{self._sent.path} takes text as it is, and no form: curl {self.example} …"
            )
        bodies.check_text(text, "text")
        asked = {"model": self.model, "input": text.decode(), **fields}
        body = json.dumps(asked, ensure_ascii=False).encode()
        # A control character is six times as long there.
        if len(body) > self._max_bytes:
            raise ContentTooLarge(f"As JSON the text is over {self._max_bytes} bytes.")
        return body

    def request(self, request_id: str) -> UpstreamRequest:
        """The request that goes up, with JSON."""
        return UpstreamRequest(
            method="POST",
            path=self.path,
            headers=(("content-type", "application/json"), ("x-client-request-id", request_id)),
            model=self.model,
            asked_model=self.model,
        )


class Speech(Plain):
    """`POST /speak` (OpenAI reference, "Create speech")."""

    path = "audio/speech"

    def __init__(self, request: Request, config: Config) -> None:
        super().__init__(request, _SPEECH, config.speech_model, config)
        by_accept = _FORMAT_OF[preferred(request.headers.get("accept"), list(_FORMAT_OF))]
        self._fields = {
            "response_format": self.said.pop("format", by_accept),
            "voice": self.said.pop("voice", config.voice),
            **self.said,
        }

    def body(self, text: bytes) -> bytes:
        """The body for upstream; raises as _with_text."""
        return self._with_text(text, self._fields)


class Embedding(Plain):
    """`POST /embed` (OpenAI reference, "Create embeddings")."""

    path = "embeddings"

    def __init__(self, request: Request, config: Config) -> None:
        super().__init__(request, _EMBEDDING, config.embedding_model, config)

    def body(self, text: bytes) -> bytes:
        """The body for upstream; raises as _with_text."""
        return self._with_text(text, self.said)


class Transcription(Plain):
    """`POST /transcribe`: a recording as it is, or a form with it as `file`.

    (OpenAI reference, "Create transcription".)

    Attributes:
        before, behind: what makes a form of the recording, or adds to the client's own.
    """

    path = "audio/transcriptions"
    example = "-T talk.mp3"

    def __init__(self, request: Request, config: Config) -> None:
        super().__init__(request, _TRANSCRIPTION, config.transcription_model, config)
        self._model_at: int | None = None
        self.before = self.behind = b""

    def begin(self, begun: bytes, *, whole: bool) -> None:
        """Looks at the beginning of the body.

        Raises:
            BadRequest: it is no recording, or a form that is none.
        """
        if not begun:
            raise BadRequest("The body is empty; it has to be a recording: curl -T talk.mp3 …")
        if is_form(self._sent):
            self._content_type = self._sent.headers.get("content-type") or ""
            subject = subject_of_form(self._sent, begun, whole=whole)
            boundary = boundary_of(self._content_type)
            if not begun.startswith(b"--" + boundary):
                raise BadRequest("The form does not begin with its boundary.")
            if subject.model is not None and self._names_model:
                raise BadRequest("The parameter model is there twice.")
            self._add_fields(boundary, subject.model, streams=subject.events)
            if subject.model is not None and subject.at is not None:
                self._model_at = len(self.before) + subject.at
            return
        boundary = new_boundary()
        self._content_type = f"multipart/form-data; boundary={boundary.decode()}"
        self._add_fields(boundary, None)
        name = f"recording.{_kind(begun)}"
        self.before += encode_file_head(boundary, "file", name)
        self.behind = encode_end(boundary)

    def _add_fields(self, boundary: bytes, model: str | None, *, streams: bool = False) -> None:
        """What the form does not have: `model` is the one that it has, if it `streams` it says."""
        named = {"model": self.model} if model is None else {}
        self.model = model or self.model
        # Whisper's cannot, and who serves those may not know the field.
        stream = {} if streams or "whisper" in self.model else {"stream": "true"}
        for name, value in {**named, **stream, **self.said}.items():
            if b"--" + boundary in str(value).encode():
                raise BadRequest(f"The parameter {name} has the form's boundary in it.")
            self.before += encode_field(boundary, name, str(value))
            if name == "model":
                self._model_at = len(self.before) - len(self.model.encode()) - 2

    def upload(self, request_id: str, *, whole: bool) -> UpstreamRequest:
        """The request that goes up."""
        length = self._sent.framing
        added = len(self.before) + len(self.behind)
        return UpstreamRequest(
            method="POST",
            path=self.path,
            headers=(("content-type", self._content_type), ("x-client-request-id", request_id)),
            model=self.model,
            asked_model=self.model,
            model_at=self._model_at,
            streamed=not whole,
            length=length + added if isinstance(length, int) else None,
            transcript=True,
        )


class Transcript(Text):
    """The text of a recording."""

    def head(self) -> tuple[int, Sequence[Header]]:
        return 200, super().head()[1][:-1]

    def trailers(self, end: End) -> Sequence[Header]:
        return ()


def _kind(begun: bytes) -> str:
    """What a recording is, for the end of its name; mp3 has no other mark than its frames'."""
    return next((kind for mark, at, kind in _SOUNDS if begun.startswith(mark, at)), "mp3")
