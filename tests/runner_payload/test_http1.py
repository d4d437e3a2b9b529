"""A response out of bytes: heads and bodies (RFC 9112), in every split, and what is none."""

from __future__ import annotations

import time
from contextlib import suppress

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_payload import http1
from runner_payload.http1 import MAX_HEAD_BYTES, MAX_LINE_BYTES, Head, HeadReader, NotHTTP
from tests.runner_payload.splits import PLACES, cut, one_by_one

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

# A status, a body, what stands behind it, whether the connection can be used again.
Read = tuple[int, bytes, bytes, bool]


def read(portions: list[bytes], *, closed: bool = False) -> Read | None:
    """What a connection that brings `portions` says; None if that is not whole yet."""
    reader = HeadReader()
    head: Head | None = None
    body = behind = b""
    for portion in portions:
        data = portion
        if head is None:
            head = reader.feed(data)
            if head is None:
                continue
            data, decoder = reader.rest, head.body()
        elif decoder.done:
            behind += portion
            continue
        body += decoder.feed(data)
    if head is None:
        return None
    if closed:
        decoder.end()
    if not decoder.done:
        return None
    return head.status, body, decoder.rest + behind, head.keep_alive


def in_every_split(data: bytes, *, closed: bool = False) -> Read | None:
    """The same whole, byte by byte, in two and in three."""
    whole = read([data], closed=closed)
    assert read(one_by_one(data), closed=closed) == whole
    for at in range(len(data)):
        assert read([data[:at], b"", data[at:]], closed=closed) == whole
    return whole


def head_of(*lines: bytes) -> Head:
    reader = HeadReader()
    head = reader.feed(b"\r\n".join([*lines, b"", b""]))
    assert head is not None
    return head


