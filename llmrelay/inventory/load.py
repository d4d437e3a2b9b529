"""Which runners there are to be, by what the command line says: the one way in.

Reads the file that --inventory names, by our own parser or by Ansible's command, leaves what
--limit selects, and makes RunnerSpecs of it; or makes them of --runner. Blocks while it reads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import UnusableConfig
from ..runners.spec import RunnerSpec
from . import ansible, patterns
from .ini import InvalidInventory, parse
from .model import Inventory
from .specs import for_addresses, make_specs

MAX_BYTES = 16 * 1024 * 1024
# By their names; anything else may be INI.
_NOT_INI = (".yml", ".yaml", ".json", ".toml")
_VARIABLE_FOLDERS = ("group_vars", "host_vars")


@dataclass(frozen=True, slots=True)
class Understood:
    """What was read.

    Attributes:
        specs: the runners that there are to be.
        inventory: the hosts and groups that they come from, after --limit; None without one.
        warnings: what was not used, a sentence each.
        files: what was read, and what changes it when it changes.
    """

    specs: tuple[RunnerSpec, ...]
    inventory: Inventory | None = None
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def load(config: Config) -> Understood:
    """The runners that the command line asks for.

    Raises:
        UnusableConfig: the inventory cannot be read or used; says in which line.
    """
    if config.inventory is None:
        return Understood(tuple(for_addresses(config.runners, config)))
    path = config.inventory
    try:
        inventory, warnings = _read(path)
        if config.limit is not None:
            warnings += _limit(inventory, config.limit)
        specs, more = make_specs(inventory, config)
    except InvalidInventory as error:
        raise UnusableConfig(str(error)) from error
    if not specs:
        among = "" if config.limit is None else f" that --limit {config.limit} leaves"
        raise UnusableConfig(f"There is no host in {path}{among}.")
    files = [*_files(path), *patterns.files(config.limit or "")]
    return Understood(tuple(specs), inventory, (*warnings, *more), tuple(files))


def _read(path: Path) -> tuple[Inventory, list[str]]:
    beside = [path.parent / name for name in _VARIABLE_FOLDERS if (path.parent / name).is_dir()]
    not_ini = path.is_dir() or path.suffix in _NOT_INI or os.access(path, os.X_OK)
    if not_ini or (beside and ansible.installed()):
        if not path.exists():
            raise InvalidInventory(f"{path} cannot be read: there is no such file.")
        return ansible.read(path), []
    warnings = [
        f"{folder} is not read: that takes {ansible.COMMAND}, which is not installed here"
        for folder in beside
    ]
    return parse(_text(path), str(path)), warnings


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInventory(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise InvalidInventory(f"{path} is longer than {MAX_BYTES} bytes; is it an inventory?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInventory(f"{path}:{line}: this is not UTF-8.") from None


def _limit(inventory: Inventory, pattern: str) -> list[str]:
    """Leaves what `pattern` selects; warnings."""
    try:
        nothing = patterns.unmatched(pattern, inventory)
        inventory.limit(patterns.select(pattern, inventory))
    except ValueError as error:
        raise InvalidInventory(f"--limit {pattern}: {error}.") from error
    return [f"--limit {pattern}: there is no host or group {part}" for part in nothing]


def _files(path: Path) -> list[Path]:
    """The file; of a folder, and of group_vars beside it, everything that is in them."""
    folders = [path] if path.is_dir() else [path.parent / name for name in _VARIABLE_FOLDERS]
    within = [each for folder in folders if folder.is_dir() for each in sorted(folder.rglob("*"))]
    return [path, *within]
