"""Our reading of an inventory beside Ansible's own.

`Ansible` asks the real `ansible-inventory --list`, `listed` says the same of an Inventory of ours;
what differs is a difference in how the text is understood.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmrelay.inventory import patterns
from llmrelay.inventory.ini import InvalidInventory, parse
from llmrelay.inventory.model import Inventory

DRIVER = Path(__file__).parent / "ansible_driver.py"

Listing = dict[str, Any]


class Ansible:
    """`with Ansible() as ansible:` is one that reads inventories until the block ends."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="llmrelay-inventory-")
        # Nothing of this machine's or the user's configuration.
        config = Path(self._folder.name) / "ansible.cfg"
        config.touch()
        quiet = {
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_HOME": self._folder.name,
            "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1",
            "ANSIBLE_NOCOLOR": "1",
            "HOME": self._folder.name,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(DRIVER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **quiet},
        )  # fmt: skip
        self._count = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        self._folder.cleanup()

    def list(self, text: str, limit: str | None = None) -> Listing | None:
        """What Ansible makes of an INI inventory; None if it refuses it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A name of its own, as Ansible remembers what it has read.
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}.ini"
        path.write_text(text)
        arguments = ["-i", str(path), "--list"]
        if limit is not None:
            arguments += ["--limit", limit]
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        path.unlink()
        return normal(json.loads(said["printed"])) if "printed" in said else None


def ours(text: str, limit: str | None = None) -> Listing | None:
    """What we make of it; None if we refuse it."""
    try:
        inventory = parse(text, "hosts.ini")
        if limit is not None:
            inventory.limit(patterns.select(limit, inventory))
    except (InvalidInventory, ValueError):
        return None
    return listed(inventory)


def listed(inventory: Inventory) -> Listing:
    """An Inventory as `ansible-inventory --list` prints one."""
    hostvars = {
        host: {name: each.value for name, each in inventory.variables_of(host).items()}
        for host in inventory.hosts
    }
    groups = {
        name: {"hosts": list(group.hosts), "children": list(group.children)}
        for name, group in inventory.groups.items()
    }
    # Through JSON, in which every name is text.
    return normal(json.loads(json.dumps({"_meta": {"hostvars": hostvars}, **groups})))


def normal(listing: Listing) -> Listing:
    """Without what says nothing: the order of hosts and groups, and what is empty."""
    hostvars = {h: v for h, v in listing.get("_meta", {}).get("hostvars", {}).items() if v}
    groups = {name: group for name, group in listing.items() if name != "_meta"}
    # "all" may list its hosts, or leave them to its groups.
    kept = {}
    for name, group in groups.items():
        hosts = sorted(group.get("hosts", ()))
        if hosts and name != "all":
            kept[name] = {"hosts": hosts}
    families = {
        name: sorted(group.get("children", ()))
        for name, group in groups.items()
        if group.get("children")
    }
    return {"hostvars": hostvars, "groups": kept, "families": families}
