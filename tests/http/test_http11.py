from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.errors import BadRequest, ContentTooLarge, HeadTooLarge
from llmrelay.http.events import NEED_DATA, EndOfMessage, Headers, Request
from llmrelay.http.http11 import RequestParser

from .corpus import SECOND
from .parsing import Parsed, chunked, get, new_parser, one_by_one, parse, post


def test_header_values_are_latin_1_without_outer_blanks_and_names_are_lower_case() -> None:
    [message] = parse([get(b"GET / HTTP/1.1", b"X-A:  b\xe4\tc\t ", b"x-a:", b"Y:z")]).messages
    headers = message.request.headers
    assert list(headers) == [("host", "a"), ("x-a", "b\xe4\tc"), ("x-a", ""), ("y", "z")]
    assert headers.get("X-A") == "b\xe4\tc"
    assert headers.get_all("x-A") == ["b\xe4\tc", ""]
    assert (headers.get("none"), headers.get_all("none"), len(headers)) == (None, [], 4)


def test_the_repr_of_headers_shows_no_values() -> None:
    assert "secret" not in repr(Headers((("authorization", "secret"),)))


def test_a_body_over_the_limit_is_refused_only_after_its_head_was_said() -> None:
    parser = new_parser()
    parser.feed(post(b"Content-Length: 1001"))
    assert isinstance(parser.next_event(), Request)
    with pytest.raises(ContentTooLarge):
        parser.next_event()


def test_an_error_stays_and_nothing_is_held_after_it() -> None:
    parser = new_parser()
    parser.feed(b"GET\r\n\r\n")
    for _ in range(3):
        with pytest.raises(BadRequest):
            parser.next_event()
        parser.feed(get())
        assert parser.buffered == 0


def test_the_end_of_a_message_is_said_until_the_next_cycle() -> None:
    parser = new_parser()
    parser.feed(get() + SECOND)
    assert isinstance(parser.next_event(), Request)
    assert parser.next_event() == parser.next_event() == EndOfMessage()
    assert parser.buffered == len(SECOND)
    parser.next_cycle()
    assert isinstance(parser.next_event(), Request)


def test_bytes_that_cannot_begin_a_request_are_refused_before_their_line_ends() -> None:
    assert parse([b"\x16\x03\x01"]).error is BadRequest
    assert parse([b"\r\n \r"]).error is BadRequest


def test_a_wrong_byte_behind_a_chunk_is_refused_at_once() -> None:
    assert parse([chunked(b"1\r\naX")]).error is BadRequest
    assert parse([chunked(b"1\r\na\rX")]).error is BadRequest
    assert parse([chunked(b"1\r\na\r")]).error is None


def test_a_line_without_end_is_refused_at_the_limit_and_not_before() -> None:
    start = b"GET / HTTP/1.1\r\nX: "
    room = 2048 - len(start)
    assert parse([start + b"a" * room]).error is None
    assert parse([start + b"a" * (room + 1)]).error is HeadTooLarge


def test_work_is_linear_in_the_bytes_whatever_their_portions() -> None:
    """Eight times the bytes may take about eight times as long; quadratic would be 64 times.

    Of this process's time: what others take does not count.
    """

    def seconds(size: int) -> float:
        parser = RequestParser(2**24, 10, 2**24)
        parser.feed(b"GET / HTTP/1.1\r\nX: ")
        begun = time.process_time()
        for _ in range(size):
            parser.feed(b"a")
            assert parser.next_event() is NEED_DATA
        return time.process_time() - begun

    small, large = (min(seconds(size) for _ in range(2)) for size in (10_000, 80_000))
    assert large < 24 * small


# --- Properties ---------------------------------------------------------------------------------

_FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /x?y HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"Host: a\r\n",
        b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
        b"\r\n", b"\r", b"\n", b"5\r\nabcde\r\n", b"0\r\n", b"0\r\n\r\n", b"abcde", b": ", b" ",
        b"\t", b"\x00", b"\xff", b";a=b", b"Connection: close\r\n", SECOND, get(),
        chunked(b"1\r\na\r\n"),
    ]
)  # fmt: skip
_STREAMS = st.lists(_FRAGMENTS | st.binary(max_size=8), max_size=12).map(b"".join)


def _split(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def _comparable(parsed: Parsed) -> object:
    return parsed.messages, parsed.error


@given(_STREAMS, st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_any_bytes_in_any_portions_are_events_or_a_relay_error(
    raw: bytes, cuts: list[int], end: bool
) -> None:
    # An exception of any other kind comes out of parse() and fails the test.
    whole = _comparable(parse([raw], end=end))
    assert _comparable(parse(_split(raw, cuts), end=end)) == whole
    assert _comparable(parse(one_by_one(raw), end=end)) == whole