WHOLE: dict[str, tuple[bytes, tuple[int, bytes]]] = {
    "a length": (OK + b"Content-Length: 5\r\n\r\nhello", (200, b"hello")),
    "no body": (OK + b"content-length: 0\r\n\r\n", (200, b"")),
    "twice the same length": (
        OK + b"Content-Length: 2, 2\r\ncontent-LENGTH:2\r\n\r\nab",
        (200, b"ab"),
    ),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n" + LAST, (200, b"hello world")),
    "sizes in both cases": (
        CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n00c\r\n0123456789ab\r\n" + LAST,
        (200, b"01234567890123456789" + b"0123456789ab"),
    ),
    "extensions": (CHUNKED + b'2;a=b;c="d"\r\nhi\r\n1 ;x\r\n!\r\n0;last\r\n\r\n', (200, b"hi!")),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\nC: d\r\n\r\n", (200, b"hi")),
    "a trailer that looks like a chunk": (CHUNKED + b"0\r\n6\r\nA: b\r\n\r\n", (200, b"")),
    "chunks in chunks": (CHUNKED + b"6\r\n1\r\nx\r\n\r\n" + LAST, (200, b"1\r\nx\r\n")),
    "bare LF in the head": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", (200, b"hi")),
    "bare LF behind trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\n\n", (200, b"hi")),
    "both line ends": (b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\nhi", (200, b"hi")),
    "a folded header": (OK + b"X: a\r\n \tb\r\nContent-Length:\r\n 2\r\n\r\nhi", (200, b"hi")),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", (204, b"")),
    "304 with a coding": (
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        (304, b""),
    ),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        (200, b"hi"),
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi")),
    "an empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", (200, b"hi")),
    "a coding overrides a length": (
        OK + b"Content-Length: 2\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n" + LAST,
        (200, b"abc"),
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_an_answer_is_read_whole_byte_by_byte_and_with_more_bytes_behind(case: str) -> None:
    data, expected = WHOLE[case]
    got = in_every_split(data)
    assert got is not None
    assert (got[:2], got[2]) == (expected, b"")
    got = in_every_split(data + b"HTTP/1.1")
    assert got is not None
    assert (got[:2], got[2]) == (expected, b"HTTP/1.1")


@pytest.mark.parametrize("case", WHOLE)
def test_an_answer_is_not_whole_before_its_last_byte_and_a_connection_must_not_end_there(
    case: str,
) -> None:
    data, _ = WHOLE[case]
    begun = data.index(b"\n\n" if b"\r\n\r\n" not in data and b"\n\r\n" not in data else b"\n")
    for at in range(begun, len(data)):
        assert read([data[:at]]) is None
        with suppress(NotHTTP):
            assert read([data[:at]], closed=True) is None, at  # in the head


@pytest.mark.parametrize(
    "head", [OK, b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"]
)
def test_a_body_without_length_and_coding_ends_with_its_connection(head: bytes) -> None:
    data = head + b"X: y\r\n\r\nall of it\r\n\r\n"
    assert read([data]) is None
    assert in_every_split(data, closed=True) == (200, b"all of it\r\n\r\n", b"", False)


@pytest.mark.parametrize(
    ("version", "lines", "expected"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: keep-alive"], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"connection: upgrade , CLOSE"], False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.1", [b"Transfer-Encoding: chunked"], False),  # a length beside it
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
        (b"1.0", [b"Connection: keep-alive", b"Transfer-Encoding: chunked"], False),
    ],
)
def test_a_connection_is_used_again_when_both_sides_are_sure_where_the_answer_ends(
    version: bytes, lines: list[bytes], expected: bool
) -> None:
    head = head_of(b"HTTP/%b 200 OK" % version, *lines, b"Content-Length: 0")
    assert head.keep_alive is expected


def test_a_head_is_given_as_it_came_but_for_spaces_around_values() -> None:
    head = head_of(
        b"HTTP/1.1 404 Not \xc3 Found ", b"X-One: \t a  b\t ", b"x-one:", b"Y:\xe4:;", b"Z: 1\r\n 2"
    )
    assert (head.status, head.reason) == (404, b"Not \xc3 Found ")
    assert head.fields == (
        (b"X-One", b"a  b"),
        (b"x-one", b""),
        (b"Y", b"\xe4:;"),
        (b"Z", b"1 2"),
    )
    assert head.headers == {"x-one": "a  b, ", "y": "ä:;", "z": "1 2"}


def test_heads_that_are_the_same_have_bodies_of_their_own() -> None:
    one, other = (head_of(OK.strip(), b"Content-Length: 2") for _ in range(2))
    bodies = one.body(), other.body()
    assert [body.feed(b"a") for body in bodies] == [b"a", b"a"]
    assert not any(body.done for body in bodies)


NOT_HTTP = {
    "no head": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/0.9": b"<html>",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "a longer version": b"HTTP/1.10 200 OK\r\n\r\n",
    "an empty line first": b"\r\n" + OK + b"\r\n",
    "a space first": b" " + OK + b"\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a short status": b"HTTP/1.1 20 OK\r\n\r\n",
    "a long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status that is none": b"HTTP/1.1 099 OK\r\n\r\n",
    "600": b"HTTP/1.1 600 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "no colon": OK + b"X\r\n\r\n",
    "no name": OK + b": x\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "a space in the name": OK + b"Content Length: 2\r\n\r\nhi",
    "NUL in a value": OK + b"X: a\0b\r\n\r\n",
    "CR in a value": OK + b"X: a\rb\r\n\r\n",
    "two CRs at the end": OK + b"X: a\r\r\n\r\n",
    "a fold before any header": OK + b" X: a\r\n\r\n",
    "no length": OK + b"Content-Length:\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "two lengths in one": OK + b"Content-Length: 2, 3\r\n\r\nabc",
    "a length and nothing": OK + b"Content-Length: 2,\r\n\r\nab",
    "a length spelled twice": OK + b"Content-Length: 2\r\nContent-Length: 02\r\n\r\nab",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a signed length": OK + b"Content-Length: +1\r\n\r\na",
    "a hexadecimal length": OK + b"Content-Length: 0x1\r\n\r\na",
    "a vertical tab": OK + b"Content-Length: 1\v\r\n\r\na",
    "a length beyond reason": OK + b"Content-Length: 1%b\r\n\r\n" % (b"0" * 18),
    "gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "no coding": OK + b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked and a vertical tab": OK + b"Transfer-Encoding: \vchunked\r\n\r\n",
    "no size": CHUNKED + b"\r\n",
    "a size that is none": CHUNKED + b"xyz\r\n",
    "a negative size": CHUNKED + b"-1\r\na\r\n",
    "a size with 0x": CHUNKED + b"0x1\r\na\r\n",
    "a size with _": CHUNKED + b"1_0\r\n",
    "a space before a size": CHUNKED + b" 1\r\na\r\n",
    "a size beyond reason": CHUNKED + b"100000000\r\n",
    "a size with bare LF": CHUNKED + b"1\na\r\n",
    "a size with a bare CR": CHUNKED + b"1;\r;\r\na\r\n",
    "a chunk with bare LF behind it": CHUNKED + b"1\r\na\n",
    "a chunk that is too long": CHUNKED + b"1\r\nab\r\n",
    "a chunk that is too short": CHUNKED + b"3\r\nab\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", NOT_HTTP)
def test_what_is_no_answer_is_not_http_in_any_split(case: str) -> None:
    data = NOT_HTTP[case]
    for portions in ([data], one_by_one(data), *([data[:i], data[i:]] for i in range(len(data)))):
        with pytest.raises(NotHTTP):
            read(portions)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 3\r\n\r\nab",
        CHUNKED,
        CHUNKED + b"2\r\nab\r\n",
        CHUNKED + b"2\r\nab\r\n0\r\n",
        CHUNKED + b"2\r\nab\r\n0\r\nA: b\r\n",
    ],
)
def test_a_body_that_ends_too_early_is_not_whole(data: bytes) -> None:
    with pytest.raises(NotHTTP, match="the connection ended"):
        read([data], closed=True)


