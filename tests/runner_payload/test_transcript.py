"""What upstreams say of a recording, and the text that comes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from runner_payload import transcript
from runner_payload.failures import UpstreamFailure
from runner_payload.transcript import TranscriptDecoder
from tests.runner_payload.splits import PLACES, cut, one_by_one


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def delta(text: str) -> bytes:
    return event("transcript.text.delta", delta=text)


DONE = event("transcript.text.done", text="Grüß Gott.", usage={"input_tokens": 1})
STREAM = delta("Grüß") + delta(" Gott.") + DONE


def text_of(portions: list[bytes], *, events: bool) -> str:
    decoder = TranscriptDecoder(events=events)
    return b"".join([*map(decoder.feed, portions), decoder.finish()]).decode()


def vllms(*texts: str | None) -> bytes:
    """As vLLM streams a transcription: the events of its chat, under another name."""
    choices = [[{"delta": {"content": text}, "finish_reason": None}] for text in texts]
    chunks = [{"object": "transcription.chunk", "choices": each} for each in [*choices, []]]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks)


@given(places=PLACES)
def test_deltas_are_the_text_in_any_split(places: list[int]) -> None:
    assert text_of(cut(STREAM, places), events=True) == "Grüß Gott."


def test_each_delta_comes_as_soon_as_it_is_whole() -> None:
    decoder = TranscriptDecoder(events=True)
    assert decoder.feed(delta("Grüß") + b"data: ") == "Grüß".encode()


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (DONE, "Grüß Gott."),  # no deltas: all of it at the end
        (STREAM + b"data: [DONE]\n\n", "Grüß Gott."),
        (delta("a") + b"data: [DONE]\n\n", "a"),
        (STREAM.removesuffix(b"\n"), "Grüß Gott."),
        (STREAM.replace(b"\n", b"\r\n"), "Grüß Gott."),
        (event("transcript.text.segment", text="x") + STREAM, "Grüß Gott."),
        (event("transcript.text.delta", delta=None) + STREAM, "Grüß Gott."),
        (event("transcript.text.delta") + STREAM, "Grüß Gott."),
        (vllms("", "Grüß", " Gott.", None) + b"data: [DONE]\n\n", "Grüß Gott."),
    ],
)
def test_a_transcript_ends_in_every_way_that_upstreams_have(stream: bytes, text: str) -> None:
    for portions in ([stream], one_by_one(stream)):
        assert text_of(portions, events=True) == text


@pytest.mark.parametrize("stream", [b"", delta("half of"), b": comment\n\n"])
def test_a_stream_that_ends_before_the_transcript_is_not_whole(stream: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        text_of([stream], events=True)
    assert caught.value.failure.code == "upstream_incomplete"


@pytest.mark.parametrize(
    "error",
    [
        event("error", message="no speech"),
        event("error", error={"message": "no speech"}),
        b'data: {"error": {"message": "no speech"}}\n\n',
        b'data: {"error": "no speech"}\n\n',
    ],
)
def test_an_error_in_the_stream_is_told_in_upstreams_words(error: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        text_of([delta("a"), error], events=True)
    assert caught.value.failure.code == "upstream_error_event"
    assert "no speech" in caught.value.failure.message


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b"1", b"[" * 100_000])
def test_an_event_that_is_none_is_upstreams_fault(data: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        text_of([b"data: " + data + b"\n\n"], events=True)
    assert caught.value.failure.code == "upstream_broken"


def test_an_event_without_an_end_is_given_up() -> None:
    decoder = TranscriptDecoder(events=True)
    decoder.feed(b"data: " + b"x" * 1000 * 1024)
    with pytest.raises(UpstreamFailure, match="no end"):
        decoder.feed(b"x" * 64 * 1024)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b'{"text": "Gr\xc3\xbc\xc3\x9f Gott.", "usage": {"type": "tokens"}}', "Grüß Gott."),
        (b'{"text": ""}', ""),
        (b'{"task": "transcribe", "duration": 1.5, "text": "a", "segments": []}', "a"),
        (b"Hello there.\n", "Hello there.\n"),  # response_format=text
        (b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", "1\n00:00:00,000 --> 00:00:01,000\nHi\n"),
        # What was spoken may look like JSON.
        (b"42\n", "42\n"),
        (b"true", "true"),
        (b'"quoted"', '"quoted"'),
        (b"[music]", "[music]"),
        (b"[1, 2]", "[1, 2]"),
        (b"", ""),
    ],
)
def test_a_whole_transcript_is_its_text_in_every_format(answer: bytes, text: str) -> None:
    for portions in ([answer], one_by_one(answer)):
        assert text_of(portions, events=False) == text


@pytest.mark.parametrize("answer", [b'{"error": "x"}', b'{"text": null}', b"{}"])
def test_an_object_that_is_no_transcript_is_upstreams_fault(answer: bytes) -> None:
    with pytest.raises(UpstreamFailure, match="no transcription"):
        text_of([answer], events=False)


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert text_of([b'{"text": "a\\ud83d"}'], events=False) == "a?"


def test_a_transcript_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_BYTES", 10)
    decoder = TranscriptDecoder(events=False)
    decoder.feed(b"x" * 10)
    with pytest.raises(UpstreamFailure, match="no end"):
        decoder.feed(b"x")
