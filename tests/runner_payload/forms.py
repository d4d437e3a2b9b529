"""Forms that are read, forms that are refused, and how tests and the fuzzer read one."""

from __future__ import annotations

from dataclasses import dataclass

from runner_payload.multipart import (
    MAX_HEAD_BYTES,
    MAX_PARTS,
    InvalidMultipart,
    MultipartDecoder,
    PartBegun,
    PartData,
    PartEnded,
)

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
    "an epilogue": (form(field(b"v")) + b"\r\n--xYzZY\r\nnot\r--xYzZY\n--xYzZY", [N]),
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
    "lengths that are right": (
        form(*[field(b"v", HEAD + b"\r\nContent-Length: 1")] * 2, field(b"v")),
        [N, N, N],
    ),
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
    "a preamble over the limit and LF alone": (
        b"x" * (MAX_HEAD_BYTES + 1) + b"\n" + form(field(b"v")),
        "begin with the boundary",
    ),
    "a preamble within the limit and LF alone": (
        b"x" * MAX_HEAD_BYTES + b"\n" + form(field(b"v")),
        "does not end with CRLF",
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
