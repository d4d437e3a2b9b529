"""What a request's head means: its lines to one Request, or the RelayError that refuses it.

Two parties that read one head differently are how requests are smuggled, so whatever the grammar
of RFC 9110 and 9112 does not allow is refused, never repaired. What is said twice (Host,
Content-Length) is refused even where both agree.

Pure functions over whole lines; knows no buffer, no socket and no clock. Used by http11.py, which
finds the lines, and by guard.py, which reads authorities as this file does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from ..errors import BadRequest, ExpectationFailed, NotImplementedHere, VersionNotSupported
from .events import Headers, Request
from .grammar import TOKEN

_TOKEN: Final = TOKEN.encode()
# RFC 9112, section 3: single spaces, nothing around them.
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
# RFC 9112, section 5: no white space before the colon, and no control but HTAB in the value.
_FIELD_LINE: Final = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
# A whole head of those two, up to its empty line: most come so, and are read at once.
_PLAIN_HEAD: Final = re.compile(
    rf"({TOKEN}) ([\x21-\x7e]+) HTTP/1\.([0-9])((?:\r\n{TOKEN}:[\t\x20-\x7e\x80-\xff]*)*)"
)
# RFC 9110, section 4.2.1 and RFC 3986, section 3.2.2: an address in brackets or a reg-name, and a
# port. Of what a reg-name may have, the comma is refused: two Hosts that were merged look so.
_AUTHORITY: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]"  # IPv6address
    r"|(\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]"  # IPvFuture
    r"|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+))"
    r"(?::(0*[0-9]{1,5})?)?"
)
# RFC 9112, section 3.2.1 and RFC 3986, sections 3.3 and 3.4; and what browsers leave raw, which is
# `[]^|` in a path, and in a query besides "`{}\" and a `%` that encodes nothing.
_PATH_AND_QUERY: Final = re.compile(
    r"((?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]^|]|%[0-9A-Fa-f]{2})*)*)"
    r"(?:\?([A-Za-z0-9\-._~!$&'()*+,;=:@\[\]^|`{}\\%/?]*))?"
)
_ABSOLUTE_FORM: Final = re.compile(r"(https?)://([^/?]*)(.*)", re.IGNORECASE)
# 19 digits hold every length that anyone can mean; the check comes before int() does any work.
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,19}")


# All values of each header, by its name in lower case.
Said = dict[str, list[str]]


class RequestLine(NamedTuple):
    """The three parts of a request line; `version` as in Request."""

    method: str
    target: str
    version: tuple[int, int]


def parse_request_line(line: bytes) -> RequestLine:
    """A line without its CRLF -> its parts.

    Raises:
        BadRequest: it is none (RFC 9112, section 3), HTTP/0.9's form included.
        VersionNotSupported: another major version, HTTP/2's preface included.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("The request line is not `METHOD target HTTP/1.1`.")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise VersionNotSupported("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    return RequestLine(method.decode(), target.decode(), (1, 0 if minor == b"0" else 1))


def parse_head(head: bytes) -> tuple[RequestLine, list[tuple[str, str]]] | None:
    """All lines of a head, without the empty one, in one pass -> what make_request needs.

    None if something is wrong: parse_request_line and parse_field_line, which say the same of lines
    in which nothing is, tell what.
    """
    match = _PLAIN_HEAD.fullmatch(head.decode("latin-1"))
    if match is None:
        return None
    method, target, minor, fields = match.groups()
    pairs = []
    for line in fields.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        pairs.append((name.lower(), value.strip(" \t")))
    return RequestLine(method, target, (1, 0 if minor == "0" else 1)), pairs


def parse_field_line(line: bytes) -> tuple[str, str]:
    """A header or trailer line without its CRLF -> lower-case name, value without outer blanks.

    Raises:
        BadRequest: it is none (RFC 9112, section 5), obs-fold included (section 5.2).
    """
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        if line[:1] in (b" ", b"\t"):
            raise BadRequest("A header line starts with a blank: folded headers are not read.")
        raise BadRequest("A header line is not `name: value`, or has a control character in it.")
    name, value = match.groups()
    return name.decode().lower(), value.strip(b" \t").decode("latin-1")


def make_request(line: RequestLine, fields: Iterable[tuple[str, str]]) -> Request:
    """A request line and its header fields -> the Request.

    Raises:
        BadRequest: framing, Host or target contradict themselves or the RFC.
        NotImplementedHere: CONNECT, TRACE, or a transfer coding other than chunked.
        ExpectationFailed: Expect asks for something else than 100-continue.
    """
    method, target, version = line
    headers = Headers(tuple(fields))
    said: Said = {}
    for name, value in headers.fields:
        said.setdefault(name, []).append(value)
    framing = _framing(said, version)
    host = _host(said, version)
    if method in ("CONNECT", "TRACE"):
        # A tunnel or an echo of the client's own headers: nothing here offers either.
        raise NotImplementedHere(f"{method} is not offered here.")
    scheme, authority, path, query = _split_target(method, target, host)
    options = _list(said, "connection")
    return Request(
        method=method,
        target=target,
        path=path,
        query=query,
        scheme=scheme,
        authority=authority,
        version=version,
        headers=headers,
        # RFC 9112, section 9.3: close wins; HTTP/1.0 has to ask.
        keep_alive="close" not in options and (version >= (1, 1) or "keep-alive" in options),
        expect_continue=_expects_continue(said, version) and framing not in (None, 0),
        framing=framing,
    )


