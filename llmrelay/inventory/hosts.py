"""How hosts are named in an inventory: `name`, `name:port`, and ranges of them.

`gpu[01:16]` is sixteen hosts, `db-[a:f]` six, `[1:10:2]` every second one; several ranges in a name
are all combinations. Pure.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Iterator

# An inventory of more is a slip of the pen: `gpu[01:1000000]`.
MAX_HOSTS = 100_000
# Nobody needs more in one name, and they are expanded one within the other.
MAX_RANGES = 64

_RANGE = r"\[(?:[0-9]*:[0-9]+(?::[0-9]+)?|[a-z]:[a-z](?::[0-9]+)?|[A-Z]:[A-Z](?::[0-9]+)?)\]"
_HOST_PORT = re.compile(rf"((?:[^:\[\]]|{_RANGE})*):([0-9]+)")
_BRACKETED_PORT = re.compile(r"\[(.+)\]:([0-9]+)")
_LABEL = rf"(?:[\w-]|{_RANGE})*"
_NAME = re.compile(rf"(?:[\w]|{_RANGE}){_LABEL}(?:\.(?:[\w]|{_RANGE}){_LABEL})*\.?")


def expand(pattern: str) -> tuple[list[str], int | None]:
    """The hosts that a pattern names, and the port behind it.

    Raises:
        ValueError: a range that is none, or too many hosts or ranges.
    """
    name, port = _split_port(pattern)
    if name.count("[") > MAX_RANGES:
        raise ValueError(f"a host's name has more than {MAX_RANGES} ranges")
    names: list[str] = []
    for each in _expand(name):
        if len(names) == MAX_HOSTS:
            raise ValueError(f"{pattern!r} names more than {MAX_HOSTS} hosts")
        names.append(each)
    return names, port


def is_address(text: str) -> bool:
    """Whether it is one host's name or address, which may have a port."""
    name, _ = _split_port(text)
    return bool(_NAME.fullmatch(name)) or _is_ipv6(name)


def _is_ipv6(text: str) -> bool:
    """Whether it is an IPv6 address without a zone, or would be with a digit for each range.

    `db:cafe` has the letters of one, and is two groups to --limit.
    """
    if "%" in text:
        return False
    try:
        ipaddress.IPv6Address(re.sub(_RANGE, "0", text))
    except ValueError:
        return False
    return True


def _split_port(pattern: str) -> tuple[str, int | None]:
    """What comes behind a colon is a port, if what is before it can be a host."""
    for form, host in ((_BRACKETED_PORT, None), (_HOST_PORT, _NAME)):
        match = form.fullmatch(pattern)
        if match and (host or _NAME).fullmatch(match[1]):
            return match[1], int(match[2])
        if match and host is None and _is_ipv6(match[1]):
            return match[1], int(match[2])
    return pattern, None


def _expand(name: str) -> Iterator[str]:
    if "[" not in name:
        yield name
        return
    head, _, rest = name.partition("[")
    inside, closed, tail = rest.partition("]")
    if not closed:
        raise ValueError(f"{name!r} has a [ without a ]")
    for each in _steps(inside):
        yield from _expand(head + each + tail)


def _steps(inside: str) -> Iterator[str]:
    """`begin:end` or `begin:end:step` -> each of them; zeros in front of begin are kept."""
    begin, *more = inside.split(":")
    if len(more) not in (1, 2):
        raise ValueError(f"[{inside}] is no range (write [begin:end] or [begin:end:step])")
    end, step_text = more[0], more[1] if len(more) == 2 else "1"
    if not end:
        raise ValueError(f"[{inside}] has no end")
    begin = begin or "0"
    width = len(begin) if begin.startswith("0") and len(begin) > 1 else 0
    if width and width != len(end):
        raise ValueError(f"[{inside}]: begin and end have to be equally long, as begin has a 0")
    if not step_text.isdigit() or int(step_text) == 0:
        raise ValueError(f"[{inside}]: the step is no number above 0")
    letters = string.ascii_letters
    if begin in letters and end in letters:
        first, last = letters.index(begin), letters.index(end)
        if first > last:
            raise ValueError(f"[{inside}] ends before it begins")
        yield from letters[first : last + 1 : int(step_text)]
        return
    if not (begin.isdigit() and end.isdigit()):
        raise ValueError(f"[{inside}] is neither from number to number nor from letter to letter")
    for number in range(int(begin), int(end) + 1, int(step_text)):
        yield str(number).zfill(width)