def _padded(before: bytes, total: int, end: bytes) -> bytes:
    """`total` bytes: `before`, padding, `end`."""
    return before + b"x" * (total - len(before) - len(end)) + end


@pytest.mark.parametrize(
    ("limit", "data", "behind"),
    [
        (MAX_HEAD_BYTES, lambda total: (b"", _padded(OK + b"X: ", total, b"\r\n\r\n")), b""),
        (MAX_LINE_BYTES, lambda total: (CHUNKED, _padded(b"1;", total, b"\r\n")), b"a\r\n" + LAST),
        (
            MAX_LINE_BYTES,
            lambda total: (CHUNKED + b"0\r\n", _padded(b"A:", total, b"\r\n")),
            b"\r\n",
        ),
    ],
    ids=["head", "size", "trailer"],
)
def test_a_limit_counts_in_any_split(limit: int, data: object, behind: bytes) -> None:
    assert callable(data)
    for total, allowed in ((limit, True), (limit + 1, False)):
        before, line = data(total)
        whole = before + line + behind
        end = len(before) + total
        for places in ([], [end - 1], [end - 2], [end], [len(before) + 9, end - 3]):
            try:
                read(cut(whole, places), closed=True)
                assert allowed, places
            except NotHTTP:
                assert not allowed, places


def test_what_has_no_end_is_held_no_longer_than_the_limit() -> None:
    """Else a server that never ends its line would fill the runner's memory."""
    reader = HeadReader()
    with suppress(NotHTTP):
        for _ in range(MAX_HEAD_BYTES):
            reader.feed(OK * 100)
        pytest.fail("it holds whatever comes")
    assert len(reader.rest) < MAX_HEAD_BYTES + 100 * len(OK)


def test_a_long_row_of_spaces_takes_no_time() -> None:
    """A pattern that goes back and forth in it would hold up every call of the runner."""
    spaces = b" " * 30_000
    begun_s = time.process_time()
    assert head_of(OK.strip(), b"X:" + spaces + b"a" + spaces + b"b").fields[0][1] == (
        b"a" + spaces + b"b"
    )
    for line in (b"X:" + spaces + b"\0", b"Content-Length:" + b", " * 15_000):
        with pytest.raises(NotHTTP):
            head_of(OK.strip(), line)
    with pytest.raises(NotHTTP):
        read([CHUNKED + b"1" + spaces[:16_000] + b"\0\r\n"])
    assert time.process_time() - begun_s < 0.5


def test_a_chunk_in_one_read_is_given_without_being_put_together() -> None:
    (decoder := head_of(OK.strip(), b"Transfer-Encoding: chunked").body()).feed(b"")
    assert decoder.feed(b"6\r\ndata: \r\n") == b"data: "
    assert decoder.feed(b"7fff\r\n" + b"x" * 0x7FFF + b"\r\n") == b"x" * 0x7FFF
    # And what only begins like one is not taken for one.
    assert decoder.feed(b"2\r\nab\r\n1\r\nc\r\n") == b"abc"
    assert decoder.feed(b"8\r\nab\r\n") == b"ab\r\n"
    assert not decoder.done


def test_chunks_are_the_same_whether_their_sizes_have_come_before_or_not() -> None:
    bodies = [b"x" * size for size in (1, 15, 16, 255, 3, 256, 4095, 4096, 7, 7, 7, 1)]
    data = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies)
    capitals = CHUNKED + b"".join(b"%X\r\n%b\r\n" % (len(body), body) for body in bodies)
    expected = (200, b"".join(bodies), b"", True)
    http1._sizes.clear()
    for _ in range(2):
        for stream in (data + LAST, capitals + LAST):
            assert read([stream]) == expected
            for step in (1, 100):
                cuts = [stream[at : at + step] for at in range(0, len(stream), step)]
                assert read(cuts) == expected


