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
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_payload.multipart import (
    MAX_HEAD_BYTES,
    MAX_PARTS,
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
from tests.runner_payload.splits import PLACES, cut, one_by_one

BOUNDARY = b"xYzZY"
HEAD = b'Content-Disposition: form-data; name="n"'
FILE_HEAD = b'Content-Disposition: form-data; name="file"; filename="a.wav"'


@dataclass(frozen=True)
class Part:
    name: str
    filename: str | None
    content_type: str | None
    data: bytes


def decode(portions: list[bytes], boundary: bytes = BOUNDARY) -> list[Part]:
    """The parts of a whole form; checks what every sequence of events has to be."""
    decoder = MultipartDecoder(boundary)
    body = b"".join(portions)
    parts: list[Part] = []
    begun: PartBegun | None = None
    data = b""
    ended = False
    for portion in portions:
        for event in decoder.feed(portion):
            assert not ended
            if isinstance(event, PartBegun):
                assert begun is None
                assert event.head + b"\r\n\r\n" in body
                begun, data = event, b""
            elif isinstance(event, PartData):
                assert event.data
                assert body[event.at : event.at + len(event.data)] == event.data
                data += event.data
            elif isinstance(event, PartEnded):
                assert begun is not None
                parts.append(Part(begun.name, begun.filename, begun.content_type, data))
                begun = None
            else:
                assert begun is None
                ended = True
        # What is held back is bounded, by a head or by a delimiter.
        limit = len(boundary) + 4 if begun else MAX_HEAD_BYTES + 4
        assert len(decoder._held) <= limit
    decoder.finish()
    assert ended
    return parts


def outcome(portions: list[bytes], boundary: bytes = BOUNDARY) -> object:
    """The parts, or why there are none."""
    try:
        return decode(portions, boundary)
    except InvalidMultipart as refused:
        return str(refused)


def form(*parts: bytes, end: bytes = b"--xYzZY--\r\n") -> bytes:
    return b"".join(b"--xYzZY\r\n" + part + b"\r\n" for part in parts) + end


def field(data: bytes, head: bytes = HEAD) -> bytes:
    return head + b"\r\n\r\n" + data


N = Part("n", None, None, b"v")

TAKEN: dict[str, tuple[bytes, list[Part]]] = {
    "a field": (form(field(b"v")), [N]),
    "two parts": (
        form(field(b"v"), FILE_HEAD + b"\r\nContent-Type: audio/wav; rate=1\r\n\r\n\0\xff"),
        [N, Part("file", "a.wav", "audio/wav; rate=1", b"\0\xff")],
    ),
    "no parts": (form(), []),
    "nothing in a part": (form(field(b"")), [Part("n", None, None, b"")]),
    "no line end at the end": (form(field(b"v"), end=b"--xYzZY--"), [N]),
    "blanks behind the boundaries": (
        b"--xYzZY \t \r\n" + field(b"v") + b"\r\n--xYzZY-- \t",
        [N],
    ),
    "a preamble": (b"This is a form.\r\n" + form(field(b"v")), [N]),
    "a preamble that begins as the boundary": (b"--xYz\r\n" + form(field(b"v")), [N]),
    "an empty preamble": (b"\r\n" + form(field(b"v")), [N]),
    "an epilogue": (form(field(b"v")) + b"\r\n--xYzZY\r\nnot read", [N]),
    "line ends in the content": (
        form(field(b"\r\n\n\r\r\r\n")),
        [Part("n", None, None, b"\r\n\n\r\r\r\n")],
    ),
    "the boundary within a line": (
        form(field(b"x--xYzZY\r\n")),
        [Part("n", None, None, b"x--xYzZY\r\n")],
    ),
    "almost the boundary": (
        form(field(b"\r\n--xYzZ\r\n-\n--xYz\r--\r\n--xYzZ")),
        [Part("n", None, None, b"\r\n--xYzZ\r\n-\n--xYz\r--\r\n--xYzZ")],
    ),
    "almost the boundary at a part's begin": (
        form(field(b"--xYzZ"), field(b"v")),
        [Part("n", None, None, b"--xYzZ"), N],
    ),
    "names of headers have no case": (
        form(b'CONTENT-disposition:Form-Data ; NAME = "n"'.replace(b" = ", b"=") + b"\r\n\r\nv"),
        [N],
    ),
    "a token instead of quotes": (
        form(field(b"v", b"Content-Disposition: form-data; filename=a.b; name=n")),
        [Part("n", "a.b", None, b"v")],
    ),
    "an empty name of a file": (
        form(field(b"", HEAD + b'; filename=""')),
        [Part("n", "", None, b"")],
    ),
    "percent as browsers write it": (
        form(field(b"v", HEAD + b'; filename="%22a%0D%0A%2F%22"')),
        [Part("n", '"a\r\n%2F"', None, b"v")],
    ),
    "backslashes": (
        form(field(b"v", HEAD + rb'; filename="C:\a\\b\".wav"')),
        [Part("n", r"C:\a\b" + '".wav', None, b"v")],
    ),
    "UTF-8": (
        form(field(b"v", HEAD + '; filename="ö€.wav"'.encode())),
        [Part("n", "ö€.wav", None, b"v")],
    ),
    "filename* does not count": (
        form(
            field(b"v", HEAD + b"; filename*=UTF-8''b.wav"),
            field(b"v", HEAD + b"; filename=a; filename*=UTF-8''b"),
        ),
        [N, Part("n", "a", None, b"v")],
    ),
    "a semicolon and an equals sign in quotes": (
        form(field(b"v", HEAD + b"; filename=\"a; name='b'\"")),
        [Part("n", "a; name='b'", None, b"v")],
    ),
    "a semicolon at the end": (form(field(b"v", HEAD + b" ;")), [N]),
    "encodings that are none": (
        form(
            field(b"v", HEAD + b"\r\nContent-Transfer-Encoding: 8BIT"),
            field(b"v", HEAD + b"\r\nContent-Transfer-Encoding: binary "),
        ),
        [N, N],
    ),
    "other headers": (form(field(b"v", b"X-Y:\r\n" + HEAD + b"\r\nContent-ID: <1>")), [N]),
    "a length that is right": (form(field(b"v", HEAD + b"\r\nContent-Length: 1")), [N]),
    "many parts": (form(*[field(b"v")] * MAX_PARTS), [N] * MAX_PARTS),
    "a long head": (
        form(field(b"v", HEAD + b"\r\nx: " + b" " * (MAX_HEAD_BYTES - len(HEAD) - 5))),
        [N],
    ),
    "a long preamble": (b"x" * MAX_HEAD_BYTES + b"\r\n" + form(field(b"v")), [N]),
}

# The case's bytes, and a word of the sentence.
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "boundary"),
    "no boundary": (b"file=x", "Content-Type names"),
    "another boundary": (form(field(b"v")).replace(b"xYzZY", b"xYzZZ"), "Content-Type names"),
    "a head of another case": (form(field(b"v")).replace(b"xYz", b"XYZ"), "Content-Type names"),
    "a preamble over the limit": (
        b"x" * (MAX_HEAD_BYTES + 1) + b"\r\n" + form(field(b"v")),
        "begin with the boundary",
    ),
    "no closing boundary": (form(field(b"v"), end=b""), "closing boundary"),
    "half a closing boundary": (form(field(b"v"), end=b"--xYzZY-"), "closing boundary"),
    "the end within a part": (form(field(b"v"))[:-12], "closing boundary"),
    "the end within the first head": (b"--xYzZY\r\n" + HEAD, "closing boundary"),
    "more on the boundary's line": (form(field(b"a\r\n--xYzZYz\r\nb")), "follows a boundary"),
    "more on the closing boundary's line": (form(field(b"v"), end=b"--xYzZY--x"), "follows"),
    "half a closing boundary and a line end": (
        form(field(b"v"), end=b"--xYzZY-\r\n"),
        "follows a boundary",
    ),
    "a CR alone at the end": (form(field(b"v"), end=b"--xYzZY--\r"), "closing boundary"),
    "LF alone everywhere": (form(field(b"v")).replace(b"\r\n", b"\n"), "follows a boundary"),
    "LF alone behind a boundary": (form(field(b"a\r\n--xYzZY\n" + HEAD)), "follows a boundary"),
    "LF alone before a boundary": (form(field(b"a\n--xYzZY\r\nb")), "does not end with CRLF"),
    "CR alone before a boundary": (form(field(b"a\r--xYzZY\r\nb")), "does not end with CRLF"),
    "LF alone before the first boundary": (b"\n" + form(field(b"v")), "does not end with CRLF"),
    "LF CR before a boundary": (form(field(b"a\n\r--xYzZY\r\nb")), "does not end with CRLF"),
    "LF alone at a part's begin": (form(field(b"\n--xYzZY\r\n")), "does not end with CRLF"),
    "LF alone in a head": (form(field(b"v", HEAD + b"\nx: y")), "header line"),
    "CR alone in a head": (form(field(b"v", HEAD + b"\rx: y")), "header line"),
    "NUL in a head": (form(field(b"v", HEAD + b"\r\nx: \0")), "header line"),
    "a folded header": (form(field(b"v", HEAD + b';\r\n filename="x"')), "header line"),
    "a line without a colon": (form(field(b"v", HEAD + b"\r\nx")), "header line"),
    "a blank before the colon": (form(field(b"v", HEAD.replace(b":", b" :"))), "header line"),
    "no headers": (form(b"\r\nv"), "no headers"),
    "no disposition": (form(field(b"v", b"Content-Type: text/plain")), "Content-Disposition"),
    "two dispositions": (form(field(b"v", HEAD + b"\r\n" + HEAD)), "twice"),
    "two types": (form(field(b"v", HEAD + b"\r\nContent-Type: a/b" * 2)), "twice"),
    "another disposition": (
        form(field(b"v", HEAD.replace(b"form-data", b"attachment"))),
        "Content-Disposition",
    ),
    "no name": (form(field(b"v", b"Content-Disposition: form-data")), "Content-Disposition"),
    "name* alone": (
        form(field(b"v", b"Content-Disposition: form-data; name*=UTF-8''n")),
        "Content-Disposition",
    ),
    "two names": (form(field(b"v", HEAD + b"; name=m")), "Content-Disposition"),
    "a quote too many": (form(field(b"v", HEAD + b'"')), "Content-Disposition"),
    "a quote too few": (form(field(b"v", HEAD[:-1])), "Content-Disposition"),
    "a quote that may be escaped or not": (
        form(field(b"v", rb'Content-Disposition: form-data; name="a\"; filename="b"')),
        "Content-Disposition",
    ),
    "base64": (
        form(field(b"v", HEAD + b"\r\nContent-Transfer-Encoding: base64")),
        "Content-Transfer-Encoding",
    ),
    "Latin-1": (form(field(b"v", HEAD + b'; filename="\xf6"')), "UTF-8"),
    "a length that is wrong": (form(field(b"v", HEAD + b"\r\nContent-Length: 2")), "as long as"),
    "a length that is none": (form(field(b"v", HEAD + b"\r\nContent-Length: +1")), "no number"),
    "a boundary where content begins": (b"--xYzZY\r\n" + HEAD + b"\r\n\r\n" + form(), "no line"),
    "a boundary among headers": (
        form(field(b"v", HEAD + b"\r\n--xYzZY: x")),
        "among the headers",
    ),
    "too many parts": (form(*[field(b"v")] * (MAX_PARTS + 1)), f"more than {MAX_PARTS} parts"),
    "a head over the limit": (
        form(field(b"v", HEAD + b"\r\nx: " + b" " * (MAX_HEAD_BYTES - len(HEAD) - 4))),
        "headers of more than",
    ),
    "a head without an end": (b"--xYzZY\r\n" + HEAD + b"x" * 20_000, "headers of more than"),
}


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


@settings(max_examples=100, deadline=None)
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


@settings(max_examples=200, deadline=None)
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


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=100, deadline=None)
@given(st.text("multipar/form-data; boundary=\"\\\r\n'ö", max_size=40))
def test_any_content_type_has_a_boundary_or_is_refused(text: str) -> None:
    for content_type in (text, "multipart/form-data; boundary=" + text):
        with suppress(InvalidMultipart):
            assert 1 <= len(boundary_of(content_type)) <= 70
