"""Whatever is not INI -> an Inventory, by Ansible's own `ansible-inventory` command.

YAML, a folder, a program, a plugin's configuration, and group_vars beside a file: Ansible reads
them, if it is installed; what it prints has variables merged into each host already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .ini import InvalidInventory
from .model import Inventory, Origin, Variable

COMMAND = "ansible-inventory"
# Plugins ask clouds, which takes some seconds.
LIMIT_S = 60.0


def installed() -> bool:
    """Whether the command is there."""
    return shutil.which(COMMAND) is not None


def read(path: Path) -> Inventory:
    """The inventory at `path`, as Ansible has it.

    Raises:
        InvalidInventory: the command is not there, or has failed.
    """
    if not installed():
        raise InvalidInventory(
            f"{path} is not in Ansible's INI format; the rest is read by {COMMAND}, which is not"
            " installed here. Install it (pip install ansible-core), or write it as INI."
        )
    command = [COMMAND, "-i", str(path), "--list"]
    # Else it reads what we were given for ourselves, from a terminal that is ours.
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1"}
    try:
        ran = subprocess.run(  # noqa: S603 - the user's own inventory, by the user's own Ansible
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LIMIT_S, check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InvalidInventory(f"{' '.join(command)} did not end within {LIMIT_S:g} s.") from None
    except OSError as error:
        raise InvalidInventory(f"{COMMAND} cannot be run: {error.strerror}.") from error
    if ran.returncode:
        said = " ".join(ran.stderr.split())[-600:]
        raise InvalidInventory(f"{' '.join(command)} failed ({ran.returncode}): {said}")
    try:
        return from_list(json.loads(ran.stdout), str(path))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidInventory(f"{COMMAND} printed no inventory: {error}.") from error


def from_list(said: dict[str, Any], file: str) -> Inventory:
    """What `ansible-inventory --list` prints, as an Inventory."""
    inventory = Inventory()
    origin = Origin(file)
    groups = {name: group for name, group in said.items() if name != "_meta"}
    for name, group in groups.items():
        inventory.add_group(name)
        for host in group.get("hosts", ()):
            inventory.add_host(host, name)
    for name, group in groups.items():
        for child in group.get("children", ()):
            inventory.add_group(child)
            inventory.add_child(name, child)
    for host, variables in said.get("_meta", {}).get("hostvars", {}).items():
        own = inventory.hosts.setdefault(host, {})
        own |= {name: Variable(value, origin) for name, value in variables.items()}
    inventory.settle()
    return inventory
