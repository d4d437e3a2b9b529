"""The forms of an answer: what goes out as it begins, comes, ends and breaks."""

from __future__ import annotations

import json

import pytest

from llmrelay.api import answers
from llmrelay.api.answers import HEARTBEAT, Events, Form, Json, Raw, Text
from llmrelay.errors import UpstreamAnswer, UpstreamBroken, UpstreamErrorEvent
from runner_payload.messages import End, Response
from tests.runner_payload.splits import one_by_one

END = End("stop", 0, 3, 5)
ERROR = UpstreamBroken("It broke off.")


def whole(form: Form, pieces: list[bytes], end: End = END) -> bytes:
    return b"".join([*map(form.piece, pieces), form.end(end)])


def headers(form: Form) -> dict[str, str]:
    return {name.lower(): value for name, value in form.head()[1]}


def events_in(stream: bytes) -> list[str]:
    assert stream.endswith(b"\n\n")
    return [event.removeprefix("data: ") for event in stream.decode().split("\n\n")[:-1]]


# --- Plain text ---------------------------------------------------------------------------------


def test_text_is_the_deltas_and_its_trailer_says_how_it_ended() -> None:
    form = Text()
    assert form.head()[0] == 200
    said = headers(form)
    assert said["content-type"] == "text/plain; charset=utf-8"
    assert said["trailer"] == answers.FINISH_REASON
    assert whole(form, [b"Hel", b"lo\xc3", b"\xa9"]) == b"Hel" + b"lo\xc3\xa9"
    assert form.trailers(END) == ((answers.FINISH_REASON, "stop"),)
    assert form.trailers(End()) == ((answers.FINISH_REASON, "unknown"),)


def test_text_that_breaks_says_nothing_and_has_no_heartbeat() -> None:
    form = Text()
    assert form.broken(ERROR) == b""
    assert not form.heartbeat


# --- Events -------------------------------------------------------------------------------------


def test_events_are_the_deltas_the_end_and_done() -> None:
    *deltas, told, done = events_in(whole(Events("m"), [b"Hel", b"lo"]))
    assert [json.loads(delta) for delta in deltas] == [{"delta": "Hel"}, {"delta": "lo"}]
    assert json.loads(told) == {
        "model": "m",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }
    assert done == "[DONE]"


def test_events_have_whole_characters_however_the_pieces_are_cut() -> None:
    text = "é🎉\n\ndata: no"
    *deltas, _, _ = events_in(whole(Events("m"), one_by_one(text.encode())))
    assert "".join(json.loads(delta)["delta"] for delta in deltas) == text


def test_events_that_break_tell_of_the_error_and_are_not_done() -> None:
    form = Events("m")
    name, _, data = form.broken(ERROR).decode().partition("\n")
    assert name == "event: error"
    said = json.loads(data.removeprefix("data: "))["error"]
    assert (said["message"], said["code"]) == ("It broke off.", "upstream_broken")
    assert b"[DONE]" not in form.broken(ERROR)
    assert form.heartbeat == form.head()[1]


# --- One object ---------------------------------------------------------------------------------


def test_an_object_has_all_of_the_text_at_the_end() -> None:
    form = Json("m")
    assert headers(form)["content-type"] == "application/json"
    assert form.piece(b"Hel") == b""
    assert form.piece(b"lo") == b""
    assert json.loads(form.end(End("length"))) == {
        "text": "Hello",
        "model": "m",
        "finish_reason": "length",
    }
    assert form.trailers(END) == ()
    assert form.broken(ERROR) == b""
    assert not form.heartbeat


def test_an_object_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_MAX_COLLECTED_BYTES", 10)
    form = Json("m")
    form.piece(b"x" * 10)
    with pytest.raises(UpstreamBroken, match="too long"):
        form.piece(b"x")


# --- Upstream's own bytes -----------------------------------------------------------------------

EVENTS = Response(200, (("content-type", "text/event-stream"), ("x-upstream-request-id", "r")))
OBJECT = Response(201, (("content-type", "application/json"),))


def raw(response: Response, *, events: bool = False, anthropic: bool = False) -> Raw:
    form = Raw(events=events, anthropic=anthropic)
    form.response(response, opened=False)
    return form


def test_raw_has_upstreams_status_headers_and_bytes() -> None:
    form = raw(OBJECT)
    status, _ = form.head()
    assert status == 201
    assert headers(form) == {"content-type": "application/json", "cache-control": "no-store"}
    assert whole(form, [b'{"a"', b":1}"]) == b'{"a":1}'
    assert form.trailers(END) == ()


def test_a_raw_stream_is_not_to_be_collected_on_its_way() -> None:
    assert headers(raw(EVENTS)) == {
        "content-type": "text/event-stream",
        "x-upstream-request-id": "r",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
    }


def test_a_raw_stream_that_breaks_tells_of_it_in_an_event() -> None:
    data = raw(EVENTS).broken(ERROR)
    assert data.startswith(b"event: error\ndata: {")
    assert json.loads(data.partition(b"data: ")[2])["error"]["code"] == "upstream_broken"


def test_other_raw_answers_that_break_are_cut_without_a_word() -> None:
    assert raw(OBJECT).broken(ERROR) == b""
    # One that was asked for as a stream and came as an object, too; no comment may go before it.
    assert raw(OBJECT, events=True).broken(ERROR) == b""
    assert not raw(OBJECT, events=True).heartbeat
    assert raw(EVENTS, events=True).heartbeat


def test_only_where_a_stream_was_asked_for_there_is_a_heartbeat() -> None:
    assert not Raw().heartbeat
    form = Raw(events=True)
    assert dict(form.heartbeat)["Content-Type"].startswith("text/event-stream")
    # And an error before upstream's head comes in-band then.
    assert form.broken(ERROR)
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")


def test_after_a_heartbeat_only_events_can_follow() -> None:
    form = Raw(events=True)
    form.response(EVENTS, opened=True)
    with pytest.raises(UpstreamBroken, match="no events"):
        form.response(OBJECT, opened=True)
    assert form.broken(ERROR), "which is told in the stream that there is"


def test_an_error_of_upstreams_own_is_told_in_its_own_words() -> None:
    error = UpstreamErrorEvent("The upstream answered 429.")
    error.upstream = UpstreamAnswer(429, (), b'{"error": {"message": "slow", "x": 1}}')
    data = Raw(events=True).broken(error)
    assert json.loads(data.partition(b"data: ")[2]) == {"error": {"message": "slow", "x": 1}}


def test_errors_of_anthropics_api_have_its_form() -> None:
    said = json.loads(raw(EVENTS, anthropic=True).broken(ERROR).partition(b"data: ")[2])
    assert said["type"] == "error"
    assert said["error"]["message"] == "It broke off."
