"""What an option's value is: text -> value, or a ValueError that says what is wrong with it.

Pure. Used by config.py for the command line and by api/ for query parameters, so that the same text
means the same in both.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal

KIB = 1024
MIB = 1024 * KIB

# The peers on a Unix socket, which have no address.
UNIX: Final = "unix"
TrustedProxy = IPv4Network | IPv6Network | Literal["unix"]


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where an SSH server is: `[USER@]HOST[:PORT]`; what is not said is ssh_config's."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where clients connect: `HOST:PORT`, port 0 for one that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket where clients connect: `unix:PATH`."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Listen = ListenAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A name that requests may be for: `HOST`, at every port, or `HOST:PORT`.

    In lower case, without a final dot; an IPv6 address without its brackets, in its shortest form.
    """

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _split_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address -> host and port."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no [IPv6 address]:port")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, port_text = text.partition(":")
        port = port_text if colon else None
    if not host:
        raise ValueError(f"{text!r} names no host")
    return host, None if port is None else parse_port(port)


def parse_port(text: str) -> int:
    """A TCP port; 0 lets the kernel choose."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError(f"{text!r} is no port (0 to 65535)")
    return int(text)


def parse_host(text: str) -> HostAddress:
    """`[USER@]HOST[:PORT]`, also as `ssh://` URL."""
    user, at, rest = text.removeprefix("ssh://").rstrip("/").rpartition("@")
    if at and not user:
        raise ValueError(f"{text!r} has an empty user name")
    host, port = _split_port(rest)
    if host.startswith("-") or any(c.isspace() or not c.isprintable() for c in host + user):
        raise ValueError(f"{text!r} is no host")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 cannot be connected to")
    return HostAddress(host, user or None, port)


def parse_listen(text: str) -> Listen:
    """`HOST:PORT`, `HOST`, `:PORT` or `unix:PATH`."""
    if text.startswith("unix:"):
        name = text.removeprefix("unix:")
        path = parse_path(name)
        if not path.name or "\0" in name or name.endswith("/"):
            raise ValueError(f"{text!r} names no unix socket: write unix:/run/llmrelay.sock")
        return UnixAddress(str(path))
    if text.startswith(":"):
        return ListenAddress("127.0.0.1", parse_port(text[1:]))
    host, port = _split_port(text)
    return ListenAddress(host, 8080 if port is None else port)


def parse_path(text: str) -> Path:
    """A file; `~` and `~user` at its begin are the home of a user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} is in the home of a user that is not known") from None


def parse_mode(text: str) -> int:
    """Permissions of a file, octal: `600`, `0660`."""
    if not (1 <= len(text) <= 4 and set(text) <= set("01234567") and int(text, 8) <= 0o777):
        raise ValueError(f"{text!r} are no permissions (write 600 or 0660)")
    return int(text, 8)


# What a URL's host may be, as browsers send it: international names are in their xn-- form.
_DNS_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def parse_allowed_host(text: str) -> AllowedHost:
    """`HOST` or `HOST:PORT`: a name or an address, as a Host header has it."""
    if "/" in text:
        raise ValueError(f"{text!r} is more than a name (write app.example or app.example:8080)")
    host, port = _split_port(text)
    host = _checked_name(host.removesuffix("."), text)
    if port == 0:
        raise ValueError(f"{text!r}: there is no port 0 to connect to")
    return AllowedHost(host, port)


_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origin(text: str) -> str:
    """`SCHEME://HOST[:PORT]`, or `*` for every origin -> as browsers write it in Origin.

    That is in lower case and without a scheme's default port (HTML Standard, "serialization of an
    origin").
    """
    if text == "*":
        return text
    scheme, separator, rest = text.lower().partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ValueError(f"{text!r} is no origin (write https://app.example, or * for any)")
    if any(c in rest for c in "/?#@"):
        raise ValueError(f"{text!r} is more than an origin (write https://app.example)")
    host, port = _split_port(rest)
    address = AllowedHost(_checked_name(host, text), port)
    if port == 0:
        raise ValueError(f"{text!r}: there is no port 0 to connect to")
    if port == _DEFAULT_PORTS.get(scheme):
        address = AllowedHost(address.host)
    return f"{scheme}://{address}"


