"""Forms out of bytes: RFC 7578 and RFC 2046, section 5.1; read as clients write them."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload.multipart import (
    FormEnded,
    InvalidMultipart,
    MultipartDecoder,
    PartBegun,
    PartData,
    PartEnded,
    boundary_of,
    encode_end,
    encode_field,
    encode_file_head,
    new_boundary,
)
from tests.runner_payload.forms import (
    BOUNDARY,
    FILE_HEAD,
    HEAD,
    REFUSED,
    TAKEN,
    Part,
    decode,
    field,
    form,
    outcome,
)
from tests.runner_payload.splits import PLACES, cut, one_by_one


def in_every_split(data: bytes) -> object:
    """The outcome, which is the same whole, byte by byte and in two."""
    said = outcome([data])
    assert outcome(one_by_one(data)) == said
    for at in range(0, len(data), max(1, len(data) // 100)):
        assert outcome([data[:at], b"", data[at:]]) == said
    return said


@pytest.mark.parametrize("case", TAKEN)
def test_a_form_is_read_whole_byte_by_byte_in_two_and_with_more_behind_it(case: str) -> None:
    data, parts = TAKEN[case]
    assert in_every_split(data) == parts
    more = data if data.rstrip(b" \t").endswith(b"\r\n") else data + b"\r\n"
    assert in_every_split(more + b"more\r\n--xYzZY\r\n\0") == parts


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_form_is_refused_in_the_same_words_in_every_split(case: str) -> None:
    data, words = REFUSED[case]
    said = in_every_split(data)
    assert isinstance(said, str), said
    assert words in said
    assert said.endswith(".")


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters='"\\\r\n%;= '), max_size=12
).filter(lambda name: not any(code in name for code in ("%22", "%0D", "%0A")))
CONTENTS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"-", BOUNDARY, BOUNDARY[:3], b"x", b"\0"]),
    max_size=12,
).map(b"".join)
DELIMITER_ENDS = (b"\r--" + BOUNDARY, b"\n--" + BOUNDARY)


def fits(data: bytes) -> bool:
    """Whether a client may choose this boundary for this content."""
    return not any(end in b"\r\n" + data for end in DELIMITER_ENDS)


FILES = st.tuples(NAMES, st.one_of(st.none(), NAMES), CONTENTS.filter(fits))


@given(st.lists(FILES, max_size=5), PLACES)
def test_what_is_encoded_decodes_to_the_same_in_any_split(
    files: list[tuple[str, str | None, bytes]], places: list[int]
) -> None:
    body = b""
    expected = []
    for name, filename, data in files:
        if filename is None:
            value = data.decode()
            body += encode_field(BOUNDARY, name, value)
            expected.append(Part(name, None, None, data))
        else:
            body += encode_file_head(BOUNDARY, name, filename, "audio/x") + data + b"\r\n"
            expected.append(Part(name, filename, "audio/x", data))
    body += encode_end(BOUNDARY, after_file=False)
    assert outcome(cut(body, places)) == expected
    assert outcome([body]) == expected


PIECES = st.sampled_from(
    [
        *(b"--xYzZY", b"--xYzZY\r\n", b"--xYzZY--", b"--xYzZY--\r\n", b"\r\n", b"\r", b"\n", b"-"),
        *(HEAD, HEAD + b"\r\n\r\n", FILE_HEAD, b"\r\n\r\n", b"a", b"a: b\r\n", b" ", b'"', b"\\"),
        *(b";", b"=", b"Content-Disposition: form-data", b"; name=", b"\xff", b"x" * 3000),
    ]
)


@given(
    st.one_of(st.lists(PIECES, max_size=14).map(b"".join), st.binary(max_size=60)),
    st.booleans(),
    PLACES,
)
def test_any_bytes_parse_or_are_refused_alike_in_any_split(
    data: bytes, opened: bool, places: list[int]
) -> None:
    if opened:
        data = b"--xYzZY\r\n" + HEAD + b"\r\n\r\n" + data
    assert outcome(cut(data, places)) == outcome([data]) == outcome(one_by_one(data))


def standard_library(data: bytes, boundary: bytes) -> list[tuple[object, bytes]]:
    """Name and content of each part, as email reads them."""
    head = b'Content-Type: multipart/form-data; boundary="%b"\r\n\r\n' % boundary
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + data)
    parts: list[tuple[object, bytes]] = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts.append((part.get_param("name", header="content-disposition"), content))
    return parts


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), CONTENTS.filter(fits)), min_size=1))
def test_the_standard_library_reads_the_same_parts(parts: list[tuple[str, bytes]]) -> None:
    body = b"".join(encode_field(BOUNDARY, name, data.decode()) for name, data in parts)
    body += encode_end(BOUNDARY, after_file=False)
    assert standard_library(body, BOUNDARY) == [
        (part.name, part.data) for part in decode([body])
    ] == parts  # fmt: skip


AUDIO = bytes(range(256)) * 40 + b"\r\n--\r\n"


def test_what_httpx_sends_is_read() -> None:
    request = httpx2.Request(
        "POST",
        "http://localhost/",
        data={"model": "m", 'a"\r\n\\': "ö"},
        files={"file": ('s "x"\\ö.wav', AUDIO, "audio/wav")},
    )
    body = request.read()
    boundary = boundary_of(request.headers["Content-Type"])
    assert decode(one_by_one(body), boundary) == [
        Part("model", None, None, b"m"),
        Part('a"\r\n\\', None, None, "ö".encode()),
        Part("file", 's "x"\\ö.wav', "audio/wav", AUDIO),
    ]


def test_what_aiohttp_sends_is_read() -> None:
    form_data = aiohttp.FormData()
    form_data.add_field("model", "m")
    form_data.add_field("file", AUDIO, filename='s "x"ö.wav', content_type="audio/wav")
    writer = form_data()
    body = asyncio.run(writer.as_bytes())
    boundary = boundary_of(writer.headers["Content-Type"])
    assert decode(one_by_one(body), boundary) == [
        Part("model", None, "text/plain; charset=utf-8", b"m"),
        Part("file", 's%20"x"%C3%B6.wav', "audio/wav", AUDIO),
    ]


def sent_by_curl(*arguments: str) -> tuple[str, bytes]:
    """The Content-Type and the body of curl's request."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                lines = list(iter(stream.readline, b"\r\n"))
                length = next(x for x in lines if x.lower().startswith(b"content-length:"))
                received.extend([*lines, stream.read(int(length.split(b":")[1]))])
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        subprocess.run(
            ["curl", "-sS", "-q", "--noproxy", "*", "-H", "Expect:", *arguments, url],
            check=True,
            timeout=20,
        )
        thread.join(20)
    *lines, body = received
    typed = next(line for line in lines if line.lower().startswith(b"content-type:"))
    return typed.split(b":", 1)[1].strip().decode(), body


