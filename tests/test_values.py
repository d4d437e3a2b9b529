"""Option values: text to value, or what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from llmrelay.values import (
    AllowedHost,
    HostAddress,
    ListenAddress,
    UnixAddress,
    count,
    duration,
    number,
    one_of,
    parse_allowed_host,
    parse_host,
    parse_listen,
    parse_origin,
    parse_trusted_proxy,
    parse_url,
    size,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host", HostAddress("host")),
        ("user@host", HostAddress("host", "user")),
        ("user@host:2222", HostAddress("host", "user", 2222)),
        ("a@b@host", HostAddress("host", "a@b")),
        ("[::1]:22", HostAddress("::1", None, 22)),
        ("u@[fe80::1%eth0]", HostAddress("fe80::1%eth0", "u")),
        ("2001:db8::1", HostAddress("2001:db8::1")),
        ("ssh://user@host:22/", HostAddress("host", "user", 22)),
    ],
)
def test_a_host_as_a_person_writes_it(text: str, address: HostAddress) -> None:
    assert parse_host(text) == address
    assert parse_host(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "@host", "user@", "host:", "host:0", "host:65536", "host:ssh", "host:+1"),
        *("[::1", "[::1]22", "-oProxyCommand=x", "ho st", "us er@host", "host\n"),
        # Full-width digits, which int() would take.
        "host:\uff12\uff12",
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ListenAddress("127.0.0.1", 0)),
        (":9000", ListenAddress("127.0.0.1", 9000)),
        ("localhost", ListenAddress("localhost", 8080)),
        ("[::1]:81", ListenAddress("::1", 81)),
        ("unix:./run/a", UnixAddress("run/a")),
        ("unix:~/a", UnixAddress(os.path.expanduser("~/a"))),
    ],
)
def test_an_address_to_listen_on(text: str, address: ListenAddress | UnixAddress) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["unix:", "unix:.", "unix:/", "unix:/run/", "unix:a\0b"])
def test_what_is_no_unix_socket_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no unix socket"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("app.example", AllowedHost("app.example")),
        ("App.Example.:8080", AllowedHost("app.example", 8080)),
        ("xn--bcher-kva.example", AllowedHost("xn--bcher-kva.example")),
        ("my_box", AllowedHost("my_box")),
        ("192.0.2.1:80", AllowedHost("192.0.2.1", 80)),
        ("[2001:DB8:0:0::1]:80", AllowedHost("2001:db8::1", 80)),
        ("2001:db8::1", AllowedHost("2001:db8::1")),
    ],
)
def test_a_name_that_requests_may_be_for(text: str, host: AllowedHost) -> None:
    assert parse_allowed_host(text) == host
    assert parse_allowed_host(str(host)) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "a b", "*", "*.example", "http://app.example", "app.example/", "a..b", ".a"),
        *("bücher.example", "a:0", "a:x", "[::1", "fe80::1%eth0", "user@host", "a" * 254, "a,b"),
    ],
)
def test_what_is_no_name_for_a_host_header_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_allowed_host(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::0001]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("*", "*"),
    ],
)
def test_an_origin_as_a_browser_writes_it(text: str, origin: str) -> None:
    assert parse_origin(text) == origin
    assert parse_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "app.example", "https://", "https:app.example", "://a", "1x://a", "**"),
        *(
            "https://a/",
            "https://a/path",
            "https://a?b",
            "https://u@a",
            "https://*.a",
            "http://a:0",
        ),
        *("https://a b", "https://bücher.example", "https://a,https://b", "https://a.", "file://"),
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_origin(text)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (size(1, 10**9), "65536", 65536),
        (size(1, 10**9), "64KiB", 65536),
        (size(1, 10**9), "8MiB", 8 * 1024 * 1024),
        (count(1, 5), "5", 5),
        (number(0, 1), "1e-1", 0.1),
        (duration(0, 9), "3", 3.0),
        (duration(0, 9), "3s", 3.0),
        (duration(0, 9), "1.5", 1.5),
        (duration(0, 9), ".25s", 0.25),
        (duration(0, 9), "500ms", 0.5),
        (duration(0, 90), "1.5m", 90.0),
        (duration(0, 3600), "1h", 3600.0),
        (one_of("a", "b"), "b", "b"),
        (parse_url, "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        (parse_trusted_proxy, "unix", "unix"),
        (parse_trusted_proxy, "10.1.2.3", ip_network("10.1.2.3/32")),
        (parse_trusted_proxy, "10.0.0.0/8", ip_network("10.0.0.0/8")),
        (parse_trusted_proxy, "2001:DB8:0::/32", ip_network("2001:db8::/32")),
    ],
)
def test_a_value_in_range(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (size(1, 100), "101"),
        (size(1, 100), "1KiB"),
        (size(1, 100), "8MB"),
        (size(1, 100), "-1"),
        (count(1, 5), "0"),
        (count(1, 5), "6"),
        (count(1, 5), "٣"),
        (number(0, 1), "1.01"),
        (number(0, 1), "nan"),
        (number(0, 1), "one"),
        (duration(1, 5), "0.9"),
        (duration(1, 5), "5001ms"),
        (duration(1, 5), "9" * 400),
        *((duration(0, 9), text) for text in ("", "s", "1 s", "-1", "+1", "1d", "1.", "inf", "1S")),
        (duration(0, 9), "٣s"),
        (one_of("a", "b"), "c"),
        *((parse_trusted_proxy, text) for text in ("", "host", "10.0.0.0/33", "10.0.0.1/8")),
        (parse_trusted_proxy, "::ffff:10.0.0.0/104"),
        (parse_url, "127.0.0.1:8000"),
        (parse_url, "ftp://host"),
        (parse_url, "http://"),
        (parse_url, "http://ho st"),
        (parse_url, "https://user:password@host/v1"),
    ],
)
def test_a_value_out_of_range_says_so(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
