"""Streams of requests that are nearly right: a valid request in its grammar's pieces, then mutated.

A mutation is what smuggling is made of: a piece left out, doubled, moved or replaced by one that
belongs elsewhere, a byte that some parser takes for a blank or a line end. Most streams have few,
so that parsers get far enough to disagree; some start from the corpus.

Every choice comes from a Random, so that a seed names a stream, and Hypothesis (st.randoms) can
shrink one. Knows no parser; used by test_differential.py and scripts/fuzz.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from .corpus import SECOND, load

_METHODS: Final = [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"]
_TARGETS: Final = [b"/", b"/a/b?c=d", b"/%20", b"*", b"http://a/b?c", b"http://[::1]:80", b"//a"]
_VERSIONS: Final = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]
_HEADERS: Final = [
    (b"Connection", b"close"), (b"Connection", b"keep-alive"), (b"X", b""), (b"X-Y", b"a b\t;c"),
    (b"Cookie", b"a=b; c=d"), (b"Expect", b"100-continue"), (b"Accept", b"*/*"), (b"x", b"\xe4"),
    (b"Content-Type", b"text/plain"), (b"Trailer", b"X"), (b"TE", b"trailers"),
]  # fmt: skip
_TRAILERS: Final = [b"", b"", b"X: y\r\n", b"Content-Length: 3\r\n", b"Host: b\r\nX:\r\n"]
_EXTENSIONS: Final = [*[b""] * 12, b";a", b";a=b", b';a="b;\\"c"', b" ; a = b"]
# What stands in for a piece, or between two.
_FRAGMENTS: Final = [
    b"\r\n", b"\r", b"\n", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\n\n", b" ", b"  ", b"\t", b"\x0b",
    b"\x0c", b"\x00", b"\x7f", b"\x80", b"\xa0", b"\xff", b"\x1b", b":", b" :", b",", b";", b"=",
    b'"', b"#", b"?", b"\\", b"<", b"|", b"0", b"0x", b"+", b"-", b"_", b"3", b"03", b"3,3", b"ff",
    b"ffffffffffffffff", b"chunked", b"Chunked", b"chunked, chunked", b"gzip, chunked", b"identity",
    b"chunked;a=b", b"\x0bchunked", b"close", b"a, b", b"a:b", b"u@a", b"[::1", b"a:99999", b"get",
    b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.10", b"CONNECT",
    b"TRACE", b"Q-Z", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length:3\r\n",
    b"Content-Length : 3\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length: +3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked \r\n",
    b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer_Encoding: chunked\r\n", b"Host: a\r\n", b"Host: b\r\n", b"Host:\r\n",
    b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b" folded\r\n",
    b"\tfolded\r\n", b"X\r\n", b": x\r\n", b"X: a\rb\r\n", b"X: a\nb: c\r\n", b"abc",
    b"3\r\nabc\r\n",
    b"3\r\nabc", b"0\r\n\r\n", b"0\r\n", b"1;a\r\nb\r\n", b"1;\r\nb\r\n", b"1 \r\nb\r\n", b"1\nb\n",
    b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", SECOND, b"PRI * HTTP/2.0\r\n\r\n",
]  # fmt: skip
_CORPUS: Final = [case.raw for case in load("refused", "taken") if len(case.raw) < 2000]


def stream(random: Random) -> bytes:
    """One or two requests, mutated up to four times."""
    if random.random() < 0.2:
        raw = _change_bytes(random, random.choice(_CORPUS))
    else:
        pieces = _request(random)
        for _ in range(random.choice([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])):
            if pieces:
                random.choice(_MUTATIONS)(random, pieces)
        raw = b"".join(pieces)
    if random.random() < 0.1:
        raw = _change_bytes(random, raw)
    if random.random() < 0.6:
        raw += SECOND
    return raw


def _request(random: Random) -> list[bytes]:
    """A valid request in pieces."""
    version = random.choice(_VERSIONS)
    pieces = [random.choice(_METHODS), b" ", random.choice(_TARGETS), b" ", version, b"\r\n"]
    fields = [(b"Host", b"a:80")]
    fields += [random.choice(_HEADERS) for _ in range(random.choice([0, 0, 1, 2, 3]))]
    body = [b"abc", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"\r\n"][: random.choice([0, 1, 1, 2, 3])]
    framing = random.choice(["none", "length", "chunked"])
    tail: list[bytes] = []
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % sum(map(len, body))))
        tail = body
    elif framing == "chunked" and version != b"HTTP/1.0":
        fields.append((b"Transfer-Encoding", b"chunked"))
        for data in body:
            tail += [b"%x" % len(data), random.choice(_EXTENSIONS), b"\r\n", data, b"\r\n"]
        tail += [b"0", random.choice(_EXTENSIONS), b"\r\n", random.choice(_TRAILERS), b"\r\n"]
    random.shuffle(fields)
    for name, value in fields:
        pieces += [name, b":", b" ", value, b"\r\n"]
    return [*pieces, b"\r\n", *tail]


def _change_bytes(random: Random, raw: bytes) -> bytes:
    """A few bytes replaced, added or left out."""
    changed = bytearray(raw)
    for _ in range(random.choice([0, 1, 1, 2])):
        at = random.randrange(len(changed) + 1)
        new = random.choice([b"", random.choice(_FRAGMENTS), bytes([random.randrange(256)])])
        changed[at : at + random.choice([0, 1])] = new
    return bytes(changed)


def _drop(random: Random, pieces: list[bytes]) -> None:
    del pieces[random.randrange(len(pieces))]


def _double(random: Random, pieces: list[bytes]) -> None:
    at = random.randrange(len(pieces))
    pieces.insert(at, pieces[at])


def _swap(random: Random, pieces: list[bytes]) -> None:
    a, b = random.randrange(len(pieces)), random.randrange(len(pieces))
    pieces[a], pieces[b] = pieces[b], pieces[a]


def _replace(random: Random, pieces: list[bytes]) -> None:
    pieces[random.randrange(len(pieces))] = random.choice(_FRAGMENTS)


def _insert(random: Random, pieces: list[bytes]) -> None:
    pieces.insert(random.randrange(len(pieces) + 1), random.choice(_FRAGMENTS))


def _insert_inside(random: Random, pieces: list[bytes]) -> None:
    at = random.randrange(len(pieces))
    cut = random.randrange(len(pieces[at]) + 1)
    pieces[at] = pieces[at][:cut] + random.choice(_FRAGMENTS) + pieces[at][cut:]


def _change_case(random: Random, pieces: list[bytes]) -> None:
    at = random.randrange(len(pieces))
    pieces[at] = pieces[at].swapcase()


def _cut(random: Random, pieces: list[bytes]) -> None:
    del pieces[random.randrange(len(pieces)) :]


_MUTATIONS: Final[list[Callable[[Random, list[bytes]], None]]] = [
    _drop, _double, _swap, _replace, _replace, _insert, _insert, _insert_inside, _change_case, _cut,
]  # fmt: skip