@lru_cache(maxsize=64)  # a client names few hosts, again and again
def split_authority(text: str) -> tuple[str, int | None]:
    """`host[:port]` -> the host in lower case (IPv6 in its brackets) and the port, None if unsaid.

    Raises:
        ValueError: it is not `uri-host [":" port]` of RFC 9110, section 7.2.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError("not host[:port]")
    ipv6, name, port = match.groups()
    if ipv6 is not None:
        ipaddress.IPv6Address(ipv6)  # raises a ValueError
    if port and int(port) > 65535:
        raise ValueError("no TCP port")
    return (name or f"[{ipv6}]").lower(), int(port) if port else None


def _list(said: Said, name: str) -> list[str]:
    """The members of a list-valued field, in lower case, empty ones too (RFC 9110, 5.6.1)."""
    if name not in said:
        return []
    return [item.strip(" \t").lower() for value in said[name] for item in value.split(",")]


def _framing(said: Said, version: tuple[int, int]) -> int | Literal["chunked"] | None:
    """How the body's end is found (RFC 9112, section 6.3)."""
    lengths = said.get("content-length")
    codings = _list(said, "transfer-encoding")
    if codings:
        if lengths:
            raise BadRequest("Content-Length and Transfer-Encoding are both there; send one.")
        if version < (1, 1):
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding; send Content-Length.")
        # "If ... the chunked transfer coding is not the final encoding, ... the server MUST
        # respond with the 400". That comes before the 501 that an unknown coding SHOULD get.
        # An empty member, which lists of other fields may have, is refused here: those who read one
        # differently would disagree about the body.
        if codings[-1] != "chunked" or "" in codings or codings.count("chunked") > 1:
            raise BadRequest("Transfer-Encoding has to be `chunked`, once and last.")
        if len(codings) > 1:
            raise NotImplementedHere("Of all transfer codings, only `chunked` is read here.")
        return "chunked"
    if not lengths:
        return None
    if len(lengths) > 1 or not _CONTENT_LENGTH.fullmatch(lengths[0]):
        raise BadRequest("Content-Length has to be one decimal number.")
    return int(lengths[0])


def _host(said: Said, version: tuple[int, int]) -> str:
    """Host's value; empty only for HTTP/1.0 without one (RFC 9112, section 3.2)."""
    hosts = said.get("host", [])
    if not hosts and version < (1, 1):
        return ""
    if len(hosts) != 1:
        raise BadRequest("A request needs exactly one Host header.")
    return _checked_authority(hosts[0], "Host")


def _checked_authority(text: str, where: str) -> str:
    try:
        split_authority(text)
    except ValueError:
        raise BadRequest(f"{where} does not name a host as `host` or `host:port`.") from None
    return text


@lru_cache(maxsize=64)  # most requests are for the same few
def _split_target(method: str, target: str, host: str) -> tuple[str, str, str, str]:
    """A request target -> scheme, authority, path, query (RFC 9112, sections 3.2.1 to 3.2.4)."""
    if "#" in target:
        raise BadRequest("The request target has a fragment (`#`), which clients keep.")
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest("The request target `*` is for OPTIONS.")
        return "", host, "*", ""
    if target.startswith("/"):
        return "", host, *_split_path(target)
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise BadRequest("The request target is no path, `http://` URL or `*`.")
    # "the origin server MUST ignore the received Host header field (if any) and instead use the
    # host information of the request-target." User information in it is refused as malformed.
    scheme, authority, rest = absolute.groups()
    _checked_authority(authority, "The request target")
    path, query = _split_path(rest)
    if not path:
        path = "*" if method == "OPTIONS" and not rest else "/"
    return scheme.lower(), authority, path, query


def _split_path(text: str) -> tuple[str, str]:
    match = _PATH_AND_QUERY.fullmatch(text)
    if match is None:
        raise BadRequest("The request target has a character that has to be percent-encoded.")
    return match[1], match[2] or ""


def _expects_continue(said: Said, version: tuple[int, int]) -> bool:
    """Whether the client waits for "100 Continue" (RFC 9110, section 10.1.1)."""
    if version < (1, 1):  # "in an HTTP/1.0 request MUST ignore"
        return False
    if "expect" not in said:
        return False
    expected = set(_list(said, "expect")) - {""}
    if not expected <= {"100-continue"}:
        raise ExpectationFailed("Of all expectations, only 100-continue can be met.")
    return bool(expected)
