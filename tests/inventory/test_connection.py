"""Where and as whom a host is logged in to is what Ansible's own ssh connection would do.

`ansible-inventory --list` does not tell which variable goes before which; what `ansible` hands to
the `ssh` command does. Here that command is a script that writes down its arguments.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrelay.config import Config
from llmrelay.inventory.load import load

HOSTS = {
    "new_and_old": "ansible_host=h1 ansible_ssh_host=h2 ansible_port=1 ansible_ssh_port=2",
    "users": "ansible_user=u1 ansible_ssh_user=u2",
    "u3@user_in_name": "",
    "user_in_host": "ansible_host=u4@h3",
    "user_twice": "ansible_host=u5@h4 ansible_user=u6",
    "key": "ansible_private_key_file=/k1",
    "keys": "ansible_private_key_file=/k2 ansible_ssh_private_key_file=/k3",
    "jumps": "ansible_ssh_args='-J j1' ansible_ssh_common_args='-J j2'",
    "later_jumps": "ansible_ssh_args='' ansible_ssh_common_args='' ansible_ssh_extra_args='-J j3'",
}

Reached = dict[str, str | None]


def by_ansible(inventory: Path, folder: Path) -> list[Reached]:
    """What ssh is told of each host."""
    ssh = folder / "ssh"
    # One write each, as several hosts are tried at once.
    ssh.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$(printf "%s\\t" "$@")" >>{folder}/said\nexit 255\n'
    )
    ssh.chmod(0o755)
    (folder / "ansible.cfg").touch()
    subprocess.run(
        [sys.executable, "-m", "ansible", "adhoc", "-i", inventory, "all", "-m", "raw", "-a", "x"],
        env={
            **os.environ,
            "HOME": str(folder),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder),
            "ANSIBLE_SSH_EXECUTABLE": str(ssh),
            "ANSIBLE_FORKS": "10",
        },
        capture_output=True,
        timeout=50,
        check=False,
    )
    return [told(line.split("\t")[:-1]) for line in (folder / "said").read_text().splitlines()]


def told(words: list[str]) -> Reached:
    """Of ssh's arguments those that we have, too; the first of each holds."""
    found: Reached = {"jump": None, "Port": None, "User": None, "IdentityFile": None}
    for flag, value in itertools.pairwise(words):
        name, _, text = ("jump", "", value) if flag == "-J" else value.partition("=")
        if flag in ("-J", "-o") and name in found and found[name] is None:
            found[name] = text.strip('"')
    user, _, host = words[-2].rpartition("@")
    return {**found, "host": host, "User": found["User"] or user or None}


def by_us(inventory: Path) -> list[Reached]:
    reached: list[Reached] = []
    for spec in load(Config(inventory=inventory)).specs:
        address = spec.host.address
        assert address is not None
        first = dict(reversed(spec.host.ssh_options))
        reached.append(
            {
                "host": address.host,
                "User": address.user,
                "Port": str(address.port) if address.port else None,
                "IdentityFile": str(spec.host.identity) if spec.host.identity else None,
                "jump": first.get("ProxyJump"),
            }
        )
    return reached


def test_a_host_is_reached_as_ansible_reaches_it(tmp_path: Path) -> None:
    pytest.importorskip("ansible")
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("".join(f"{name} {given}\n" for name, given in HOSTS.items()))

    def in_order(reached: list[Reached]) -> list[str]:
        return sorted(str(sorted(each.items())) for each in reached)

    assert in_order(by_us(inventory)) == in_order(by_ansible(inventory, tmp_path))
    assert len(by_us(inventory)) == len(HOSTS)
