"""Hosts behind a jump host: one connection to it, verified like any other, and one loss.

OpenSSH's sshds: the jump host on 127.0.0.20, two hosts behind it.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.fleet import Fleet
from tests.helpers.front_end import FrontEndProcess, run_serve
from tests.helpers.openssh import (
    OpenSSHServer,
    descendants_of,
    generate_key,
    known_hosts_line,
    require_sshd,
)

JUMP = {"ansible_ssh_common_args": "-J bastion"}


@pytest.fixture
def bastion() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer("MaxSessions 1", host="127.0.0.20") as server:
        yield server


@pytest.fixture
def fleet(two_hosts: Fleet, bastion: OpenSSHServer) -> Fleet:
    """The two hosts, both behind the jump host."""
    two_hosts.trust(bastion.known_hosts)
    two_hosts.write(*(host.line(**JUMP) for host in two_hosts.hosts))
    return two_hosts


def options(fleet: Fleet, bastion: OpenSSHServer, *more: str) -> list[str]:
    """Those of `serve`, with an ssh_config that knows the jump host."""
    return [*fleet.options(bastion.ssh_config("bastion")), *more]


def logins(server: OpenSSHServer) -> int:
    return server.log.count("Accepted publickey")


def test_hosts_behind_a_jump_host_share_one_connection_to_it_and_its_loss_is_one_event(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    with FrontEndProcess(options(fleet, bastion)) as front_end:
        front_end.wait_for_log("a is ready: ")
        front_end.wait_for_log("b is ready: ")
        assert {front_end.chat()[1] for _ in range(20)} == {b"a", b"b"}
        assert logins(bastion) == 1
        bastion.stop()
        front_end.wait_for_log("jump host bastion is lost: ")
        response, _ = front_end.chat()
        assert response.status == 503
        # Some attempts later.
        front_end.wait_for_log("jump host bastion is lost: ", count=3)
        told = json.loads(front_end.request("GET", "/healthz")[1])["runners"]["a"]
        assert told["state"] == "lost"
        assert told["next_attempt_in_s"] > 0.5  # its jump host's
        bastion.start_again()
        front_end.wait_for_log("a is ready: ", count=2)
        log = front_end.wait_for_log("b is ready: ", count=2)
        assert "it is in the way to 2 runners" in log
        assert not re.search(r"\b[ab] is lost", log)
        assert logins(bastion) == 2
        assert front_end.chat()[0].status == 200


def test_a_jump_host_that_stands_still_is_noticed_once_before_those_behind_it_are(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    quick = ["--ping-interval", "0.2", "--ping-timeout", "1.2"]
    with FrontEndProcess(options(fleet, bastion, *quick)) as front_end:
        front_end.wait_for_log("a is ready: ")
        front_end.wait_for_log("b is ready: ")
        stopped = [bastion.pid, *descendants_of(bastion.pid)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            log = front_end.wait_for_log("jump host bastion is lost: ")
            assert not re.search(r"\b[ab] is lost", log)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        front_end.wait_for_log("a is ready: ", count=2)
        front_end.wait_for_log("b is ready: ", count=2)


@pytest.mark.parametrize("way", ["-J bastion", "-o ProxyJump=bastion", "ssh_config"])
@pytest.mark.parametrize(("known", "status"), [("no", 11), ("another", 12)])
def test_the_host_key_of_a_jump_host_is_verified_however_it_is_named(
    fleet: Fleet, bastion: OpenSSHServer, tmp_path: Path, way: str, known: str, status: int
) -> None:
    if known == "another":
        other = generate_key(tmp_path / "other")
        line = known_hosts_line(bastion.host, bastion.port, other.with_suffix(".pub"))
        (tmp_path / "known").write_text(line)
        fleet.trust(tmp_path / "known")
    else:
        fleet.trust()
    a, _ = fleet.hosts
    given = options(fleet, bastion)
    if way == "ssh_config":
        config = Path(given[given.index("--ssh-config") + 1])
        # Nor can a setting for all hosts turn it off.
        config.write_text(
            f"Host {a.server.host}\n  ProxyJump bastion\n{config.read_text()}"
            "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        )
        fleet.write(a.line())
    else:
        fleet.write(a.line(ansible_ssh_common_args=f"{way} -o StrictHostKeyChecking=no"))
    ended, _, stderr = run_serve(given)
    assert ended == status
    assert "The host key of bastion" in stderr
    assert logins(bastion) == 0
    if way != "ssh_config":
        assert "StrictHostKeyChecking=no (host keys are always verified) is not honoured" in stderr


def test_the_host_key_behind_a_jump_host_is_verified(fleet: Fleet, bastion: OpenSSHServer) -> None:
    a, b = fleet.hosts
    fleet.known_hosts.write_text(bastion.known_hosts.read_text() + b.server.known_hosts.read_text())
    fleet.write(a.line(**JUMP))
    status, _, stderr = run_serve(options(fleet, bastion))
    assert status == 11
    assert f"The host key of {a.server.user}@{a.server.host}:{a.server.port} is not known" in stderr
    # What a person is told to type goes the same way.
    assert "-o ProxyJump=bastion" in stderr


def test_an_option_goes_before_ssh_config_and_is_not_for_the_jump_host(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, _ = fleet.hosts
    config = Path((given := options(fleet, bastion))[given.index("--ssh-config") + 1])
    config.write_text(config.read_text() + "Host target\n  User nobody\n  Port 1\n")
    fleet.write(
        a.line(
            ansible_host="target",
            ansible_user="",
            ansible_port="",
            ansible_ssh_common_args=f"-J bastion -o HostName={a.server.host}"
            f" -o User={a.server.user} -o Port={a.server.port}",
        )
    )
    # known_hosts has the address, not the alias.
    with FrontEndProcess(given) as front_end:
        assert front_end.chat()[1] == b"a"
