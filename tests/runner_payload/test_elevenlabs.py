"""OpenAI's audio requests as ElevenLabs documents its own; what the SDK sends is what goes in."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given

from runner_payload.elevenlabs import (
    MAX_FIELD_BYTES,
    BrokenAnswer,
    CannotBeHad,
    TranscriptionRewriter,
    models_answer,
    speech_request,
    transcription_answer,
)
from runner_payload.multipart import (
    InvalidMultipart,
    MultipartDecoder,
    PartBegun,
    PartData,
    boundary_of,
    encode_end,
    encode_field,
    encode_file_head,
)
from tests.runner_payload.splits import PLACES, cut, one_by_one

VOICE = "JBFqnCBsd6RMkjVDRZzb"
SPEECH = {"model": "eleven_flash_v2_5", "input": "Hi ö", "voice": VOICE}
AUDIO = bytes(range(256)) * 20 + b"\r\n--abc\r\n"
OURS = b"abc"
CONTENT_TYPE = "multipart/form-data; boundary=abc"

Answers = Callable[[httpx2.Request], httpx2.Response]
Client = Callable[[Answers], openai.OpenAI]


@pytest.fixture
def client() -> Iterator[Client]:
    """OpenAI's own client; what it asks is answered by a function."""
    made: list[openai.OpenAI] = []

    def make(answers: Answers) -> openai.OpenAI:
        http_client = httpx2.Client(transport=httpx2.MockTransport(answers))
        made.append(openai.OpenAI(api_key="k", base_url="http://up", http_client=http_client))
        return made[-1]

    yield make
    for each in made:
        each.close()


# Speech.


def test_speech_is_asked_for_as_elevenlabs_documents_it() -> None:
    asked = speech_request(SPEECH)
    assert asked.path == f"text-to-speech/{VOICE}/stream"
    assert asked.query == {"output_format": "mp3_44100_128"}
    assert json.loads(asked.body) == {"text": "Hi ö", "model_id": "eleven_flash_v2_5"}
    assert (asked.content_type, asked.before_audio) == ("audio/mpeg", b"")


@pytest.mark.parametrize(
    ("wanted", "output_format", "content_type"),
    [
        (None, "mp3_44100_128", "audio/mpeg"),
        ("mp3", "mp3_44100_128", "audio/mpeg"),
        ("opus", "opus_48000_128", "audio/opus"),
        ("pcm", "pcm_24000", "audio/pcm"),
        ("wav", "pcm_24000", "audio/wav"),
    ],
)
def test_each_format_is_asked_for_by_elevenlabs_name(
    wanted: str | None, output_format: str, content_type: str
) -> None:
    asked = speech_request({**SPEECH, "response_format": wanted})
    assert asked.query == {"output_format": output_format}
    assert asked.content_type == content_type


def test_pcm_behind_the_header_is_a_wav_file_as_openai_documents_it() -> None:
    asked = speech_request({**SPEECH, "response_format": "wav"})
    with wave.open(io.BytesIO(asked.before_audio + b"\1\2" * 240)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(240) == b"\1\2" * 240
    assert int.from_bytes(asked.before_audio[28:32], "little") == 48_000  # bytes a second


def test_what_the_sdk_sends_is_what_is_read(client: Client) -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(speech_request(json.loads(request.content)))
        return httpx2.Response(200, content=b"audio")

    speech = client(answer).audio.speech.create(
        model="eleven_v3",
        input="Hi",
        voice={"id": VOICE},
        response_format="pcm",
        speed=1.1,
        instructions="Be kind.",
        stream_format="audio",
        extra_body={"voice_settings": {"stability": 0.5}, "language_code": "de", "seed": 1},
    )
    assert speech.read() == b"audio"
    assert json.loads(asked[0].body) == {
        "text": "Hi",
        "model_id": "eleven_v3",
        "voice_settings": {"stability": 0.5, "speed": 1.1},
        "language_code": "de",
        "seed": 1,
    }
    assert asked[0].path == f"text-to-speech/{VOICE}/stream"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"voice": None}, "voice"),
        ({"voice": ""}, "voice"),
        ({"voice": {}}, "voice"),
        ({"voice": ".."}, "voice"),
        ({"voice": "a/b"}, "voice"),
        ({"voice": "a?b"}, "voice"),
        ({"voice": "a%2fb"}, "voice"),
        ({"voice": "a\n"}, "voice"),
        ({"voice": "ö"}, "voice"),
        ({"voice": "a" * 200}, "voice"),
        ({"input": ""}, "input"),
        ({"input": ["a"]}, "input"),
        ({"model": None}, "model"),
        ({"response_format": "aac"}, "mp3 or opus or pcm or wav"),
        ({"response_format": "flac"}, "mp3 or opus or pcm or wav"),
        ({"response_format": ["mp3"]}, "response_format"),
        ({"stream_format": "sse"}, "stream_format"),
        ({"speed": "fast"}, "speed"),
        ({"speed": True}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"speed": 5}, "speed"),
        ({"voice_settings": 1}, "voice_settings"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotBeHad, match=named) as refused:
        speech_request({**SPEECH, **changed})
    assert str(refused.value).endswith(".")


