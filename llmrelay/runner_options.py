"""The options of the hosts' side: which runners there are, and how their hosts are reached.

A part of Config, by inheritance, in a file of its own: config.py says what holds for every option.
What an inventory says of a host goes before these (inventory/specs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .option import option, switch
from .upstreams import UPSTREAMS
from .values import HostAddress, count, one_of, parse_host, parse_path, parse_url

RUNNERS = "Runners"
# Far beyond what sshd's MaxSessions allows by itself (10), and the cores of most hosts.
MAX_INSTANCES = 64


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Which runners there are, and how their hosts are reached."""

    runners: tuple[HostAddress, ...] = option(
        "--runner",
        "[USER@]HOST[:PORT]",
        parse_host,
        (),
        "A host to start a runner on, as ssh would take it (aliases of ssh_config too).",
        RUNNERS,
        repeated=True,
    )
    inventory: Path | None = option(
        "--inventory",
        "FILE",
        parse_path,
        None,
        "Start runners on the hosts of an Ansible inventory.",
        RUNNERS,
    )
    limit: str | None = option(
        "--limit",
        "PATTERN",
        str,
        None,
        "Of the inventory's hosts, those that Ansible's PATTERN selects.",
        RUNNERS,
    )
    instances: int = option(
        "--instances",
        "N",
        count(1, MAX_INSTANCES),
        1,
        "Runner processes on each host, HOST#1 and so on, over one SSH connection: for more than"
        " one core can relay. Each has --max-calls.",
        RUNNERS,
    )
    watch: bool = switch(
        "--watch",
        "Reload when the inventory or a key file changes, as on SIGHUP.",
        RUNNERS,
    )
    balance: str = option(
        "--balance",
        "HOW",
        one_of("load", "affinity"),
        "load",
        "load: the least busy runner; affinity: the one that had the conversation before, unless it"
        " is busy.",
        RUNNERS,
    )
    upstream: str | None = option(
        "--upstream",
        "NAME",
        one_of(*UPSTREAMS),
        None,
        "The upstream by name (llmrelay upstreams lists them): its URL, key and quirks; else"
        " openai, or whatever answers at --base-url.",
        RUNNERS,
    )
    base_url: str | None = option(
        "--base-url",
        "URL",
        parse_url,
        None,
        "The upstream's own URL, as the runner's host reaches it: an OpenAI-compatible API.",
        RUNNERS,
    )
    openai_key_file: Path | None = option(
        "--openai-key-file",
        "FILE",
        parse_path,
        None,
        "Read the key from FILE; else from the upstream's variable (OPENAI_API_KEY, and if that is"
        " not set, ask on the terminal).",
        RUNNERS,
    )
    remote_python: str = option(
        "--remote-python",
        "PATH",
        str,
        "python3",
        "The interpreter on the host: 3.10 or later, with openai installed.",
        RUNNERS,
    )
    identity: Path | None = option(
        "--identity",
        "FILE",
        parse_path,
        None,
        "Log in with this private key only; else with those of ssh_config, the agent and ~/.ssh.",
        RUNNERS,
    )
    known_hosts: Path | None = option(
        "--known-hosts",
        "FILE",
        parse_path,
        None,
        "Trust the host keys in FILE only; else those that ssh would. Always verified.",
        RUNNERS,
    )
    ssh_config: Path | None = option(
        "--ssh-config",
        "FILE",
        parse_path,
        None,
        "Read FILE in place of ~/.ssh/config.",
        RUNNERS,
    )
