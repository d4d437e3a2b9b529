from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.http.responses import (
    CONTINUE,
    encode_chunk,
    encode_head,
    encode_last_chunk,
    http_date,
)


def test_a_head_is_status_line_headers_in_order_and_an_empty_line() -> None:
    assert encode_head(200, [("B", "1"), ("a", "\xe4"), ("B", "")]) == (
        b"HTTP/1.1 200 OK\r\nB: 1\r\na: \xe4\r\nB: \r\n\r\n"
    )
    assert encode_head(404, []) == b"HTTP/1.1 404 Not Found\r\n\r\n"


def test_an_unknown_status_has_an_empty_reason_behind_its_space() -> None:
    assert encode_head(499, []) == b"HTTP/1.1 499 \r\n\r\n"


def test_the_interim_response_is_a_head_of_its_own() -> None:
    assert encode_head(HTTPStatus.CONTINUE, []) == CONTINUE


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 1000])
def test_a_status_out_of_range_is_a_bug(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        encode_head(status, [])


@pytest.mark.parametrize(
    "value", ["a\r\nX: b", "a\nb", "a\rb", "a\x00b", "a\x7f", "a\x1b", "\u20ac"]
)
def test_a_value_that_could_split_a_header_is_a_bug_and_is_not_shown(value: str) -> None:
    for encode in (lambda h: encode_head(200, h), encode_last_chunk):
        with pytest.raises(ValueError, match="X-Name") as caught:
            encode([("X-Name", value)])
        assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\xe4", " a"])
def test_a_name_that_is_no_token_is_a_bug(name: str) -> None:
    with pytest.raises(ValueError, match="header name"):
        encode_head(200, [(name, "x")])


def test_chunks_say_their_size_in_hexadecimal() -> None:
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encode_last_chunk() == b"0\r\n\r\n"
    assert encode_last_chunk([("X-A", "b")]) == b"0\r\nX-A: b\r\n\r\n"


def test_an_empty_chunk_would_end_the_body_and_is_a_bug() -> None:
    with pytest.raises(ValueError, match="ends the body"):
        encode_chunk(b"")


def test_the_date_is_an_imf_fixdate_in_gmt() -> None:
    # RFC 9110, section 5.6.7: its own example
    assert http_date(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT"
    parsed = parsedate_to_datetime(http_date(1_800_000_000))
    assert parsed == datetime.fromtimestamp(1_800_000_000, UTC)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_h11_reads_what_we_send(pieces: list[bytes]) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(encode_head(200, [("Transfer-Encoding", "chunked"), ("X-A", "b")]))
    client.receive_data(b"".join(map(encode_chunk, pieces)) + encode_last_chunk([("X-T", "y")]))
    head = client.next_event()
    assert isinstance(head, h11.Response)
    assert (head.status_code, (b"x-a", b"b") in list(head.headers)) == (200, True)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert body == b"".join(pieces)
    assert isinstance(event, h11.EndOfMessage)
    assert list(event.headers) == [(b"x-t", b"y")]
