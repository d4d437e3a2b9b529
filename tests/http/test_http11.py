from __future__ import annotations

import time
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrelay.errors import BadRequest, ContentTooLarge, HeadTooLarge
from llmrelay.http.events import NEED_DATA, EndOfMessage, Headers, Request
from llmrelay.http.http11 import RequestParser

from .cases import REFUSED, TAKEN, Refused, Taken, chunked, get, post
from .parsing import Parsed, new_parser, one_by_one, parse

SECOND = b"POST /second HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok"


def _portions(raw: bytes) -> dict[str, list[bytes]]:
    return {"whole": [raw], "byte by byte": one_by_one(raw), "CR LF": raw.splitlines(keepends=True)}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.rule)
def test_what_the_rfc_forbids_is_refused_however_it_arrives(case: Refused) -> None:
    for how, portions in _portions(case.raw).items():
        assert parse(portions).error is case.error, how
    for how, portions in _portions(case.raw + SECOND).items():
        parsed = parse(portions)
        assert parsed.error is case.error, how
        assert not any(message.whole for message in parsed.messages), how


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.rule)
def test_a_good_request_before_a_refused_one_is_whole_first(case: Refused) -> None:
    for portions in _portions(SECOND + case.raw).values():
        parsed = parse(portions)
        assert parsed.error is case.error
        assert parsed.messages[0].whole
        assert parsed.messages[0].body == b"ok"


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.rule)
def test_what_the_rfc_allows_is_taken_however_it_arrives(case: Taken) -> None:
    for how, portions in _portions(case.raw + SECOND).items():
        parsed = parse(portions, end=True)
        assert parsed.error is None, how
        first, second = parsed.messages
        assert {name: getattr(first.request, name) for name in case.expected} == case.expected, how
        assert (first.body, first.whole) == (case.body, True), how
        assert (second.request.path, second.body, second.whole) == ("/second", b"ok", True), how


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.rule)
def test_an_end_inside_a_request_is_an_error_and_between_two_is_none(case: Taken) -> None:
    raw = case.raw
    head_start = len(raw) - len(raw.lstrip(b"\r\n"))
    for size in range(len(raw) + 1):
        between = size == len(raw) or (size <= head_start and size % 2 == 0)
        assert parse([raw[:size]], end=True).error is (None if between else BadRequest), size


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
    """Eight times the bytes may take about eight times as long; quadratic would be 64 times."""

    def seconds(size: int) -> float:
        parser = RequestParser(2**24, 10, 2**24)
        parser.feed(b"GET / HTTP/1.1\r\nX: ")
        begun = time.perf_counter()
        for _ in range(size):
            parser.feed(b"a")
            assert parser.next_event() is NEED_DATA
        return time.perf_counter() - begun

    small, large = (min(seconds(size) for _ in range(3)) for size in (20_000, 160_000))
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


@settings(max_examples=400, deadline=None)
@given(_STREAMS, st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_any_bytes_in_any_portions_are_events_or_a_relay_error(
    raw: bytes, cuts: list[int], end: bool
) -> None:
    # An exception of any other kind comes out of parse() and fails the test.
    whole = _comparable(parse([raw], end=end))
    assert _comparable(parse(_split(raw, cuts), end=end)) == whole
    assert _comparable(parse(one_by_one(raw), end=end)) == whole


_TOKENS = st.text("abcXYZ019-_.!~", min_size=1, max_size=8)
_VALUES = st.text("abc XYZ/,;=\"'()\t\xe4", max_size=12).map(str.strip)
_BODIES = st.binary(max_size=40)


@st.composite
def _valid_requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid request's bytes, and its body."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "X-y"]))
    target = "/" + draw(st.text("abc/%20?&=~{}|", max_size=12))
    fields = [("X-" + draw(_TOKENS), draw(_VALUES)) for _ in range(draw(st.integers(0, 4)))]
    pieces = draw(st.lists(_BODIES.filter(bool), max_size=3))
    body = b"".join(pieces)
    raw_body = b""
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        body = b""
    elif framing == "length":
        fields.append(("Content-Length", str(len(body))))
        raw_body = body
    else:
        fields.append(("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"]))))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="c d"']))
        raw_body = b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces)
        raw_body += b"0\r\n" + draw(st.sampled_from([b"", b"X-T: y\r\n"])) + b"\r\n"
    lines = [f"{method} {target} HTTP/1.1", "Host: example.org:8080"]
    lines += [f"{name}: {value}" for name, value in fields]
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"
    return head + raw_body, body


@settings(max_examples=200, deadline=None)
@given(_valid_requests())
def test_a_valid_request_reads_as_h11_reads_it(case: tuple[bytes, bytes]) -> None:
    raw, body = case
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(raw)
    head = theirs.next_event()
    assert isinstance(head, h11.Request)
    their_body = b""
    while isinstance(event := theirs.next_event(), h11.Data):
        their_body += event.data
    assert isinstance(event, h11.EndOfMessage)

    parsed = parse([raw], end=True)
    [message] = parsed.messages
    assert parsed.error is None
    assert message.request.method.encode() == head.method
    assert message.request.target.encode() == head.target
    ours = [(name.encode(), value.encode("latin-1")) for name, value in message.request.headers]
    # h11 says the coding's name in lower case
    assert [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in ours] == list(
        head.headers
    )
    assert message.body == their_body == body


@settings(max_examples=300, deadline=None)
@given(_STREAMS)
def test_what_h11_refuses_we_refuse(raw: bytes) -> None:
    theirs = h11.Connection(h11.SERVER, max_incomplete_event_size=10_000)
    theirs.receive_data(raw)
    try:
        while isinstance(event := theirs.next_event(), h11.Request | h11.Data):
            pass
    except h11.RemoteProtocolError:
        first = parse([raw], end=True).messages[:1]
        assert not any(message.whole for message in first)
    else:
        assert event is not None
