"""An inventory as Ansible has it: groups of hosts and groups, and variables of both.

Where a host has the same variable from several places, its own goes before its groups', a group's
before its parents', and of two groups as deep as each other the one that comes later in the
alphabet wins, unless `ansible_group_priority` says otherwise (Ansible's documentation, "How
variables are merged"). Pure: filled by ini.py and ansible.py, read by specs.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

ALL: Final = "all"
UNGROUPED: Final = "ungrouped"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something is written: a file, and its line where that is known."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's value, as Ansible's literals have it, and where it was set."""

    value: object
    origin: Origin


Variables = Mapping[str, Variable]


@dataclass(slots=True)
class Group:
    """A group: its own hosts and child groups, in the order in which they were written."""

    name: str
    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    priority: int = 1


class RecursiveGroup(Exception):
    """A group would be its own child."""


class Inventory:
    """Groups and hosts, by name; "all" and "ungrouped" are always there.

    Attributes:
        groups: by name.
        hosts: each host's own variables, by the host's name.

    It is filled, then settled once, and read after that.
    """

    def __init__(self) -> None:
        self.groups = {ALL: Group(ALL), UNGROUPED: Group(UNGROUPED)}
        self.hosts: dict[str, dict[str, Variable]] = {}
        self._groups_of: dict[str, tuple[Group, ...]] = {}
        self.add_child(ALL, UNGROUPED)

    # --- Filling it -----------------------------------------------------------------------------

    def add_group(self, name: str) -> Group:
        """The group of that name, made if there is none."""
        return self.groups.setdefault(name, Group(name))

    def add_child(self, parent: str, child: str) -> None:
        """One group into another.

        Raises:
            RecursiveGroup
        """
        if child == parent or parent in self.descendants(child):
            raise RecursiveGroup(f"{child} cannot be in {parent}: it would be within itself")
        self.groups[parent].children.setdefault(child)

    def add_host(self, name: str, group: str) -> dict[str, Variable]:
        """A host into a group; its variables."""
        self.groups[group].hosts.setdefault(name)
        return self.hosts.setdefault(name, {})

    def settle(self) -> None:
        """Once all is read: what has no parent is in "all", who is in no group is ungrouped."""
        children = {child for group in self.groups.values() for child in group.children}
        for name in self.groups:
            if name != ALL and name not in children:
                self.add_child(ALL, name)
        lineages = self._lineages()
        written = self._written_in()
        ungrouped = self.groups[UNGROUPED].hosts
        for host in list(self.hosts):
            if {name for each in written[host] for name in lineages[each]} <= {ALL, UNGROUPED}:
                ungrouped.setdefault(host)
                continue
            ungrouped.pop(host, None)
            if written[host] == {UNGROUPED}:
                # As Ansible has it, who is in a group as being in none, is nowhere.
                del self.hosts[host]
        self._rank(lineages)

    def limit(self, hosts: set[str]) -> None:
        """Leaves `hosts`, and the groups that they are in."""
        self.hosts = {name: own for name, own in self.hosts.items() if name in hosts}
        for group in self.groups.values():
            group.hosts = {name: None for name in group.hosts if name in hosts}

    # --- Reading it -----------------------------------------------------------------------------

    def descendants(self, name: str) -> Iterator[str]:
        """The groups within a group, itself not; each once."""
        seen = {name}
        below = [name]
        for each in below:
            new = [child for child in self.groups[each].children if child not in seen]
            below += new
            seen.update(new)
        yield from below[1:]

    def hosts_of(self, name: str) -> list[str]:
        """The hosts in a group and in those within it, its own first."""
        within = (self.groups[each].hosts for each in (name, *self.descendants(name)))
        return list(dict.fromkeys(host for hosts in within for host in hosts))

    def groups_of(self, host: str) -> tuple[Group, ...]:
        """The groups that a host is in, itself or by a child: those first whose variables yield."""
        return self._groups_of[host]

    def variables_of(self, host: str) -> dict[str, Variable]:
        """A host's variables, its groups' included."""
        merged: dict[str, Variable] = {}
        for group in self.groups_of(host):
            merged |= group.variables
        return merged | self.hosts[host]

    # --- Settling it: each once, as there may be many hosts in many groups -----------------------

    def _lineages(self) -> dict[str, set[str]]:
        """Each group, and those that it is within."""
        lineages = {name: {name, ALL} for name in self.groups}
        for name in self.groups:
            for below in self.descendants(name):
                lineages[below].add(name)
        return lineages

    def _written_in(self) -> dict[str, set[str]]:
        """Each host, and the groups that it is in by itself."""
        written: dict[str, set[str]] = {host: set() for host in self.hosts}
        for group in self.groups.values():
            for host in group.hosts:
                written[host].add(group.name)
        return written

    def _rank(self, lineages: dict[str, set[str]]) -> None:
        depths = self._depths()
        by_rank = sorted(
            self.groups.values(), key=lambda each: (depths[each.name], each.priority, each.name)
        )
        # Most hosts are in the same groups as others.
        ranked: dict[frozenset[str], tuple[Group, ...]] = {}
        for host, names in self._written_in().items():
            same = frozenset(names)
            if same not in ranked:
                within = {name for each in same for name in lineages[each]}
                ranked[same] = tuple(group for group in by_rank if group.name in within)
            self._groups_of[host] = ranked[same]

    def _depths(self) -> dict[str, int]:
        """How far each group is from "all", by the longest way."""
        depths = dict.fromkeys(self.groups, 0)
        # No way is longer than there are groups, as none is within itself.
        changed = [ALL]
        while changed:
            name = changed.pop()
            for child in self.groups[name].children:
                if depths[child] < depths[name] + 1:
                    depths[child] = depths[name] + 1
                    changed.append(child)
        return depths
