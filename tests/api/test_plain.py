"""What /transcribe, /speak and /embed take, and what of it goes up."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from llmrelay.api import plain
from llmrelay.config import Config
from llmrelay.errors import BadRequest, ContentTooLarge, LengthRequired, UnsupportedMediaType
from llmrelay.http.events import Request
from runner_payload.messages import Request as UpstreamRequest
from tests.api.requests import a_request
from tests.helpers.multipart import Part, parse_form

CONFIG = Config(
    speech_model="speaks", voice="nova", embedding_model="embeds", transcription_model="hears"
)


def request(
    path: str = "/speak", query: str = "", *headers: tuple[str, str], **said: Any
) -> Request:
    return a_request(path, *headers, query=query, **said)


# --- Speech -------------------------------------------------------------------------------------


def spoken(query: str = "", accept: str | None = None) -> dict[str, object]:
    headers = [("accept", accept)] if accept is not None else []
    speech = plain.Speech(request("/speak", query, *headers), CONFIG)
    said: dict[str, object] = json.loads(speech.body("Grüß Gott.".encode()))
    assert speech.model == said["model"]
    return said


def test_text_is_spoken_as_configured_or_as_the_query_says() -> None:
    assert spoken() == {
        "model": "speaks",
        "input": "Grüß Gott.",
        "response_format": "mp3",
        "voice": "nova",
    }
    assert spoken("model=m&voice=echo&format=wav&speed=1.5&instructions=Be+calm.") == {
        "model": "m",
        "input": "Grüß Gott.",
        "response_format": "wav",
        "voice": "echo",
        "speed": 1.5,
        "instructions": "Be calm.",
    }
    asked = plain.Speech(request("/speak", "model=m&group=gpu"), CONFIG)
    assert asked.group == "gpu"
    going_up = asked.request("req_1")
    assert (going_up.path, going_up.model, going_up.asked_model) == ("audio/speech", "m", "m")
    assert dict(going_up.headers)["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "mp3"),
        ("*/*", "mp3"),
        ("audio/*", "mp3"),
        ("text/html", "mp3"),
        ("audio/ogg", "opus"),
        ("audio/opus", "opus"),
        ("Audio/WAV", "wav"),
        ("audio/x-wav", "wav"),
        ("audio/flac, audio/aac;q=0.9", "flac"),
        ("audio/flac;q=0.1, audio/pcm;q=0.9, */*;q=0.05", "pcm"),
        ("audio/mpeg;q=0, audio/*", "opus"),
    ],
)
def test_accept_says_which_format_speech_has(accept: str | None, chosen: str) -> None:
    assert spoken(accept=accept)["response_format"] == chosen
    # And what a person writes into the URL counts for more.
    assert spoken("format=aac", accept)["response_format"] == "aac"


# --- Embeddings ---------------------------------------------------------------------------------


def test_text_is_embedded_as_configured_or_as_the_query_says() -> None:
    asked = plain.Embedding(request("/embed"), CONFIG)
    assert json.loads(asked.body(b"hi")) == {"model": "embeds", "input": "hi"}
    asked = plain.Embedding(request("/embed", "model=m&dimensions=256"), CONFIG)
    assert json.loads(asked.body(b"hi")) == {"model": "m", "input": "hi", "dimensions": 256}
    assert asked.request("req_1").path == "embeddings"


# --- Transcription ------------------------------------------------------------------------------

FORM = ("content-type", "multipart/form-data; boundary=b")


class Heard:
    """A request of /transcribe, and what goes up of it."""

    def __init__(
        self, body: bytes, query: str = "", *headers: tuple[str, str], whole: bool = True
    ) -> None:
        sent = request("/transcribe", query, *headers, framing=len(body))
        self.asked = plain.Transcription(sent, CONFIG)
        self.asked.begin(body, whole=whole)
        self.body = self.asked.before + body + self.asked.behind
        self.upload: UpstreamRequest = self.asked.upload("req_1", whole=whole)
        self.content_type = dict(self.upload.headers)["content-type"]
        # What the model's name is replaced by goes exactly there.
        at = self.upload.model_at
        assert at is not None
        self.model = self.body[at : at + len(self.upload.asked_model.encode())].decode()

    @property
    def parts(self) -> dict[str, Part]:
        parts = parse_form(self.content_type, self.body)
        assert len({part.name for part in parts}) == len(parts), "a field is there twice"
        return {part.name: part for part in parts}

    @property
    def fields(self) -> dict[str, str]:
        return {name: part.text for name, part in self.parts.items() if name != "file"}


def form(**fields: str) -> bytes:
    parts = [f'name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    parts.append('name="file"; filename="talk.ogg"\r\nContent-Type: audio/ogg\r\n\r\nOggS…')
    body = "".join(f"--b\r\nContent-Disposition: form-data; {part}\r\n" for part in parts)
    return (body + "--b--\r\n").encode()


@pytest.mark.parametrize(
    ("recording", "name"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", "recording.wav"),
        (b"fLaC\0\0", "recording.flac"),
        (b"OggS\0", "recording.ogg"),
        (b"ID3\x04", "recording.mp3"),
        (b"\xff\xfb\x90", "recording.mp3"),
        (b"\x1aE\xdf\xa3", "recording.webm"),
        (b"\0\0\0\x20ftypM4A ", "recording.m4a"),
        (b"\r\n--", "recording.mp3"),
    ],
)
def test_a_recording_becomes_a_form_with_a_name_that_tells_its_kind(
    recording: bytes, name: str
) -> None:
    heard = Heard(recording, "", ("content-type", "application/x-www-form-urlencoded"))
    assert heard.parts["file"].data == recording
    assert heard.parts["file"].filename == name
    assert heard.fields == {"model": "hears", "stream": "true"}
    assert heard.model == "hears"
    assert heard.upload.length == len(heard.body)
    assert (heard.upload.path, heard.upload.transcript) == ("audio/transcriptions", True)


def test_the_query_is_the_forms_fields() -> None:
    query = "model=gr%C3%B6%C3%9Fe&language=de&prompt=Gr%C3%BC%C3%9Fe%0D%0A--&temperature=0.5"
    for heard in (Heard(b"ID3", query), Heard(form(), query, FORM)):
        assert heard.fields == {
            "model": "größe",
            "stream": "true",
            "language": "de",
            "prompt": "Grüße\r\n--",
            "temperature": "0.5",
        }
        assert heard.model == "größe"


def test_a_form_of_the_clients_own_gets_what_it_lacks_before_its_first_part() -> None:
    sent = form(language="de")
    heard = Heard(sent, "", FORM)
    assert heard.body.endswith(sent)
    assert heard.content_type == FORM[1]
    assert heard.fields == {"model": "hears", "stream": "true", "language": "de"}
    assert heard.parts["file"].filename == "talk.ogg"
    heard = Heard(form(model="n", stream="true"), "", FORM)
    assert heard.fields == {"model": "n", "stream": "true"}
    assert (heard.asked.model, heard.model) == ("n", "n")


@pytest.mark.parametrize("query", ["model=whisper-1", "model=openai/whisper-large-v3"])
def test_whisper_is_not_asked_to_stream(query: str) -> None:
    assert "stream" not in Heard(b"ID3", query).fields
    assert "stream" not in Heard(form(model=query[6:]), "", FORM).fields


def test_of_a_long_upload_the_beginning_is_enough() -> None:
    sent = form(model="n")
    heard = Heard(sent[:-20], "", FORM, whole=False)
    assert (heard.model, heard.upload.streamed) == ("n", True)
    # A model that stands behind what was held cannot be found: the configured one is asked.
    late = Heard(sent[:54], "", FORM, whole=False)
    assert late.asked.model == "hears"
    sent_unsaid = request("/transcribe", framing="chunked")
    unsaid = plain.Transcription(sent_unsaid, CONFIG)
    unsaid.begin(b"ID3", whole=False)
    assert unsaid.upload("req_1", whole=False).length is None


@pytest.mark.parametrize(
    ("body", "query", "said"),
    [
        (b"", "", "no form|empty"),
        (b"before\r\n" + form(), "", "does not begin with its boundary"),
        (b"\r\n" + form(), "", "does not begin with its boundary"),
        (form().replace(b"--b", b"--c"), "", "boundary"),
        (form()[:-8], "", "form"),
        (form().replace(b"\r\n", b"\n"), "", "CRLF|form"),
        (form(model=""), "", "1 to 256"),
        (form(model="a").replace(b"--b--", form(model="b").rstrip()), "", "two models"),
        (form(model="a"), "model=a", "model is there twice"),
        (form(model="aXb").replace(b"X", b"\xff"), "", "model is not UTF-8"),
        # Else there could be more fields in it than anybody here has seen.
        (form(), "prompt=%0D%0A--b--", "prompt has the form's boundary in it"),
    ],
)
def test_a_form_that_is_none_hears_why(body: bytes, query: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        Heard(body, query, FORM)


# --- All of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [plain.Speech, plain.Embedding])
def test_text_has_to_be_some_in_utf_8(kind: type[plain.Speech]) -> None:
    asked = kind(request(), CONFIG)
    with pytest.raises(BadRequest, match="empty; it has to be the text"):
        asked.body(b"")
    with pytest.raises(BadRequest, match="The text is not UTF-8: byte 0xff at 1"):
        asked.body(b"a\xff")
    # More than it expects makes a runner give up, with all calls that it has.
    config = Config(max_body_bytes=64 * 1024)
    with pytest.raises(ContentTooLarge, match="over 262144 bytes"):
        kind(request(), config).body(bytes(64 * 1024))
    assert len(kind(request(), config).body("ü".encode() * 32 * 1024)) < 66 * 1024
    # Nobody wants to hear a boundary.
    with pytest.raises(UnsupportedMediaType, match="/speak takes text as it is, and no form"):
        kind(request("/speak", "", FORM), CONFIG).body(form())


@pytest.mark.parametrize(
    ("kind", "path", "example"),
    [
        (plain.Speech, "/speak", "curl -d "),
        (plain.Embedding, "/embed", "curl -d "),
        (plain.Transcription, "/transcribe", "curl -T talk.mp3"),
    ],
)
def test_a_request_without_a_body_is_told_how_to_send_one(
    kind: type[plain.Speech], path: str, example: str
) -> None:
    with pytest.raises(LengthRequired, match=f"{path} needs one: {re.escape(example)}"):
        kind(request(path, framing=None), CONFIG)
    with pytest.raises(UnsupportedMediaType):
        kind(request(path, "", ("content-encoding", "gzip")), CONFIG)


@pytest.mark.parametrize(
    ("kind", "query", "said"),
    [
        (plain.Speech, "format=mp4", "one of mp3, opus"),
        (plain.Speech, "voice=", "1 to 256"),
        (plain.Speech, "voice=a%20b", "no blank"),
        (plain.Speech, "speed=5", "from 0.25 to 4"),
        (plain.Speech, "voise=x", "did you mean voice"),
        (plain.Speech, "language=de", "no parameter 'language'"),
        (plain.Embedding, "dimensions=0", "from 1"),
        (plain.Embedding, "voice=x", "known are model, group, dimensions"),
        (plain.Transcription, "temperature=2", "from 0 to 1"),
        (plain.Transcription, "language=de&language=de", "twice"),
        (plain.Transcription, "model=" + "x" * 257, "1 to 256"),
    ],
)
def test_a_wrong_parameter_hears_what_is_wrong(
    kind: type[plain.Speech], query: str, said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        kind(request("/x", query), CONFIG)
