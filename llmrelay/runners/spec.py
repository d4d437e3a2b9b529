"""What is to be: a runner as its inventory entry, or --runner, describes it.

Pure data, compared by value: a reload finds by that what has changed. A change within `host` needs
a new connection; the rest says which calls the runner is for, and holds at once. Knows neither the
inventory's format nor SSH.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from ..values import HostAddress


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the front-end reads a runner's key; neither means where `serve` reads its own.

    Attributes:
        needed: whether upstream asks for one at all.
        variable: the name of an environment variable.
        file: a file that holds the key and nothing else.
    """

    variable: str | None = None
    file: Path | None = None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class HostSpec:
    """How a host is reached, and what is started there.

    Attributes:
        address: None for this machine, without SSH (`ansible_connection=local`).
        identity: the one private key to log in with; None for those of ssh_config and the agent.
        ssh_options: `-o NAME=VALUE` of ssh, in the order given; they go before ssh_config's, and
            hold for this host, not for its jump hosts. Names as ssh_config(5) spells them.
        python: the interpreter on the host.
        base_url: the upstream, as the host reaches it.
        upstream: its name, if it is a known one (upstreams.py), else "".
        shared_as: of a host with several runners, which share one connection to it, its name; else
            "". Two hosts that are reached alike share none.
    """

    address: HostAddress | None
    python: str
    base_url: str
    identity: Path | None = None
    ssh_options: tuple[tuple[str, str], ...] = ()
    key: KeySource = field(default_factory=KeySource)
    upstream: str = ""
    shared_as: str = ""


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """One runner: a process on a host, and the calls that it is for.

    Attributes:
        name: the inventory's name of the host; with `#1` and so on behind it where a host has
            several runners, so that a name in the log is either the host or one of them. Unique.
        groups: those that a call may ask for; the inventory's groups of the host.
        models: globs of the models that it serves; none for whatever is asked.
        model_map: pairs of the name that clients ask for and upstream's own name; the first is
            served, too, whatever `models` says.
        weight: its share of the calls, compared with the others'.
        max_calls: how many calls it may have at once.
        labels: pairs that people tell runners by.
    """

    name: str
    host: HostSpec
    groups: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    model_map: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0
    max_calls: int = 1024
    labels: tuple[tuple[str, str], ...] = ()

    def serves(self, model: str) -> bool:
        """Whether a call for `model` may come here."""
        if not self.models or _any_of(self.models).match(model):
            return True
        return any(model == asked for asked, _ in self.model_map)

    def upstream_model(self, model: str) -> str:
        """What upstream calls the model that a client asked for."""
        return dict(self.model_map).get(model, model) if self.model_map else model


@lru_cache(maxsize=1024)  # by what the inventory says, never by what clients ask for
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Matches what one of the globs does. Every runner is asked for every call: so, compiled."""
    return re.compile("|".join(map(translate, globs)))
