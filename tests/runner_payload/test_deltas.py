"""What chat completion events mean for the answer's text and its end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload.deltas import (
    MAX_EVENT_BYTES,
    DeltaDecoder,
    ErrorEvent,
    NotAnEventStream,
)
from tests.helpers.upstream import Delta, Done, Finish, Usage, encode, sse
from tests.runner_payload.splits import PLACES, cut, one_by_one

HIGH, LOW = "\ud83d", "\ude00"  # the halves of U+1F600


def chunk(delta: Any = None, *, reason: Any = None, **more: object) -> bytes:
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})


def escaped(text: str) -> bytes:
    """A delta whose text is written in \\u escapes, as servers do that split surrogate pairs."""
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def text_of(*portions: bytes) -> str:
    decoder = DeltaDecoder()
    pieces = [decoder.feed(portion) for portion in portions]
    return b"".join([*pieces, decoder.finish()]).decode()


def test_a_deltas_text_comes_out_as_utf_8() -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(encode(Delta("Grüße, 世界 😀"))) == "Grüße, 世界 😀".encode()
    assert decoder.begun
    assert not decoder.done


def test_several_events_in_one_read_come_out_together() -> None:
    data = encode(Delta("a")) + encode(Delta("é")) + encode(Delta("c"))
    assert DeltaDecoder().feed(data) == "aéc".encode()


def test_half_an_event_gives_nothing_until_the_rest_has_come() -> None:
    decoder, data = DeltaDecoder(), encode(Delta("né"))
    at = data.index("é".encode()) + 1
    assert decoder.feed(data[:at]) == b""
    assert not decoder.begun
    assert decoder.feed(data[at:]) == "né".encode()


@pytest.mark.parametrize(
    "event",
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"role": "assistant", "content": None}),
        chunk({"role": "assistant"}),
        chunk({}),
        chunk(None),
        chunk({"content": None, "refusal": None, "tool_calls": [{"index": 0}]}),
        encode(Usage()),
        sse({"choices": None, "usage": {}}),
        sse({"id": "x"}),
        sse({"choices": [], "error": None}),
        sse({"choices": [{}]}),
        b": keep-alive\n\n",
    ],
)
def test_an_event_without_text_gives_nothing_and_begins_no_answer(event: bytes) -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(event) == b""
    assert not decoder.begun
    assert decoder.finish_reason is None
    assert decoder.feed(encode(Delta("x"))) == b"x"
    assert decoder.begun


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls"])
def test_the_finish_reason_is_kept_and_later_events_do_not_take_it_back(reason: str) -> None:
    decoder = DeltaDecoder()
    decoder.feed(encode(Finish(reason)) + encode(Usage()) + chunk({}) + encode(Done()))
    assert decoder.finish_reason == reason


def test_a_finish_reason_and_text_in_one_event_both_count() -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(chunk({"content": "end"}, reason="stop")) == b"end"
    assert decoder.finish_reason == "stop"


def test_an_empty_finish_reason_is_none() -> None:
    """Some servers say "" in every event; an answer that is cut after one is not whole."""
    decoder = DeltaDecoder()
    decoder.feed(chunk({"content": "x"}, reason=""))
    assert decoder.finish_reason is None


@pytest.mark.parametrize("reason", ["x" * 100_000, 5, ["stop"]])
def test_a_strange_finish_reason_is_bounded_text(reason: object) -> None:
    decoder = DeltaDecoder()
    decoder.feed(chunk({}, reason=reason))
    assert isinstance(decoder.finish_reason, str)
    assert len(decoder.finish_reason) <= 64


def test_a_refusal_is_the_answers_text() -> None:
    assert text_of(chunk({"content": None, "refusal": "I cannot."})) == "I cannot."


def test_done_ends_the_stream_and_nothing_after_it_counts() -> None:
    decoder = DeltaDecoder()
    data = encode(Delta("a")) + encode(Done()) + encode(Delta("b")) + encode(Finish("length"))
    assert decoder.feed(data) == b"a"
    assert decoder.done
    assert decoder.finish_reason is None
    assert decoder.feed(encode(Delta("c")) + b"data: not JSON\n\n") == b""
    assert decoder.finish() == b""


def test_done_needs_no_space_before_it() -> None:
    decoder = DeltaDecoder()
    decoder.feed(b"data:[DONE]\r\n\r\n")
    assert decoder.done


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "overloaded", "code": 503}, "overloaded"),
        ("overloaded", "overloaded"),
        ({"code": 1}, "an error without a message"),
        ({"message": None}, "an error without a message"),
        ({"message": ["x"]}, "an error without a message"),
        (["x"], "an error without a message"),
        (True, "an error without a message"),
    ],
)
def test_an_error_event_is_raised_with_its_message(error: object, message: str) -> None:
    for more in ({}, {"choices": [{"delta": {"content": "x"}}]}):
        with pytest.raises(ErrorEvent) as caught:
            DeltaDecoder().feed(sse({"error": error, **more}))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"data: hello\n\n",
        b"data:\n\n",
        b"data\n\n",
        b'data: {"a":1}{}\n\n',
        b'data: {"a":"\xff"}\n\n',
        b"data: \xff\xfe\n\n",
        b"data: [DONE\n\n",
        b"data: " + b"[" * 50_000 + b"\n\n",
        b"data: " + b'{"a":' * 50_000 + b"\n\n",
        sse([]),
        sse(None),
        sse(5),
        sse('"text"'),
        sse({"choices": 5}),
        sse({"choices": True}),
        sse({"choices": "text"}),
        sse({"choices": {"0": {}}}),
        sse({"choices": [5]}),
        sse({"choices": [None]}),
        sse({"choices": [[{}]]}),
        chunk("text"),
        chunk(5),
        chunk(["x"]),
        chunk({"content": 5}),
        chunk({"content": ["x"]}),
        chunk({"content": {"text": "x"}}),
        chunk({"refusal": 5}),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_an_event_that_the_api_does_not_document_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnEventStream):
        DeltaDecoder().feed(data)
    with pytest.raises(NotAnEventStream):
        text_of(*one_by_one(data[:200] + data[-200:]))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "refusal", "error", "finish_reason"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(JSON_VALUES, st.binary(max_size=30))
def test_any_event_is_text_or_one_of_two_errors(value: object, noise: bytes) -> None:
    events = [
        sse(value),
        sse({"choices": value}),
        chunk(value),
        chunk({"content": value}, reason=value),
        b"data: " + noise + b"\n\n",
    ]
    for event in events:
        decoder = DeltaDecoder()
        try:
            decoder.feed(event)
            decoder.finish().decode()
        except (NotAnEventStream, ErrorEvent):
            pass


def test_an_event_over_the_limit_is_refused_and_no_more_than_it_is_held() -> None:
    decoder = DeltaDecoder()
    for _ in range(MAX_EVENT_BYTES // 65536):
        assert decoder.feed(b"x" * 65536) == b""
    with pytest.raises(NotAnEventStream, match="bytes"):
        decoder.feed(b"x")


def test_a_surrogate_pair_that_is_split_over_two_deltas_becomes_its_character() -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(escaped("a" + HIGH)) == b"a"
    assert decoder.feed(escaped("")) == b""
    assert decoder.feed(chunk({})) == b""
    assert decoder.feed(escaped(LOW + "b")) == "😀b".encode()


def test_a_surrogate_pair_that_is_split_in_one_read_becomes_its_character() -> None:
    assert text_of(escaped("a" + HIGH) + escaped(LOW)) == "a😀"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([LOW], "\ufffd"),
        ([HIGH], "\ufffd"),
        ([HIGH, "x"], "\ufffdx"),
        ([HIGH, "é"], "\ufffdé"),
        ([HIGH, HIGH, LOW], "\ufffd😀"),
        ([LOW, HIGH], "\ufffd\ufffd"),
        (["a" + HIGH + "b"], "a\ufffdb"),
        (["世" + HIGH, "界"], "世\ufffd界"),
    ],
)
def test_a_lone_surrogate_becomes_a_replacement_character(texts: list[str], expected: str) -> None:
    portions = [escaped(text) for text in texts]
    assert text_of(*portions) == expected
    assert text_of(b"".join(portions)) == expected
    assert text_of(*portions, encode(Done())) == expected
    assert text_of(b"".join(portions) + encode(Done())) == expected


@given(st.lists(st.text(st.characters(), max_size=4), max_size=5), PLACES)
def test_any_text_comes_out_of_any_split_as_utf_16_would_join_it(
    texts: list[str], places: list[int]
) -> None:
    data = b"".join(escaped(text) for text in texts) + encode(Done())
    joined = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert text_of(data) == joined
    assert text_of(*cut(data, places)) == joined


def test_an_event_whose_blank_line_is_missing_at_the_streams_end_counts() -> None:
    assert text_of(encode(Delta("a")), encode(Delta("b"))[:-1]) == "ab"
    decoder = DeltaDecoder()
    decoder.feed(b"data: [DONE]\n")
    decoder.finish()
    assert decoder.done


def test_a_line_that_breaks_off_at_the_streams_end_is_no_error_of_its_own() -> None:
    """That the stream is not whole shows in the missing finish_reason."""
    decoder = DeltaDecoder()
    assert decoder.feed(encode(Delta("a")) + encode(Delta("b"))[:30]) == b"a"
    assert decoder.finish() == b""
    assert decoder.finish_reason is None
    assert not decoder.done