def _checked_name(host: str, text: str) -> str:
    """A DNS name or an address in its canonical form."""
    name = host.lower()
    if ":" in name and "%" not in name:  # no zone, which means nothing to the other side
        with contextlib.suppress(ValueError):
            return ipaddress.IPv6Address(name).compressed
    elif _DNS_NAME.fullmatch(name) and len(name) <= 253:
        return name
    raise ValueError(f"{text!r} names no host (international names go in their xn-- form)")


def parse_trusted_proxy(text: str) -> TrustedProxy:
    """An address, a network as `ADDRESS/BITS`, or `unix`."""
    if text == UNIX:
        return UNIX
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address, no ADDRESS/BITS and not unix") from None
    if wider.version == 6 and wider.network_address.ipv4_mapped:
        raise ValueError(f"{text!r} is IPv4 in IPv6's form; write it as IPv4")
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is an address within {wider}: write which one is meant"
        ) from None


def number(least: float, most: float) -> Callable[[str], float]:
    """A parser for a finite number from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number") from None
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"{text} is not from {least:g} to {most:g}")
        return value

    return parse


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h|)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def duration(least_s: float, most_s: float) -> Callable[[str], float]:
    """A parser for a time, in seconds: `30`, `30s`, `500ms`, `1.5m`, `1h`."""

    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no time (write 30s, 500ms, 2m or 1h)")
        value_s = float(match[1]) * _UNITS_S[match[2]]
        if not least_s <= value_s <= most_s:
            raise ValueError(f"{text} is not from {least_s:g}s to {most_s:g}s")
        return value_s

    return parse


def count(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser for a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise ValueError(f"{text!r} is no whole number")
        if not least <= int(text) <= most:
            raise ValueError(f"{text} is not from {least} to {most}")
        return int(text)

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """A parser for bytes: `8388608`, `8MiB`, `64KiB`."""
    in_bytes = count(least, most)

    def parse(text: str) -> int:
        for suffix, factor in (("KiB", KIB), ("MiB", MIB), ("", 1)):
            digits = text.removesuffix(suffix)
            if suffix and digits == text:
                continue
            if digits.isascii() and digits.isdigit():
                return in_bytes(str(int(digits) * factor))
        raise ValueError(f"{text!r} is no size in bytes (write 65536, 64KiB or 8MiB)")

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser for one word among `choices`."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def parse_model(text: str) -> str:
    """A model's name: anything printable, as upstreams are free in it."""
    if not text or len(text) > 256 or not text.isprintable():
        raise ValueError("a model name is 1 to 256 printable characters")
    return text


def parse_word(text: str) -> str:
    """A name of one part: of a voice, say."""
    if not 0 < len(text) <= 256 or not all("!" <= c <= "~" for c in text):
        raise ValueError("a name is 1 to 256 plain characters, and no blank among them")
    return text


def parse_api_path(text: str) -> str:
    """A path below /v1, with or without that before it; * for any one part."""
    path = text.removeprefix("/v1/").strip("/")
    if not re.fullmatch(r"[a-z0-9_.*-]+(/[a-z0-9_.*-]+)*", path) or ".." in path:
        raise ValueError(f"{text!r} is no path such as audio/speech or responses/*")
    return path


def parse_url(text: str) -> str:
    """An http or https URL with a host."""
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.strip("/"):
        raise ValueError(f"{text!r} is no http:// or https:// URL")
    if len(text) > 2048 or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a URL is at most 2048 printable characters, and no blank among them")
    # It is shown in errors, and the key has a header of its own.
    if "@" in rest.partition("/")[0]:
        raise ValueError("a URL with a user name in it cannot be used")
    return text
