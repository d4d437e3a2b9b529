"""Requests that the parser has to refuse or to take, one per rule; test_http11.py runs them.

Each is run whole, byte by byte, and followed by a second request.
"""

from __future__ import annotations

from typing import NamedTuple

from llmrelay.errors import (
    BadRequest,
    ContentTooLarge,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    RelayError,
    UriTooLong,
    VersionNotSupported,
)

from .parsing import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS


class Refused(NamedTuple):
    rule: str
    error: type[RelayError]
    raw: bytes


class Taken(NamedTuple):
    rule: str
    raw: bytes
    expected: dict[str, object]
    body: bytes = b""


def get(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"Host: a") -> bytes:
    lines = [line, *([host] if host else []), *fields]
    return b"".join(one + b"\r\n" for one in lines) + b"\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(b"POST / HTTP/1.1", *fields) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def head_of(size: int) -> bytes:
    """A request whose head is `size` bytes long."""
    start = get()[:-2] + b"X: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


_LINES = [
    # RFC 9112, section 3
    ("two spaces in the request line", BadRequest, b"GET  / HTTP/1.1"),
    ("two spaces before the version", BadRequest, b"GET /  HTTP/1.1"),
    ("a tab in the request line", BadRequest, b"GET\t/ HTTP/1.1"),
    ("a blank before the method", BadRequest, b" GET / HTTP/1.1"),
    ("a blank after the version", BadRequest, b"GET / HTTP/1.1 "),
    ("a blank in the target", BadRequest, b"GET /a b HTTP/1.1"),
    ("a control in the target", BadRequest, b"GET /a\x01 HTTP/1.1"),
    ("NUL in the target", BadRequest, b"GET /\x00 HTTP/1.1"),
    ("a non-ASCII byte in the target", BadRequest, b"GET /\xc3\xa4 HTTP/1.1"),
    ("a fragment in the target", BadRequest, b"GET /a#b HTTP/1.1"),
    ("a target that is no path", BadRequest, b"GET a HTTP/1.1"),
    ("authority-form without CONNECT", BadRequest, b"GET a:80 HTTP/1.1"),
    ("another scheme", BadRequest, b"GET ftp://a/ HTTP/1.1"),
    ("asterisk-form without OPTIONS", BadRequest, b"GET * HTTP/1.1"),
    ("absolute-form without a host", BadRequest, b"GET http:///a HTTP/1.1"),
    ("absolute-form with user information", BadRequest, b"GET http://u@a/ HTTP/1.1"),
    ("absolute-form with a bad port", BadRequest, b"GET http://a:x/ HTTP/1.1"),
    ("no target", BadRequest, b"GET HTTP/1.1"),
    ("no version: HTTP/0.9", BadRequest, b"GET /"),
    ("a method that is no token", BadRequest, b"GE(T / HTTP/1.1"),
    ("bytes of TLS", BadRequest, b"\x16\x03\x01\x02\x00"),
    ("a lower-case version", BadRequest, b"GET / http/1.1"),
    ("a version with two digits", BadRequest, b"GET / HTTP/1.10"),
    ("a version without a minor", BadRequest, b"GET / HTTP/1"),
    ("a non-ASCII digit in the version", BadRequest, b"GET / HTTP/1.\xb9"),
    ("a CR in the request line", BadRequest, b"GET /\r HTTP/1.1"),
    ("HTTP/2.0", VersionNotSupported, b"GET / HTTP/2.0"),
    ("HTTP/0.9 by name", VersionNotSupported, b"GET / HTTP/0.9"),
    # RFC 9110, sections 9.3.6 and 9.3.8
    ("CONNECT", NotImplementedHere, b"CONNECT a:80 HTTP/1.1"),
    ("TRACE", NotImplementedHere, b"TRACE / HTTP/1.1"),
]

