"""OpenAI's audio requests -> ElevenLabs', and their answers back.

Sans-IO: paths, queries and bytes in and out; knows no connection and no key. ElevenLabs' API
reference ("Stream speech", "Create transcript", "List models") is what these follow. A field that
ElevenLabs has no counterpart for is left out; what would change the answer's form and cannot be had
is refused in a sentence. An uploaded file goes through in the pieces that it comes in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .multipart import (
    Event,
    MultipartDecoder,
    PartBegun,
    PartData,
    PartEnded,
    boundary_of,
    encode_end,
    encode_field,
    encode_file_head,
    new_boundary,
)

TRANSCRIPTION_PATH = "speech-to-text"
MODELS_PATH = "models"

# A language, a number, a model's name; an OpenAI field that is longer is one that is left out.
MAX_FIELD_BYTES = 4 * 1024

_PCM_RATE_HZ = 24_000
# OpenAI's name -> ElevenLabs' `output_format` and the answer's media type. Raw PCM is what OpenAI
# documents: 24 kHz, 16 bits, little-endian. ElevenLabs keeps only higher rates for larger plans.
_OUTPUT_FORMATS = {
    "mp3": ("mp3_44100_128", "audio/mpeg"),
    "opus": ("opus_48000_128", "audio/opus"),
    "pcm": (f"pcm_{_PCM_RATE_HZ}", "audio/pcm"),
    "wav": (f"pcm_{_PCM_RATE_HZ}", "audio/wav"),
}
# ElevenLabs' own fields, which a client can send besides OpenAI's.
_OWN_SPEECH_FIELDS = ("language_code", "seed", "apply_text_normalization")
# A voice id stands in the path: nothing in it may be read as a part of a URL.
_VOICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

_TRANSCRIPTION_FIELDS = {
    "model": "model_id",
    "language": "language_code",
    "temperature": "temperature",
    # ElevenLabs' own. Not `cloud_storage_url` and `webhook`: those let upstream call others.
    "tag_audio_events": "tag_audio_events",
    "diarize": "diarize",
    "num_speakers": "num_speakers",
    "keyterms": "keyterms",
    "seed": "seed",
}
_ANSWER_FIELDS = ("response_format", "stream")
_ANSWER_FORMATS = ("json", "text", "verbose_json")
# "List models" does not name those that transcribe.
_TRANSCRIPTION_MODELS = ("scribe_v1", "scribe_v2")


class CannotBeHad(Exception):
    """ElevenLabs cannot be asked this. One sentence, for the client."""


class BrokenAnswer(Exception):
    """ElevenLabs has answered with something that it does not document."""


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """What to ask ElevenLabs for OpenAI's audio/speech.

    Attributes:
        content_type: what to tell the client; ElevenLabs' own does not fit a WAV file.
        before_audio: bytes that go to the client before ElevenLabs' answer.
    """

    path: str
    query: dict[str, str]
    body: bytes
    content_type: str
    before_audio: bytes


def speech_request(body: Mapping[str, Any]) -> SpeechRequest:
    """OpenAI's JSON for audio/speech -> ElevenLabs' request.

    Raises:
        CannotBeHad: a field is missing, not what OpenAI documents, or without a counterpart.
    """
    voice = body.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id")
    if not isinstance(voice, str) or _VOICE_ID.fullmatch(voice) is None:
        raise CannotBeHad("`voice` has to be the id of one of ElevenLabs' voices.")
    if body.get("stream_format") not in (None, "audio"):
        raise CannotBeHad("ElevenLabs streams audio as it is: leave out `stream_format`.")
    wanted = _optional(body, "response_format", "mp3")
    if not isinstance(wanted, str) or wanted not in _OUTPUT_FORMATS:
        raise CannotBeHad(_no_such_format(_OUTPUT_FORMATS))
    output_format, content_type = _OUTPUT_FORMATS[wanted]
    request: dict[str, Any] = {"text": _text(body, "input"), "model_id": _text(body, "model")}
    request.update((name, body[name]) for name in _OWN_SPEECH_FIELDS if name in body)
    settings = _optional(body, "voice_settings", {})
    if not isinstance(settings, dict):
        raise CannotBeHad("`voice_settings` has to be an object.")
    speed = _optional(body, "speed", None)
    if speed is not None:
        # ElevenLabs' own limits are narrower and depend on the model; it says so itself.
        if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not 0.25 <= speed <= 4:
            raise CannotBeHad("`speed` has to be a number from 0.25 to 4.")
        settings = {**settings, "speed": speed}
    if settings:
        request["voice_settings"] = settings
    return SpeechRequest(
        path=f"text-to-speech/{voice}/stream",
        query={"output_format": output_format},
        body=json.dumps(request).encode(),
        content_type=content_type,
        before_audio=_wav_header() if wanted == "wav" else b"",
    )


class TranscriptionRewriter:
    """OpenAI's form for audio/transcriptions in any split -> ElevenLabs' form.

    Args:
        content_type: the client's; InvalidMultipart if it names no form.

    Attributes:
        content_type: of what feed() and finish() return.
        response_format: what the client wants; known after finish().
        stream: whether it wants events.
    """

    def __init__(self, content_type: str) -> None:
        self._decoder = MultipartDecoder(boundary_of(content_type))
        self._boundary = new_boundary()
        self.content_type = f"multipart/form-data; boundary={self._boundary.decode()}"
        self.response_format = "json"
        self.stream = False
        self._seen: set[str] = set()
        self._part: str | None = None  # the one that is collected, or goes through
        self._value = b""

    def feed(self, data: bytes) -> bytes:
        """What can go to ElevenLabs now; often nothing but the file's bytes.

        Raises:
            InvalidMultipart: `data` is no form.
            CannotBeHad: a field is not what OpenAI documents, or without a counterpart.
        """
        return b"".join([self._rewrite(event) for event in self._decoder.feed(data)])

    def finish(self) -> bytes:
        """The form has ended: the rest of ElevenLabs'.

        Raises:
            InvalidMultipart, CannotBeHad: see feed(); or a part is missing.
        """
        self._decoder.finish()
        for name in ("file", "model"):
            if name not in self._seen:
                raise CannotBeHad(f"The form has no part `{name}`.")
        rest = b""
        if "tag_audio_events" not in self._seen:
            # ElevenLabs writes "(laughter)" into the text by default; OpenAI does not.
            rest = encode_field(self._boundary, "tag_audio_events", "false")
        return rest + encode_end(self._boundary, after_file=False)

    def _rewrite(self, event: Event) -> bytes:
        if isinstance(event, PartBegun):
            return self._begin(event)
        if self._part is None:
            return b""
        if isinstance(event, PartData):
            return event.data if self._part == "file" else self._collect(event.data)
        if isinstance(event, PartEnded):
            return b"\r\n" if self._part == "file" else self._field(self._part)
        return b""

    def _begin(self, part: PartBegun) -> bytes:
        # "keyterms" may come more than once, and arrays come as "name[]".
        name = part.name.removesuffix("[]")
        self._part = None
        if name == "file":
            self._note("file")
            return encode_file_head(
                self._boundary,
                "file",
                part.filename or "audio",
                part.content_type or "application/octet-stream",
            )
        if name in _TRANSCRIPTION_FIELDS or name in _ANSWER_FIELDS:
            if name != "keyterms":
                self._note(name)
            self._part, self._value = name, b""
        return b""

    def _note(self, name: str) -> None:
        if name in self._seen:
            raise CannotBeHad(f"The form has more than one part `{name}`.")
        self._seen.add(name)
        self._part = name

    def _collect(self, data: bytes) -> bytes:
        self._value += data
        if len(self._value) > MAX_FIELD_BYTES:
            raise CannotBeHad(f"`{self._part}` has more than {MAX_FIELD_BYTES} bytes.")
        return b""

    def _field(self, name: str) -> bytes:
        try:
            value = self._value.decode()
        except UnicodeDecodeError:
            raise CannotBeHad(f"`{name}` is not UTF-8.") from None
        if name == "stream":
            self.stream = value.lower() in ("true", "1")
        elif name == "response_format":
            if value not in _ANSWER_FORMATS:
                raise CannotBeHad(_no_such_format(_ANSWER_FORMATS))
            self.response_format = value
        else:
            return encode_field(self._boundary, _TRANSCRIPTION_FIELDS[name], value)
        return b""


def transcription_answer(
    answer: bytes, response_format: str = "json", *, stream: bool = False
) -> tuple[str, bytes]:
    """ElevenLabs' transcript -> OpenAI's media type and body.

    Raises:
        BrokenAnswer: it is no transcript.
    """
    transcript = _parsed(answer)
    text = transcript.get("text") if isinstance(transcript, dict) else None
    if not isinstance(transcript, dict) or not isinstance(text, str):
        raise BrokenAnswer("a transcript without text")
    if stream:
        events = [
            {"type": "transcript.text.delta", "delta": text},
            {"type": "transcript.text.done", "text": text},
        ]
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return "text/event-stream", lines.encode()
    if response_format == "text":
        return "text/plain; charset=utf-8", (text + "\n").encode(errors="replace")
    said = {"text": text} if response_format == "json" else _verbose(transcript, text)
    return "application/json", json.dumps(said).encode()


def models_answer(answer: bytes) -> bytes:
    """ElevenLabs' list of models -> OpenAI's.

    Raises:
        BrokenAnswer: it is no list of models.
    """
    models = _parsed(answer)
    if not isinstance(models, list):
        raise BrokenAnswer("a list of models that is no list")
    names = [model.get("model_id") for model in models if isinstance(model, dict)]
    known = dict.fromkeys([*(n for n in names if isinstance(n, str)), *_TRANSCRIPTION_MODELS])
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "elevenlabs"} for name in known
    ]
    return json.dumps({"object": "list", "data": data}).encode()


def _no_such_format(known: Iterable[str]) -> str:
    return f"ElevenLabs has no such `response_format`: ask for {' or '.join(known)}."


def _optional(body: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field that may be left out or be null."""
    value = body.get(name)
    return default if value is None else value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise CannotBeHad(f"`{name}` has to be a string that is not empty.")
    return value


