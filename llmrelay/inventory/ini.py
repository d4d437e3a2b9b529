"""Ansible's INI format -> an Inventory.

Sections are `[group]`, `[group:children]` and `[group:vars]`; hosts above the first section are in
no group. On a host's line words are a shell's, with quotes and `#` comments; on a variable's line
everything behind `=` is the value. Both are read as Python literals where they are any (Ansible's
documentation, "How to build your inventory"). Pure: text in, an Inventory or a reason out.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings

from .hosts import MAX_HOSTS, expand
from .model import UNGROUPED, Inventory, Origin, RecursiveGroup, Variable

_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?")
_GROUP_NAME = re.compile(r"([^:\]\s]+)\s*(?:#.*)?")
_PRIORITY = "ansible_group_priority"


class InvalidInventory(Exception):
    """The text is no inventory; says where and why."""


class _Wrong(Exception):
    """What is wrong with the line that is being read."""


def parse(text: str, file: str) -> Inventory:
    """The inventory that `text` describes.

    Args:
        file: its name, for errors and origins.

    Raises:
        InvalidInventory
    """
    reader = _Reader(file)
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        try:
            reader.read(line.strip(), number)
        except (_Wrong, RecursiveGroup, ValueError) as error:
            raise InvalidInventory(f"{file}:{number}: {error}.") from error
    reader.finish()
    return reader.inventory


class _Reader:
    """The section that is being read, and what was promised of later ones."""

    def __init__(self, file: str) -> None:
        self.inventory = Inventory()
        self._file = file
        self._group = UNGROUPED
        self._kind: str | None = None
        # Groups that were named before their section has come: where, and as what.
        self._promised: dict[str, tuple[Origin, str]] = {}
        # parent, child: added when all groups are known.
        self._families: list[tuple[str, str, Origin]] = []

    def read(self, line: str, number: int) -> None:
        if not line or line[0] in ";#":
            return
        origin = Origin(self._file, number)
        if section := _SECTION.fullmatch(line):
            self._begin_section(section[1], section[2], origin)
        elif line.startswith("[") and line.endswith("]"):
            raise _Wrong("the section's name is no group, group:children or group:vars")
        elif self._kind == "children":
            self._read_child(line, origin)
        elif self._kind == "vars":
            self._read_variable(line, origin)
        else:
            self._read_host(line, origin)

    def finish(self) -> None:
        """After the last line.

        Raises:
            InvalidInventory: a group is used that is nowhere described.
        """
        for name, (origin, what) in self._promised.items():
            raise InvalidInventory(f"{origin}: {what} of {name!r}, and there is no such group.")
        try:
            self.inventory.settle()
        except RecursiveGroup as error:
            raise InvalidInventory(f"{self._file}: {error}.") from error

    def _begin_section(self, name: str, kind: str | None, origin: Origin) -> None:
        if kind not in (None, "children", "vars", "hosts"):
            raise _Wrong(f"there are no sections [{name}:{kind}], but [{name}:children] and :vars")
        self._group, self._kind = name, kind
        if name not in self.inventory.groups and kind == "vars":
            self._promised.setdefault(name, (origin, "variables"))
            self.inventory.add_group(name)
        elif kind != "vars":
            self._promised.pop(name, None)
            self.inventory.add_group(name)

    def _read_child(self, line: str, origin: Origin) -> None:
        match = _GROUP_NAME.fullmatch(line)
        if match is None:
            raise _Wrong(f"{line!r} is no name of a group")
        if match[1] not in self.inventory.groups:
            self._promised[match[1]] = (origin, "a child")
            self.inventory.add_group(match[1])
        self.inventory.add_child(self._group, match[1])

    def _read_variable(self, line: str, origin: Origin) -> None:
        name, equals, value = line.partition("=")
        if not equals:
            raise _Wrong(f"{line!r} is no NAME=VALUE")
        name = name.strip()
        group = self.inventory.groups[self._group]
        if name == _PRIORITY:
            priority = literal(value.strip())
            if not isinstance(priority, (str, int, float)):
                raise _Wrong(f"{value!r} is no number")
            group.priority = int(priority)
            return
        group.variables[name] = Variable(literal(value.strip()), origin)

    def _read_host(self, line: str, origin: Origin) -> None:
        words = shlex.split(line, comments=True)
        if words[0].endswith(":") or words[0] == "---":
            raise _Wrong(f"{words[0]!r} is no host (is this YAML? name the file .yml then)")
        names, port = expand(words[0])
        given: dict[str, Variable] = {}
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if not equals:
                raise _Wrong(f"{word!r} behind a host is no NAME=VALUE")
            given[name] = Variable(literal(value), origin)
        for name in names:
            new = name not in self.inventory.hosts
            variables = self.inventory.add_host(name, self._group)
            if port and new:
                variables["ansible_port"] = Variable(port, origin)
            variables |= given
        if len(self.inventory.hosts) > MAX_HOSTS:
            raise _Wrong(f"with these there are more than {MAX_HOSTS} hosts")


def literal(text: str) -> object:
    """What a value means: a Python literal where it is one, else the text as it stands."""
    try:
        with warnings.catch_warnings():
            # About what looks like bad Python, which it is not meant to be.
            warnings.simplefilter("ignore")
            return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _plain(value: object) -> object:
    """A literal of the types that JSON has; what it has not is text, as Ansible shows it."""
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, complex):
        return str(value)
    return "..." if value is ... else value
