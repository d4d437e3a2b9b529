"""Option values: text to value, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmrelay.values import (
    HostAddress,
    ListenAddress,
    count,
    duration,
    number,
    one_of,
    parse_host,
    parse_listen,
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
    ],
)
def test_an_address_to_listen_on(text: str, address: ListenAddress) -> None:
    assert parse_listen(text) == address


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