# Transcription: the form.


class TranscriptionForm:
    """What would go to ElevenLabs, read."""

    def __init__(self, rewriter: TranscriptionRewriter, body: bytes) -> None:
        self.rewriter = rewriter
        self.fields: list[tuple[str, bytes]] = []
        self.file: tuple[str | None, str | None] | None = None
        decoder = MultipartDecoder(boundary_of(rewriter.content_type))
        for event in decoder.feed(body):
            if isinstance(event, PartBegun):
                if event.name == "file":
                    self.file = event.filename, event.content_type
                self.fields.append((event.name, b""))
            elif isinstance(event, PartData):
                name, value = self.fields[-1]
                self.fields[-1] = name, value + event.data
        decoder.finish()

    @property
    def asked(self) -> tuple[str, bool]:
        return self.rewriter.response_format, self.rewriter.stream


def rewritten(portions: list[bytes], content_type: str = CONTENT_TYPE) -> TranscriptionForm:
    rewriter = TranscriptionRewriter(content_type)
    body = b"".join([rewriter.feed(portion) for portion in portions])
    return TranscriptionForm(rewriter, body + rewriter.finish())


def form(*fields: tuple[str, str], first: bool = False) -> bytes:
    """OpenAI's form; with the file first, or last."""
    file = encode_file_head(OURS, "file", 'a"ö.wav', "audio/wav") + b"audio\r\n--x\r\n"
    parts = [encode_field(OURS, name, value) for name, value in fields]
    parts.insert(0 if first else len(parts), file)
    return b"".join(parts) + encode_end(OURS, after_file=False)


FIELDS = (
    ("model", "scribe_v2"),
    ("prompt", "p" * 10_000),
    ("language", "de"),
    ("response_format", "text"),
    ("temperature", "0.5"),
    ("timestamp_granularities[]", "word"),
    ("include[]", "logprobs"),
    ("keyterms[]", "a"),
    ("keyterms[]", "b"),
    ("stream", "true"),
    ("webhook", "true"),
    ("cloud_storage_url", "http://localhost/"),
)
SENT = [
    ("model_id", b"scribe_v2"),
    ("language_code", b"de"),
    ("temperature", b"0.5"),
    ("keyterms", b"a"),
    ("keyterms", b"b"),
]
NO_EVENTS = ("tag_audio_events", b"false")
FILE = ("file", b"audio\r\n--x")


@pytest.mark.parametrize("first", [True, False])
def test_a_form_is_rewritten_whole_and_byte_by_byte(first: bool) -> None:
    expected = [FILE, *SENT] if first else [*SENT, FILE]
    data = form(*FIELDS, first=first)
    for portions in ([data], one_by_one(data), [data + b"more"]):
        got = rewritten(portions)
        assert got.fields == [*expected, NO_EVENTS]
        assert got.file == ('a"ö.wav', "audio/wav")
        assert got.asked == ("text", True)


@given(PLACES)
def test_a_form_is_rewritten_alike_in_any_split(places: list[int]) -> None:
    got = rewritten(cut(form(*FIELDS), places))
    assert got.fields == [*SENT, FILE, NO_EVENTS]


def test_what_the_sdk_uploads_is_rewritten_and_what_comes_back_is_what_it_reads(
    client: Client,
) -> None:
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(rewritten(one_by_one(request.read()), request.headers["Content-Type"]))
        content_type, body = transcription_answer(TRANSCRIPT, *sent[0].asked[:1])
        return httpx2.Response(200, headers={"Content-Type": content_type}, content=body)

    said = client(answer).audio.transcriptions.create(
        model="scribe_v2",
        file=("a.mp3", AUDIO, "audio/mpeg"),
        language="en",
        prompt="p",
        response_format="verbose_json",
        timestamp_granularities=["word"],
        extra_body={"tag_audio_events": True},
    )
    assert sorted(sent[0].fields) == [
        ("file", AUDIO),
        ("language_code", b"en"),
        ("model_id", b"scribe_v2"),
        ("tag_audio_events", b"true"),
    ]
    assert sent[0].file == ("a.mp3", "audio/mpeg")
    assert (said.text, said.language, said.duration) == ("Hi you.", "eng", 1.5)
    assert said.words is not None
    assert [(word.word, word.start, word.end) for word in said.words] == [
        ("Hi", 0.1, 0.5),
        ("you.", 0.6, 1.5),
    ]