@pytest.mark.parametrize("broken", [b"7\r\n1234567", b"7\r\n12345678\r\n", b"7\r\n123456\r\n"])
def test_a_chunk_of_a_size_that_has_come_before_may_still_be_none(broken: bytes) -> None:
    good = CHUNKED + b"7\r\nabcdefg\r\n"
    assert read([good + LAST]) == (200, b"abcdefg", b"", True)
    for portions in ([good + broken + b"\nx" + LAST], [good, broken + b"\nx" + LAST]):
        with pytest.raises(NotHTTP):
            read(portions)


def test_sizes_that_have_come_before_are_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may have something of its own in each size line."""
    monkeypatch.setattr(http1, "_sizes", {})
    for number in range(1, 5_000):
        read([CHUNKED + b"%x\r\n%b\r\n" % (number, b"x" * number)])
        read([CHUNKED + b"1;%b%d\r\nx\r\n" % (b"y" * 1000, number)])
    assert len(http1._sizes) == http1._MAX_SIZES
    assert max(map(len, http1._sizes)) <= http1._MAX_KEPT_BYTES


# --- Properties ---------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK",
            b"HTTP/1.0 200",
            b"HTTP/1.1 100 ",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\0",
        ),
        *(b"Content-Length: 5", b"Content-Length:", b"Transfer-Encoding: chunked", b"Connection: "),
        *(b"close", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"1", b"A", b";", b"hello", b"x: y"),
        *(b"\r\n\r\n", OK, CHUNKED, b"3\r\n1\r\n\r\n"),
    ]
)
BYTES = st.one_of(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: CHUNKED + b"".join(pieces)),
    st.binary(max_size=40),
)


def outcome(portions: list[bytes], *, closed: bool) -> Read | str | None:
    try:
        return read(portions, closed=closed)
    except NotHTTP:
        return "not HTTP"


@settings(max_examples=60, deadline=None)
@given(BYTES, PLACES, st.booleans())
def test_bytes_parse_or_are_not_http_and_nothing_else_and_the_same_in_any_split(
    data: bytes, places: list[int], closed: bool
) -> None:
    whole = outcome([data], closed=closed)
    assert outcome(cut(data, places), closed=closed) == whole
    assert outcome(one_by_one(data), closed=closed) == whole


TOKEN = st.text("abcXYZ-09", min_size=1, max_size=6).map(lambda name: f"X{name}".encode())
VALUE = st.text('ab;,= \t"', max_size=8).map(lambda value: value.strip().encode())


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Well-formed ones, as other implementations write them."""
    minor, status = draw(st.sampled_from([(0, 200), (1, 200), (1, 404), (1, 204), (1, 503)]))
    lines = [b"HTTP/1.%d %d Reason" % (minor, status)]
    lines += [b"%b: %b" % pair for pair in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=3))]
    # h11 does not know that HTTP/1.0 may be kept alive.
    options = [[], [b"Connection: close"], [b"connection: Keep-Alive"]][: 2 + minor]
    lines += draw(st.sampled_from(options))
    body = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    framing = draw(st.sampled_from(["length", "chunked", "close"])) if status != 204 else "none"
    if framing == "chunked" and minor:
        lines.append(b"Transfer-Encoding: chunked")
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body]
        wire = b"".join([*chunks, draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n"]))])
    else:
        wire = b"" if framing == "none" else b"".join(body)
        lines += [b"Content-Length: %d" % len(wire)] if framing == "length" else []
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"]))
    return interim + b"\r\n".join([*lines, b"", wire])


def as_h11_reads(data: bytes) -> Read:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    status, body, closed = 0, b"", False
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif event is h11.NEED_DATA:
            assert not closed
            closed = True
            client.receive_data(b"")
        elif isinstance(event, h11.EndOfMessage):
            again = (client.our_state, client.their_state) == (h11.DONE, h11.DONE) and not closed
            return status, body, client.trailing_data[0], again


@settings(max_examples=40, deadline=None)
@given(answers(), PLACES)
def test_well_formed_answers_are_read_as_h11_reads_them(data: bytes, places: list[int]) -> None:
    assert read(cut(data, places), closed=True) == as_h11_reads(data)
