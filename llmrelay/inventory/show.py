"""What was understood of an inventory, for people and for programs.

Pure: RunnerSpecs and groups in, text out. Never holds a key: what is shown is where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from ..runners.spec import HostSpec, KeySource, RunnerSpec
from .model import ALL, Inventory

# Each with what goes without saying; a column of nothing else is left out.
_COLUMNS = {
    "runner": None,
    "where": None,
    "groups": "-",
    "models": "*",
    "upstream": None,
    "weight": "1",
    "calls": None,
    "key": "of serve",
    "labels": "-",
}


def table(specs: Sequence[RunnerSpec]) -> str:
    """A line for each runner."""
    columns = list(zip(*map(_row, specs), strict=True))
    shown = [
        (name, *column)
        for (name, default), column in zip(_COLUMNS.items(), columns, strict=True)
        if set(column) != {default}
    ]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in shown]
    return "".join("  ".join(row).rstrip() + "\n" for row in zip(*padded, strict=True))


def as_json(specs: Iterable[RunnerSpec]) -> str:
    """A list of objects; their keys are there whatever an entry says."""
    return json.dumps([_object(spec) for spec in specs], indent=2, ensure_ascii=False) + "\n"


def graph(inventory: Inventory) -> str:
    """Groups, and in them groups and hosts, as `ansible-inventory --graph` prints them."""
    return "".join(f"{line}\n" for line in [f"@{ALL}:", *_branches(inventory, ALL, 1)])


def _branches(inventory: Inventory, name: str, depth: int) -> Iterator[str]:
    stem = "  |" * depth + "--"
    group = inventory.groups[name]
    for child in group.children:
        yield f"{stem}@{child}:"
        yield from _branches(inventory, child, depth + 1)
    if name != ALL:
        yield from (f"{stem}{host}" for host in group.hosts)


def _row(spec: RunnerSpec) -> tuple[str, ...]:
    served = [*spec.models, *(f"{asked}={name}" for asked, name in spec.model_map)]
    return (
        spec.name,
        where(spec.host),
        ",".join(sorted(spec.groups)) or "-",
        ",".join(served if spec.models else ["*", *served]),
        spec.host.base_url,
        f"{spec.weight:g}",
        str(spec.max_calls),
        _key(spec.host.key) or "of serve",
        ",".join(f"{name}={value}" for name, value in spec.labels) or "-",
    )


def where(host: HostSpec) -> str:
    """How a host is reached, in a few words."""
    if host.address is None:
        return "here"
    jump = dict(reversed(host.ssh_options)).get("ProxyJump")
    return str(host.address) if jump in (None, "none") else f"{host.address} via {jump}"


def _key(source: KeySource) -> str | None:
    if source.file is not None:
        return str(source.file)
    return None if source.variable is None else f"${source.variable}"


def _object(spec: RunnerSpec) -> dict[str, object]:
    host = spec.host
    address = host.address
    return {
        "name": spec.name,
        "connection": "local" if address is None else "ssh",
        "host": address and address.host,
        "port": address and address.port,
        "user": address and address.user,
        "identity": host.identity and str(host.identity),
        "ssh_options": [list(option) for option in host.ssh_options],
        "python": host.python,
        "upstream": host.upstream or None,
        "base_url": host.base_url,
        "key": _key(host.key),
        "groups": sorted(spec.groups),
        "models": list(spec.models),
        "model_map": dict(spec.model_map),
        "weight": spec.weight,
        "max_calls": spec.max_calls,
        "labels": dict(spec.labels),
    }