_FIELDS = [
    # RFC 9112, section 5
    ("a blank before the colon", BadRequest, b"X : y"),
    ("a tab before the colon", BadRequest, b"X\t: y"),
    ("a line without a colon", BadRequest, b"X"),
    ("an empty name", BadRequest, b": y"),
    ("a name that is no token", BadRequest, b"X(: y"),
    ("a non-ASCII name", BadRequest, b"X\xe4: y"),
    ("obs-fold", BadRequest, b"X: y\r\n z"),
    ("obs-fold with a tab", BadRequest, b"X: y\r\n\tz"),
    ("NUL in a value", BadRequest, b"X: a\x00b"),
    ("a control in a value", BadRequest, b"X: a\x0bb"),
    ("DEL in a value", BadRequest, b"X: a\x7fb"),
    ("NUL in a name", BadRequest, b"X\x00: a"),
    ("a bare CR in a value", BadRequest, b"X: a\rb"),
    ("two CRs", BadRequest, b"X: a\r"),
    ("a bare LF as line end", BadRequest, b"X: a\nY: b"),
    ("a bare LF as the empty line", BadRequest, b"X: a\r\n\nY: b"),
    # RFC 9112, section 6.3, and the request smuggling class
    ("Content-Length and chunked", BadRequest, b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
    ("chunked and Content-Length", BadRequest, b"Transfer-Encoding: chunked\r\nContent-Length: 3"),
    ("differing lengths", BadRequest, b"Content-Length: 3\r\nContent-Length: 4"),
    ("equal lengths", BadRequest, b"Content-Length: 3\r\nContent-Length: 3"),
    ("a list of lengths", BadRequest, b"Content-Length: 3, 3"),
    ("an empty length", BadRequest, b"Content-Length:"),
    ("a length with a plus", BadRequest, b"Content-Length: +3"),
    ("a length with a minus", BadRequest, b"Content-Length: -3"),
    ("a length with 0x", BadRequest, b"Content-Length: 0x3"),
    ("a length with _", BadRequest, b"Content-Length: 1_0"),
    ("a length with a blank", BadRequest, b"Content-Length: 1 0"),
    ("a length with a point", BadRequest, b"Content-Length: 3.0"),
    ("a length of Latin-1 digits", BadRequest, b"Content-Length: \xb3"),
    ("a length with a no-break space", BadRequest, b"Content-Length: \xa03"),
    ("a length past 64 bits", BadRequest, b"Content-Length: 100000000000000000000"),
    ("a length of 2000 digits", BadRequest, b"Content-Length: " + b"1" * 1900),
    ("chunked twice", BadRequest, b"Transfer-Encoding: chunked, chunked"),
    (
        "chunked in two lines",
        BadRequest,
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    ("chunked not last", BadRequest, b"Transfer-Encoding: chunked, gzip"),
    ("an unknown coding last", BadRequest, b"Transfer-Encoding: gzip"),
    ("identity", BadRequest, b"Transfer-Encoding: identity"),
    ("an almost chunked", BadRequest, b"Transfer-Encoding: xchunked"),
    ("chunked with a parameter", BadRequest, b"Transfer-Encoding: chunked;a=b"),
    ("chunked in quotes", BadRequest, b'Transfer-Encoding: "chunked"'),
    ("an empty coding", BadRequest, b"Transfer-Encoding:"),
    ("an empty member of codings", BadRequest, b"Transfer-Encoding: , chunked"),
    ("chunked after a no-break space", BadRequest, b"Transfer-Encoding: \xa0chunked"),
    ("a coding before chunked", NotImplementedHere, b"Transfer-Encoding: gzip, chunked"),
    # RFC 9110, section 10.1.1
    ("another expectation", ExpectationFailed, b"Expect: 200-ok"),
    ("another expectation beside", ExpectationFailed, b"Expect: 100-continue, x"),
]

_HOSTS = [
    # RFC 9112, section 3.2
    ("no Host", b""),
    ("two Hosts", b"Host: a\r\nHost: b"),
    ("the same Host twice", b"Host: a\r\nHost: a"),
    ("an empty Host", b"Host:"),
    ("a list in Host", b"Host: a, b"),
    ("a URL in Host", b"Host: http://a"),
    ("user information in Host", b"Host: u@a"),
    ("a path in Host", b"Host: a/b"),
    ("a query in Host", b"Host: a?b"),
    ("a backslash in Host", b"Host: a\\b"),
    ("a port alone in Host", b"Host: :80"),
    ("a port that is no number", b"Host: a:b"),
    ("a port with a sign", b"Host: a:+80"),
    ("a port out of range", b"Host: a:65536"),
    ("two ports", b"Host: a:80:80"),
    ("a bare IPv6 address", b"Host: ::1"),
    ("an unclosed bracket", b"Host: [::1"),
    ("no IPv6 address in brackets", b"Host: [1.2.3.4]"),
    ("a zone in brackets", b"Host: [fe80::1%eth0]"),
    ("something behind the bracket", b"Host: [::1]a"),
    ("a broken percent-encoding", b"Host: a%4"),
    ("a non-ASCII Host", b"Host: \xe4"),
]

_CHUNKS = [
    # RFC 9112, section 7.1
    ("an empty chunk size", b"\r\n"),
    ("a chunk size with a plus", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("a chunk size with a minus", b"-3\r\nabc\r\n0\r\n\r\n"),
    ("a chunk size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("a chunk size with _", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n"),
    ("a blank before a chunk size", b" 3\r\nabc\r\n0\r\n\r\n"),
    ("a blank after a chunk size", b"3 \r\nabc\r\n0\r\n\r\n"),
    ("no hexadecimal digit", b"g\r\n"),
    ("17 digits", b"00000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a chunk line with a bare LF", b"3\nabc\r\n0\r\n\r\n"),
    ("a chunk line with a bare CR", b"3\rabc\r\n0\r\n\r\n"),
    ("data longer than the size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("a bare LF behind the data", b"3\r\nabc\n0\r\n\r\n"),
    ("a CR alone behind the data", b"3\r\nabc\r0\r\n\r\n"),
    ("an empty extension", b"3;\r\nabc\r\n0\r\n\r\n"),
    ("a control in an extension", b"3;a\x01\r\nabc\r\n0\r\n\r\n"),
    ("NUL in a quoted extension", b'3;a="\x00"\r\nabc\r\n0\r\n\r\n'),
    ("an LF in a quoted extension", b'3;a="\n"\r\nabc\r\n0\r\n\r\n'),
    ("an open quoted extension", b'3;a="b\r\nabc\r\n0\r\n\r\n'),
    ("a blank at an extension's end", b"3;a \r\nabc\r\n0\r\n\r\n"),
    ("a chunk line over its limit", b"3;" + b"a" * 253 + b"\r\nabc\r\n0\r\n\r\n"),
    ("extensions over their limit", (b"1;" + b"a" * 200 + b"\r\na\r\n") * 90),
    ("a trailer that is no field", b"0\r\nX\r\n\r\n"),
    ("a trailer with a blank before the colon", b"0\r\nX : y\r\n\r\n"),
    ("a trailer with a bare LF", b"0\r\nX: y\n\r\n"),
]

_LONG_TARGET = MAX_HEAD_BYTES + 1 - len("GET / HTTP/1.1\r\n")

REFUSED = [
    *(Refused(rule, error, get(line)) for rule, error, line in _LINES),
    *(Refused(rule, error, get(b"GET / HTTP/1.1", line)) for rule, error, line in _FIELDS),
    *(Refused(rule, BadRequest, get(host=line)) for rule, line in _HOSTS),
    *(Refused(rule, BadRequest, chunked(body)) for rule, body in _CHUNKS),
    Refused("HTTP/2's preface", VersionNotSupported, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Refused("a folded first header", BadRequest, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    Refused("a bare LF in the request line", BadRequest, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    Refused("all line ends bare LF", BadRequest, b"GET / HTTP/1.1\nHost: a\n\n"),
    Refused("a bare LF before the request", BadRequest, b"\n" + get()),
    Refused("a CR before the request", BadRequest, b"\r" + get()),
    Refused("five empty lines before the request", BadRequest, b"\r\n" * 5 + get()),
    Refused(
        "chunked on HTTP/1.0",
        BadRequest,
        get(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    Refused("two Hosts on HTTP/1.0", BadRequest, get(b"GET / HTTP/1.0", b"Host: b")),
    Refused(
        "a missing Host in absolute-form", BadRequest, get(b"GET http://a/ HTTP/1.1", host=b"")
    ),
    Refused("a head one byte over", HeadTooLarge, head_of(MAX_HEAD_BYTES + 1)),
    Refused(
        "a target over the limit", UriTooLong, get(b"GET /%b HTTP/1.1" % (b"a" * _LONG_TARGET))
    ),
    Refused("one header too many", HeadTooLarge, get(b"GET / HTTP/1.1", *[b"X: y"] * MAX_HEADERS)),
    Refused("one trailer too many", HeadTooLarge, chunked(b"0\r\n" + b"X: y\r\n" * 11 + b"\r\n")),
    Refused("a trailer too long", HeadTooLarge, chunked(b"0\r\nX: " + b"y" * MAX_HEAD_BYTES)),
    Refused(
        "a length one over",
        ContentTooLarge,
        post(b"Content-Length: %d" % (MAX_BODY_BYTES + 1)) + b"a" * (MAX_BODY_BYTES + 1),
    ),
    Refused("a chunk one over", ContentTooLarge, chunked(b"%x\r\n" % (MAX_BODY_BYTES + 1))),
    Refused("a chunk of 64 bits", ContentTooLarge, chunked(b"ffffffffffffffff\r\n")),
    Refused(
        "chunks that are one over together",
        ContentTooLarge,
        chunked(b"%x\r\n%b\r\n1\r\na\r\n0\r\n\r\n" % (MAX_BODY_BYTES, b"a" * MAX_BODY_BYTES)),
    ),
]

TAKEN = [
    Taken(
        "a plain GET",
        get(b"GET /a/b?c=d&e HTTP/1.1"),
        {
            "method": "GET",
            "path": "/a/b",
            "query": "c=d&e",
            "version": (1, 1),
            "authority": "a",
            "framing": None,
            "keep_alive": True,
            "expect_continue": False,
        },
    ),
    Taken("an unknown method", get(b"Foo!-1 / HTTP/1.1"), {"method": "Foo!-1"}),
    Taken("four empty lines before", b"\r\n" * 4 + get(), {"path": "/"}),
    Taken("a higher minor version", get(b"GET / HTTP/1.2"), {"version": (1, 1)}),
    Taken(
        "HTTP/1.0 without Host",
        get(b"GET / HTTP/1.0", host=b""),
        {"version": (1, 0), "authority": "", "keep_alive": False},
    ),
    Taken(
        "keep-alive on HTTP/1.0",
        get(b"GET / HTTP/1.0", b"Connection: Keep-Alive"),
        {"keep_alive": True},
    ),
    Taken("close", get(b"GET / HTTP/1.1", b"Connection: x, Close"), {"keep_alive": False}),
    Taken(
        "close beside keep-alive",
        get(b"GET / HTTP/1.0", b"Connection: keep-alive, close"),
        {"keep_alive": False},
    ),
    Taken(
        "absolute-form",
        get(b"GET HTTP://b:81/c?d HTTP/1.1"),
        {"authority": "b:81", "path": "/c", "query": "d"},
    ),
    Taken(
        "absolute-form without a path",
        get(b"GET http://b?d HTTP/1.1"),
        {"authority": "b", "path": "/", "query": "d"},
    ),
    Taken("absolute-form for all of a server", get(b"OPTIONS http://b HTTP/1.1"), {"path": "*"}),
    Taken("asterisk-form", get(b"OPTIONS * HTTP/1.1"), {"path": "*", "target": "*"}),
    Taken("a path of slashes", get(b"GET //b/c HTTP/1.1"), {"path": "//b/c", "authority": "a"}),
    Taken(
        "what browsers leave raw",
        get(b"GET /?q={a|b}^[c]\\%zz HTTP/1.1"),
        {"query": "q={a|b}^[c]\\%zz"},
    ),
    Taken("IPv6 in Host", get(host=b"Host: [::1]:8080"), {"authority": "[::1]:8080"}),
    Taken("an empty port in Host", get(host=b"Host: a:"), {"authority": "a:"}),
    Taken("an underscore in Host", get(host=b"Host: a_b"), {"authority": "a_b"}),
    Taken("percent-encoding in Host", get(host=b"Host: a%41"), {"authority": "a%41"}),
    Taken("the highest port", get(host=b"Host: a:65535"), {"authority": "a:65535"}),
    Taken("a body by length", post(b"Content-Length: 3", body=b"abc"), {"framing": 3}, b"abc"),
    Taken("a length with zeros", post(b"Content-Length: 003", body=b"abc"), {"framing": 3}, b"abc"),
    Taken("an empty body", post(b"Content-Length: 0"), {"framing": 0}),
    Taken(
        "a body that looks like a request",
        post(b"Content-Length: %d" % len(get()), body=get()),
        {},
        get(),
    ),
    Taken("a body at the limit", post(b"Content-Length: 1000", body=b"a" * 1000), {}, b"a" * 1000),
    Taken("a GET with a body", get(b"GET / HTTP/1.1", b"Content-Length: 1") + b"a", {}, b"a"),
    Taken(
        "chunks",
        chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        {"framing": "chunked"},
        b"abc0123456789",
    ),
    Taken(
        "chunks at the limit",
        chunked(b"3e7\r\n%b\r\n1\r\nb\r\n00\r\n\r\n" % (b"a" * 999)),
        {},
        b"a" * 999 + b"b",
    ),
    Taken("16 digits", chunked(b"0000000000000003\r\nabc\r\n0\r\n\r\n"), {}, b"abc"),
    Taken("a chunk of CRLFs", chunked(b"4\r\n\r\n\r\n\r\n0\r\n\r\n"), {}, b"\r\n\r\n"),
    Taken(
        "Chunked in capitals",
        post(b"Transfer-Encoding:\t CHUNKED ", body=b"0\r\n\r\n"),
        {"framing": "chunked"},
    ),
    Taken(
        "extensions", chunked(b'3 ;a; b = "\\" ;\xe4\t"\t;c=d\r\nabc\r\n0;e\r\n\r\n'), {}, b"abc"
    ),
    Taken(
        "a chunk line at its limit", chunked(b"3;%b\r\nabc\r\n0\r\n\r\n" % (b"a" * 252)), {}, b"abc"
    ),
    Taken("trailers", chunked(b"0\r\nContent-Length: 9\r\nX: y\r\n\r\n"), {}),
    Taken("ten trailers", chunked(b"0\r\n%b\r\n" % (b"X: y\r\n" * 10)), {}),
    Taken(
        "an expectation",
        post(b"Expect: 100-Continue", b"Content-Length: 1", body=b"a"),
        {"expect_continue": True},
        b"a",
    ),
    Taken(
        "an expectation on HTTP/1.0",
        get(b"GET / HTTP/1.0", b"Expect: 100-continue"),
        {"expect_continue": False},
    ),
    Taken("a head at the limit", head_of(MAX_HEAD_BYTES), {}),
    Taken("as many headers as may be", get(b"GET / HTTP/1.1", *[b"X: y"] * (MAX_HEADERS - 1)), {}),
]
