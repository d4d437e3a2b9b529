"""Server-sent events out of bytes: WHATWG HTML, section 9.2.6."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload.sse import EventDecoder, EventTooLong
from tests.runner_payload.splits import PLACES, cut, one_by_one

LIMIT_BYTES = 1000

CASES = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r:\n", [b"a", b"b"]),
    "all line ends in one event": (b"data: a\rdata: b\ndata: c\r\n\r\n", [b"a\nb\nc"]),
    "CRLF is one line end": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "BOM": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "only the first BOM": (b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n", [b"a", b"c"]),
    "two BOMs": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
    "comments": (b": ping\n\n:\ndata: a\n: in between\ndata: b\n\n", [b"a\nb"]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
    "no space": (b"data:a\n\n", [b"a"]),
    "one space only": (b"data:  a\n\n", [b" a"]),
    "space at the end": (b"data: a \n\n", [b"a "]),
    "data without colon": (b"data\n\n", [b""]),
    "data without colon twice": (b"data\ndata\n\n", [b"\n"]),
    "empty data": (b"data:\n\ndata: \n\n", [b"", b""]),
    "colon in the value": (b"data: a:b\n\n", [b"a:b"]),
    "other fields": (b"event: e\nid: 1\nretry: 5\nnew: x\ndata: a\n\n", [b"a"]),
    "an event without data": (b"event: e\n\ndata: a\n\n", [b"a"]),
    "data is told apart from longer names": (b"database: x\ndatax\ndata : y\n Data: z\n\n", []),
    "field names have a case": (b"DATA: x\n\n", []),
    "blank lines": (b"\n\n\r\n\rdata: a\n\n\n\n", [b"a"]),
    "no other line ends": (
        "data: a\x0bb\x0cc\x1cd\x85e\u2028f\n\n".encode(),
        ["a\x0bb\x0cc\x1cd\x85e\u2028f".encode()],
    ),
    "the stream's end discards half an event": (b"data: a\n\ndata: b\n", [b"a"]),
    "NUL": (b"data: a\0b\n\n", [b"a\0b"]),
    "nothing": (b"", []),
}


def events(portions: list[bytes], limit_bytes: int = LIMIT_BYTES) -> list[bytes]:
    decoder = EventDecoder(limit_bytes)
    return [event for portion in portions for event in decoder.feed(portion)]


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_split_as_the_standard_says_whole_byte_by_byte_and_in_two(case: str) -> None:
    data, expected = CASES[case]
    assert events([data]) == expected
    assert events(one_by_one(data)) == expected
    for at in range(len(data)):
        assert events([data[:at], b"", data[at:]]) == expected


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"data: ", b": c", b"event: e", b"", b"", b"\xef\xbb\xbf"]
)
STREAMS = st.lists(
    st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])).map(b"".join),
    max_size=12,
).map(b"".join)


@given(st.one_of(STREAMS, st.binary(max_size=40)), PLACES)
def test_any_split_gives_the_same_events(data: bytes, places: list[int]) -> None:
    # The blank LF settles a CR at the end, which may still become a CRLF.
    data += b"\n"
    assert events(cut(data, places)) == events([data]) == events(one_by_one(data))


def test_a_cr_at_the_end_of_a_read_waits_for_its_lf() -> None:
    decoder = EventDecoder(LIMIT_BYTES)
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\r\n") == [b"a"]


def test_a_line_of_the_limits_length_passes_and_a_longer_one_is_refused() -> None:
    fits = b"data:" + b"x" * (LIMIT_BYTES - 6)
    assert events([*one_by_one(fits), b"\n", b"\n"]) == [fits[5:]]
    decoder = EventDecoder(LIMIT_BYTES)
    decoder.feed(b"x" * LIMIT_BYTES)
    with pytest.raises(EventTooLong):
        decoder.feed(b"x")


@pytest.mark.parametrize(
    "line", [b"data: 12345678\n", b"data:12345678\r\n", b"data:\n", b"data: \n", b"data\n"]
)
def test_an_event_that_never_ends_is_refused_however_short_its_lines(line: bytes) -> None:
    with pytest.raises(EventTooLong):
        events([line] * (LIMIT_BYTES + 1))


def test_many_events_whose_sum_is_over_the_limit_pass() -> None:
    event = b"data: " + b"x" * 400 + b"\n\n"
    assert len(events([event * 10])) == 10
    assert len(events([event] * 10)) == 10


def test_comments_and_other_fields_do_not_count_against_the_limit() -> None:
    assert events([b": keep-alive\n\n" * 200, b"event: e\n" * 200, b"data: a\n\n"]) == [b"a"]