def test_the_files_bytes_go_on_as_they_come() -> None:
    rewriter = TranscriptionRewriter(CONTENT_TYPE)
    head = rewriter.feed(encode_file_head(OURS, "file", "a.wav", "audio/wav"))
    assert head.endswith(b"\r\n\r\n")
    for piece in (b"x" * 65536, b"y" * 65536):
        assert rewriter.feed(piece) == piece


def test_a_file_without_a_name_and_a_type_gets_both() -> None:
    data = b'--abc\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n'
    data += encode_field(OURS, "model", "m") + encode_end(OURS, after_file=False)
    assert rewritten([data]).file == ("audio", "application/octet-stream")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (form(), "no part `model`"),
        (encode_field(OURS, "model", "m") + encode_end(OURS, after_file=False), "no part `file`"),
        (form(("model", "m"), ("model", "n")), "more than one part `model`"),
        (form(("model", "m"), ("file", "x")), "more than one part `file`"),
        (form(("response_format", "srt")), "json or text or verbose_json"),
        (form(("language", "x" * (MAX_FIELD_BYTES + 1))), "`language` has more than"),
        (form(("model", "€")).replace("€".encode(), b"\xe2\x82"), "not UTF-8"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused_in_a_sentence(data: bytes, words: str) -> None:
    for portions in ([data], one_by_one(data)):
        with pytest.raises(CannotBeHad, match=words):
            rewritten(portions)


def test_what_is_no_form_is_refused_by_the_decoder() -> None:
    with pytest.raises(InvalidMultipart):
        TranscriptionRewriter("application/json")
    with pytest.raises(InvalidMultipart):
        rewritten([form(("model", "m"))[:-5]])


# The answers.

TRANSCRIPT = json.dumps(
    {
        "language_code": "eng",
        "language_probability": 0.98,
        "text": "Hi you.",
        "words": [
            {"text": "Hi", "type": "word", "start": 0.1, "end": 0.5, "speaker_id": "s"},
            {"text": " ", "type": "spacing", "start": 0.5, "end": 0.6},
            {"text": "you.", "type": "word", "start": 0.6, "end": 1.5},
            {"text": "late", "type": "word", "start": None, "end": None},
            {"text": "(laughter)", "type": "audio_event", "start": 1.5, "end": 2.0},
        ],
    }
).encode()


def test_a_transcript_is_answered_as_json_text_or_events() -> None:
    assert transcription_answer(TRANSCRIPT) == ("application/json", b'{"text": "Hi you."}')
    assert transcription_answer(TRANSCRIPT, "text") == ("text/plain; charset=utf-8", b"Hi you.\n")
    content_type, body = transcription_answer(TRANSCRIPT, stream=True)
    assert content_type == "text/event-stream"
    assert [json.loads(line[6:]) for line in body.decode().split("\n\n")[:-1]] == [
        {"type": "transcript.text.delta", "delta": "Hi you."},
        {"type": "transcript.text.done", "text": "Hi you."},
    ]


def test_a_streamed_transcript_is_what_the_sdk_reads(client: Client) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        got = rewritten([request.read()], request.headers["Content-Type"])
        content_type, body = transcription_answer(TRANSCRIPT, got.asked[0], stream=got.asked[1])
        return httpx2.Response(200, headers={"Content-Type": content_type}, content=body)

    events = client(answer).audio.transcriptions.create(
        model="scribe_v2", file=("a.mp3", AUDIO), stream=True
    )
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]


def test_how_long_the_audio_is_comes_from_the_answer_if_it_says_so() -> None:
    said = {"text": "", "audio_duration_secs": 7.5, "words": None}
    _, body = transcription_answer(json.dumps(said).encode(), "verbose_json")
    assert json.loads(body) == {
        "task": "transcribe",
        "language": "",
        "duration": 7.5,
        "text": "",
        "words": [],
    }


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"\xff", b'{"text": 1}', b"[" * 100_000, b"null"]
)
def test_what_is_no_transcript_is_a_broken_answer(answer: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        transcription_answer(answer)


def test_models_are_listed_as_openai_lists_them(client: Client) -> None:
    theirs = b'[{"model_id": "eleven_v3", "name": "v3"}, {"name": "none"}, 1]'
    listed = client(lambda _: httpx2.Response(200, json=json.loads(models_answer(theirs))))
    models = list(listed.models.list())
    assert [model.id for model in models] == ["eleven_v3", "scribe_v1", "scribe_v2"]
    assert {(model.object, model.owned_by) for model in models} == {("model", "elevenlabs")}
    for broken in (b"{}", b"x"):
        with pytest.raises(BrokenAnswer):
            models_answer(broken)