def test_what_curl_sends_is_read(tmp_path: Path) -> None:
    audio = tmp_path / 'ö "q".wav'
    audio.write_bytes(AUDIO)
    path = str(audio).replace('"', '\\"')
    content_type, body = sent_by_curl("-F", "model=m", "-F", f'file=@"{path}";type=audio/wav')
    assert decode(one_by_one(body), boundary_of(content_type)) == [
        Part("model", None, None, b"m"),
        Part("file", 'ö "q".wav', "audio/wav", AUDIO),
    ]


def test_what_is_encoded_around_raw_audio_is_a_form() -> None:
    boundary = new_boundary()
    assert boundary != new_boundary()
    assert boundary_of(f"multipart/form-data; boundary={boundary.decode()}") == boundary
    body = encode_field(boundary, "model", "m") + encode_file_head(boundary, "file", "a.wav")
    body += AUDIO + encode_end(boundary)
    assert decode([body], boundary) == [
        Part("model", None, None, b"m"),
        Part("file", "a.wav", "application/octet-stream", AUDIO),
    ]


def test_a_part_comes_out_as_it_comes_in_and_the_last_event_is_the_forms_end() -> None:
    decoder = MultipartDecoder(BOUNDARY)
    assert decoder.feed(b"--xYzZY\r\n" + HEAD + b"\r\n\r\n") == [PartBegun("n", None, None, HEAD)]
    assert decoder.feed(b"abc") == [PartData(b"abc", 53)]
    assert decoder.feed(b"d\r\n--x") == [PartData(b"d", 56)]
    assert decoder.feed(b"e") == [PartData(b"\r\n--xe", 57)]
    assert decoder.feed(b"\r\n--xYzZY--") == [PartEnded(), FormEnded()]
    assert decoder.feed(b"\r\n--xYzZY\r\n") == []
    decoder.finish()


