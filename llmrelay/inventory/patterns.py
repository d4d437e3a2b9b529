"""--limit: which hosts of an inventory an Ansible host pattern selects.

Parts are divided by `,` or `:`; one that begins with `!` takes hosts away, one with `&` leaves only
what is in it, too, whatever their order. A part is a group, a host, a glob of either, a regular
expression behind `~`, or a file of parts behind `@`; `[0]` and `[1:3]` behind it choose from what
it selects (Ansible's documentation, "Patterns: targeting hosts and groups"). Pure but for `@`
files.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

from .hosts import is_address
from .model import ALL, Inventory

_SUBSCRIPT = re.compile(r"(.+)\[(?:(-?[0-9]+)|([0-9]+)([:-])([0-9]*))\]")
# `:` divides, but not within [1:3], and not in an IPv6 address.
_PART = re.compile(r"(?:[^\s:\[\]]|\[[^\]]*\])+")


def select(pattern: str, inventory: Inventory) -> set[str]:
    """The hosts that a pattern selects.

    Raises:
        ValueError: a file or a regular expression in it cannot be read, or a part is empty.
    """
    parts = [part for each in _divided(pattern) for part in _with_files(each)]
    for part in parts:
        if part in ("!", "&"):
            raise ValueError(f"there is no host or group behind {part}")
    plain = [part for part in parts if part[0] not in "!&"]
    hosts = {host for part in plain or [ALL] for host in _selected(part, inventory)}
    for part in parts:
        if part[0] == "&":
            hosts &= set(_selected(part[1:], inventory))
    for part in parts:
        if part[0] == "!":
            hosts -= set(_selected(part[1:], inventory))
    return hosts


def unmatched(pattern: str, inventory: Inventory) -> list[str]:
    """The parts of a pattern that select nothing, and may be slips of the pen.

    Raises:
        ValueError: as select.
    """
    parts = [part for each in _divided(pattern) for part in _with_files(each)]
    return [part for part in parts if not _selected(part.lstrip("!&"), inventory)]


def files(pattern: str) -> list[Path]:
    """Those that a pattern has behind `@`."""
    return [Path(part[1:]).expanduser() for part in _divided(pattern) if part.startswith("@")]


def _divided(pattern: str) -> list[str]:
    if "," in pattern:
        parts = [part.strip() for part in pattern.split(",")]
    elif "[" not in pattern and is_address(pattern):
        parts = [pattern.strip()]
    else:
        parts = _PART.findall(pattern)
    return [part for part in parts if part]


def _with_files(part: str) -> list[str]:
    if not part.startswith("@"):
        return [part]
    try:
        lines = Path(part[1:]).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{part[1:]} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _selected(part: str, inventory: Inventory) -> list[str]:
    """What one part selects; a host is there as often as it is found, which subscripts count."""
    name, choose = _subscripted(part)
    fits = _fits(name)
    groups = [group for group in inventory.groups if fits(group)]
    chosen = [host for group in groups for host in inventory.hosts_of(group)]
    # A glob may mean groups and hosts; a plain name that is a group's means the group.
    if not chosen or re.search(r"[.?*\[]", name) or name.startswith("~"):
        chosen += [host for host in inventory.hosts if fits(host)]
    return choose(chosen) if chosen else []


def _subscripted(part: str) -> tuple[str, Callable[[list[str]], list[str]]]:
    match = None if part.startswith("~") else _SUBSCRIPT.fullmatch(part)
    if match is None:
        return part, lambda hosts: hosts
    if match[2] is not None:
        return match[1], lambda hosts: [_at(hosts, int(match[2]), part)]
    begin, end = int(match[3]), int(match[5]) if match[5] else None
    return match[1], lambda hosts: hosts[begin : None if end is None else end + 1]


def _at(hosts: list[str], index: int, part: str) -> str:
    try:
        return hosts[index]
    except IndexError:
        raise ValueError(f"{part} is beyond the {len(hosts)} hosts that there are") from None


def _fits(name: str) -> Callable[[str], bool]:
    if name.startswith("~"):
        try:
            expression = re.compile(name[1:])
        except re.error as error:
            raise ValueError(f"{name[1:]!r} is no regular expression: {error}") from error
        return lambda each: expression.match(each) is not None
    expression = re.compile(fnmatch.translate(name))
    return lambda each: expression.match(each) is not None
