"""Events that are alike but for their text: nobody can tell that they were not parsed."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload import deltas
from runner_payload.alike import Alike
from runner_payload.deltas import DeltaDecoder, ErrorEvent, NotAnEventStream
from tests.runner_payload.splits import PLACES, cut

COMMON = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(text: object, *, ascii_only: Any = False, end: Any = "\n\n", **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    choice |= more.pop("choice", {})
    said = json.dumps({**COMMON, "choices": [choice], **more}, ensure_ascii=ascii_only)
    return f"data: {said}{end}".encode("utf-8", "surrogatepass")


def outcome(decoder: DeltaDecoder, data: bytes) -> bytes | type[Exception]:
    try:
        return decoder.feed(data)
    except NotAnEventStream as error:
        return type(error)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was given to the parser."""
    found: list[bytes] = []
    parse = deltas._parse

    def count(data: bytes) -> Any:
        found.append(data)
        return parse(data)

    monkeypatch.setattr(deltas, "_parse", count)
    return found


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_of_events_that_differ_in_their_text_alone_the_first_is_parsed(
    parsed: list[bytes], end: str
) -> None:
    decoder = DeltaDecoder()
    first = decoder.feed(event("a", end=end))
    # The event itself, and it and its double to see that they differ in nothing else.
    count = len(parsed)
    said = [decoder.feed(event(text, end=end)) for text in ("b", " c d", "x" * 99, "0")]
    if end != "\r\r":  # a CR may be half of a line's end, so that one is never sure
        assert (first, said) == (b"a", [b"b", b" c d", b"x" * 99, b"0"])
        assert len(parsed) == count
        assert decoder.events == 1
    assert decoder.feed(b"data: [DONE]\n\n") == (b"0" if end == "\r\r" else b"")
    assert decoder.done


@pytest.mark.parametrize(
    "other",
    [
        event('say "b"'),
        event("back\\slash"),
        event("line\nend"),
        event("grün"),
        event("grün", ascii_only=True),
        event(""),
        event("b", created=2),
        event("b")[:-1],
        event("b").replace(b"data:", b"data :"),
        event("b") + event("c"),
        b": a comment\n\n",
    ],
)
def test_whatever_else_comes_is_read_as_if_there_was_nothing_alike(other: bytes) -> None:
    decoder, plain = DeltaDecoder(), DeltaDecoder()
    plain._alike.learn = lambda event: None  # type: ignore[method-assign]
    for data in (event("a"), event("b"), other, event("c"), event("d"), b"data: [DONE]\n\n"):
        assert outcome(decoder, data) == outcome(plain, data)
        assert decoder.done == plain.done


@pytest.mark.parametrize("times", [1, 9])
def test_what_an_event_says_besides_is_never_missed(times: int) -> None:
    decoder = DeltaDecoder()
    for _ in range(times):
        decoder.feed(event("a"))
    decoder.feed(event("z", choice={"finish_reason": "length"}))
    assert decoder.finish_reason == "length"
    decoder.feed(event("z", usage={"prompt_tokens": 7, "completion_tokens": 9}))
    assert (decoder.usage.input_tokens, decoder.usage.output_tokens) == (7, 9)
    with pytest.raises(ErrorEvent):
        decoder.feed(event("a", error={"message": "no"}))
    with pytest.raises(NotAnEventStream):
        decoder.feed(event(["a"]))


def test_an_event_that_says_more_than_text_is_no_model_for_others() -> None:
    decoder = DeltaDecoder()
    for number in range(9):
        usage = {"prompt_tokens": 1, "completion_tokens": number}
        assert decoder.feed(event("a", usage=usage)) == b"a"
        assert decoder.usage.output_tokens == number


@pytest.mark.parametrize("twin", [{"note": "a"}, {"content": "a"}])
def test_text_that_stands_twice_in_an_event_is_not_mistaken(twin: dict[str, str]) -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(event("a", **twin)) == b"a"
    assert decoder.feed(event("b", **dict.fromkeys(twin, "b"))) == b"b"
    assert decoder.feed(event("c", **twin)) == b"c"


def test_a_name_that_comes_twice_counts_the_last_time() -> None:
    def twice(first: str, last: str) -> bytes:
        text = f'"content": "{first}", "content": "{last}"'
        return event("T").replace(b'"content": "T"', text.encode())

    decoder = DeltaDecoder()
    assert decoder.feed(twice("x", "a")) == b"a"
    assert decoder.feed(twice("y", "b")) == b"b"
    assert decoder.feed(twice("x", "c")) == b"c"


def test_events_that_are_never_alike_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    learn = Alike.learn

    def count(self: Alike, data: bytes) -> bytes | None:
        found = learn(self, data)
        asked.append(found)
        return found

    monkeypatch.setattr(Alike, "learn", count)
    decoder = DeltaDecoder()
    for number in range(20):
        assert decoder.feed(event("a", obfuscation="x" * number)) == b"a"
    assert [found is not None for found in asked] == [True] + [False] * 19


