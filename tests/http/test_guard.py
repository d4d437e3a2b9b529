from __future__ import annotations

import pytest

from llmrelay.errors import Forbidden, MisdirectedRequest
from llmrelay.http import guard
from llmrelay.http.events import Request

from .cases import get
from .parsing import parse


def _request(host: str, *fields: str, line: str = "GET / HTTP/1.1") -> Request:
    raw = get(
        line.encode(), *(f.encode() for f in fields), host=f"Host: {host}".encode() if host else b""
    )
    [message] = parse([raw]).messages
    return message.request


LOOPBACK = [
    "localhost", "LocalHost:8080", "localhost.", "app.localhost", "a.b.localhost:1", "127.0.0.1",
    "127.0.0.1:80", "127.255.0.9:8080", "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]",
]  # fmt: skip
ELSEWHERE = [
    "evil.example", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
    "128.0.0.1", "0.0.0.0", "127.1", "0x7f.0.0.1", "2130706433", "[::]", "[::2]", "192.168.0.1:80",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_on_loopback_a_loopback_name_passes(host: str) -> None:
    guard.check(_request(host), loopback=True)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_on_loopback_another_name_is_misdirected_and_elsewhere_it_passes(host: str) -> None:
    with pytest.raises(MisdirectedRequest):
        guard.check(_request(host), loopback=True)
    guard.check(_request(host), loopback=False)


def test_the_authority_of_absolute_form_counts_and_not_host() -> None:
    line = "GET http://evil.example/ HTTP/1.1"
    with pytest.raises(MisdirectedRequest):
        guard.check(_request("localhost", line=line), loopback=True)


def test_http_1_0_without_host_comes_from_no_browser_and_passes() -> None:
    guard.check(_request("", line="GET / HTTP/1.0"), loopback=True)
    with pytest.raises(Forbidden):
        guard.check(_request("", "Origin: http://a", line="GET / HTTP/1.0"), loopback=True)


SAME = [
    ("localhost:8080", "http://localhost:8080"),
    ("localhost:8080", "HTTP://LOCALHOST:8080"),
    ("a.example", "http://a.example"),
    ("a.example", "http://a.example:80"),
    ("a.example:80", "http://a.example"),
    ("a.example", "https://a.example"),
    ("a.example:443", "https://a.example"),
    ("[::1]:8080", "http://[::1]:8080"),
]
OTHER = [
    ("localhost:8080", "http://localhost:8081"),
    ("localhost:8080", "http://localhost"),
    ("localhost:8080", "http://127.0.0.1:8080"),
    ("a.example", "http://b.example"),
    ("a.example", "http://a.example.evil"),
    ("a.example", "http://a.example:81"),
    ("a.example:443", "http://a.example"),
    ("a.example", "null"),
    ("a.example", ""),
    ("a.example", "a.example"),
    ("a.example", "chrome-extension://a.example"),
    ("a.example", "http://a.example/"),
    ("a.example", "http://a.example, http://b.example"),
]


@pytest.mark.parametrize(("host", "origin"), SAME)
def test_a_page_of_the_same_origin_may_ask(host: str, origin: str) -> None:
    guard.check(_request(host, f"Origin: {origin}"), loopback=False)


@pytest.mark.parametrize(("host", "origin"), OTHER)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_may_not_ask(host: str, origin: str, method: str) -> None:
    request = _request(host, f"Origin: {origin}", line=f"{method} / HTTP/1.1")
    with pytest.raises(Forbidden):
        guard.check(request, loopback=False)


def test_one_good_origin_beside_a_bad_one_is_bad() -> None:
    with pytest.raises(Forbidden):
        guard.check(_request("a", "Origin: http://a", "Origin: http://b"), loopback=False)


@pytest.mark.parametrize(
    ("site", "may"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)],
)
def test_what_the_browser_says_of_the_page_decides_without_an_origin(site: str, may: bool) -> None:
    request = _request("localhost", f"Sec-Fetch-Site: {site}")
    if may:
        guard.check(request, loopback=True)
    else:
        with pytest.raises(Forbidden):
            guard.check(request, loopback=True)


def test_curl_sends_neither_and_passes() -> None:
    guard.check(_request("localhost:8080", "User-Agent: curl/8"), loopback=True)