def test_a_large_file_costs_a_scan_and_is_handed_on_without_a_copy() -> None:
    decoder = MultipartDecoder(BOUNDARY)
    decoder.feed(b"--xYzZY\r\n" + HEAD + b"\r\n\r\n")
    pieces = [bytes([value]) * 65536 for value in range(0x20, 0x40)] * 50
    begun = time.process_time()
    for piece in pieces:
        (event,) = decoder.feed(piece)
        assert isinstance(event, PartData)
        assert event.data is piece
    # 100 MiB: 0.07 s; a step per byte would take seconds.
    assert time.process_time() - begun < 1


BLANKS_THAT_COST = [
    form(field(b"v", HEAD + b"\r\nx: a" + b" " * 8000 + b"b")),
    form(field(b"v", HEAD + b"; filename=" + b" " * 8000)),
    form(field(b"v", HEAD + b' ; filename="' + b"\\\\" * 3900)),
    b"--xYzZY" + b" " * 2_000_000,
    b"--xYzZY--" + b" \t" * 1_000_000 + b"x",
]


@pytest.mark.parametrize("number", range(len(BLANKS_THAT_COST)))
def test_no_head_and_no_blanks_cost_more_than_they_are_long(number: int) -> None:
    begun = time.process_time()
    outcome([BLANKS_THAT_COST[number]])
    assert time.process_time() - begun < 0.2


BOUNDARIES = {
    "multipart/form-data; boundary=abc": b"abc",
    "Multipart/Form-Data;BOUNDARY=abc": b"abc",
    'multipart/form-data; boundary="a b"': b"a b",
    'multipart/form-data; boundary="\'()+_,-./:=?"': b"'()+_,-./:=?",
    "multipart/form-data; boundary=----=_Part_1_2.3": b"----=_Part_1_2.3",
    "multipart/form-data; charset=utf-8; boundary=abc;": b"abc",
    " multipart/form-data ; boundary=" + "x" * 70: b"x" * 70,
}
NO_BOUNDARIES = [
    "",
    "multipart/form-data",
    "multipart/mixed; boundary=abc",
    "multipart/form-data-x; boundary=abc",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
    'multipart/form-data; boundary="a "',
    'multipart/form-data; boundary="abc',
    "multipart/form-data; boundary=a b",
    "multipart/form-data; boundary=a,b",
    "multipart/form-data, x/y; boundary=a",
    "multipart/form-data; boundary=a; boundary=b",
    "multipart/form-data; boundary=" + "x" * 71,
    "multipart/form-data; boundary=ä",
    'multipart/form-data; boundary="a\r\nb"',
    "multipart/form-data; boundary = abc",
]


@pytest.mark.parametrize("content_type", BOUNDARIES)
def test_the_boundary_is_what_the_content_type_names(content_type: str) -> None:
    assert boundary_of(content_type) == BOUNDARIES[content_type]


@pytest.mark.parametrize("content_type", NO_BOUNDARIES)
def test_a_content_type_without_one_good_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidMultipart, match="multipart/form-data"):
        boundary_of(content_type)


@given(st.text("multipar/form-data; boundary=\"\\\r\n'ö", max_size=40))
def test_any_content_type_has_a_boundary_or_is_refused(text: str) -> None:
    for content_type in (text, "multipart/form-data; boundary=" + text):
        with suppress(InvalidMultipart):
            assert 1 <= len(boundary_of(content_type)) <= 70