@given(
    st.lists(
        st.tuples(
            st.text(max_size=8),
            st.booleans(),
            st.sampled_from(["\n\n", "\n\n", "\r\n\r\n"]),
            st.sampled_from([1, 1, 1, 2]),
        ),
        max_size=12,
    )
)
def test_whatever_the_texts_they_come_out_as_they_went_in(
    events: list[tuple[str, bool, str, int]],
) -> None:
    decoder = DeltaDecoder()
    said = b""
    for text, ascii_only, end, created in events:
        said += decoder.feed(event(text, ascii_only=ascii_only, end=end, created=created))
    said += decoder.finish()
    assert said.decode() == "".join(text for text, *_ in events)


# --- Several in one read ------------------------------------------------------------------------

TEXTS = ["b", " c", "", "grün 世界 😀", 'say "d"', "back\\slash", "line\nend", "\\", "\x7f", "e"]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_of_many_events_in_a_read_none_is_parsed(
    parsed: list[bytes], end: str, ascii_only: bool
) -> None:
    decoder = DeltaDecoder()
    decoder.feed(event("a", end=end))
    count = len(parsed)
    texts = [text for text in TEXTS if not text.endswith("\\")]
    for said in (texts, *([text] for text in texts if text), ["x"] * 500):
        data = b"".join(event(text, end=end, ascii_only=ascii_only) for text in said)
        assert decoder.feed(data) == "".join(said).encode()
    assert len(parsed) == count


def test_of_a_large_read_only_what_is_not_alike_is_parsed(parsed: list[bytes]) -> None:
    decoder = DeltaDecoder()
    role = event("", choice={"delta": {"role": "assistant", "content": ""}})
    end = event("", choice={"delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n"
    texts = [f"{number} " for number in range(2_000)]
    data = role + b"".join(map(event, texts)) + end
    cuts = [data[at : at + 50_001] for at in range(0, len(data), 50_001)]
    assert b"".join(map(decoder.feed, cuts)) == "".join(texts).encode()
    assert (decoder.done, decoder.finish_reason) == (True, "stop")
    # A few where a read begins or ends, and where something else is said.
    assert len(parsed) < 20 * len(cuts)


BROKEN = event("T")
RAW = ["a", "\\", ',"b', '","', 'x","y', "\\n", "\\u00", "e9", "\n\n", "\0", "\ud83d", "\\ude00"]


@given(st.lists(st.lists(st.sampled_from(RAW), max_size=3).map("".join), min_size=1, max_size=5))
def test_quotes_and_backslashes_that_are_in_the_wrong_place_are_seen(texts: list[str]) -> None:
    decoder, plain = DeltaDecoder(), DeltaDecoder()
    plain._alike.learn = lambda event: None  # type: ignore[method-assign]
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    for data in (event("a"), b"".join(BROKEN.replace(b"T", text) for text in raw), event("z")):
        found = outcome(decoder, data)
        assert found == outcome(plain, data)
        if not isinstance(found, bytes):
            return


SPECIAL = [
    b": a comment\n\n",
    b"event: x\n",
    b"data: {}\n\n",
    b"\n",
    b"\xef\xbb\xbf",
    event("", usage={"prompt_tokens": 7, "completion_tokens": 9}),
    event("z", choice={"finish_reason": "length"}),
    event("half \ud83d", ascii_only=True),
    event("\ude00", ascii_only=True),
    event("a", error={"message": "no"}),
    event(["a"]),
    b"data: {\n\n",
    b"data: [DONE]\n\n",
]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(TEXTS).map(event),
            st.sampled_from(TEXTS).map(event),
            st.sampled_from(TEXTS).map(lambda text: event(text, end="\r\n\r\n")),
            st.sampled_from(SPECIAL),
        ),
        max_size=24,
    ),
    PLACES,
    st.sampled_from([1, 400, 100_000]),
)
def test_a_stream_says_the_same_in_any_split_as_without_anything_alike(
    events: list[bytes], places: list[int], large_bytes: int
) -> None:
    data = event("first") + b"".join(events)
    said: list[object] = []
    for portions, learns in ((cut(data, places), True), ([data], True), ([data], False)):
        decoder = DeltaDecoder()
        if not learns:
            decoder._alike.learn = lambda event: None  # type: ignore[method-assign]
        with patch.object(deltas, "_LARGE_BYTES", large_bytes):
            try:
                text = b"".join([*map(decoder.feed, portions), decoder.finish()])
            except (NotAnEventStream, ErrorEvent) as error:
                said.append(str(error))
                continue
        usage = decoder.usage
        said.append((text, decoder.done, decoder.finish_reason, usage.output_tokens))
    assert said[0] == said[1] == said[2]