def _wav_header() -> bytes:
    """Of a WAV file whose length nobody knows yet: the largest, as for every streamed one."""
    unknown = b"\xff\xff\xff\xff"
    bytes_a_second = (_PCM_RATE_HZ * 2).to_bytes(4, "little")
    layout = b"\1\0\1\0" + _PCM_RATE_HZ.to_bytes(4, "little") + bytes_a_second + b"\2\0\x10\0"
    return b"RIFF" + unknown + b"WAVEfmt \x10\0\0\0" + layout + b"data" + unknown


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise BrokenAnswer("an answer that is not JSON") from None


def _verbose(transcript: dict[str, Any], text: str) -> dict[str, Any]:
    """OpenAI's verbose_json. ElevenLabs has no segments, and its words include the blanks."""
    items = transcript.get("words")
    words = [
        {"word": item["text"], "start": item["start"], "end": item["end"]}
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
        and item.get("type") == "word"
        and isinstance(item.get("text"), str)
        and _is_number(item.get("start"))
        and _is_number(item.get("end"))
    ]
    duration = transcript.get("audio_duration_secs")
    if not _is_number(duration):
        duration = words[-1]["end"] if words else 0.0
    language = transcript.get("language_code")
    return {
        "task": "transcribe",
        "language": language if isinstance(language, str) else "",
        "duration": duration,
        "text": text,
        "words": words,
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
