"""The channel on sshds and logins as people have them: locked down, noisy, behind other hosts.

OpenSSH's own sshd, and login shells of accounts that last as long as a test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.front_end import FrontEndProcess, run_serve, runner_options
from tests.helpers.openssh import (
    LOGIN_SHELLS,
    NOISE,
    NOISY_FORCE_COMMAND,
    OpenSSHServer,
    generate_key,
    known_hosts_line,
    require_login_shell,
    require_sshd,
)
from tests.helpers.upstream import ScriptedUpstream, ThreadedUpstream

LOCKED_DOWN = (
    "AllowTcpForwarding no",
    "AllowStreamLocalForwarding no",
    "AllowAgentForwarding no",
    "X11Forwarding no",
    "PermitTTY no",
    "MaxSessions 1",
    "PermitUserRC no",
    "Subsystem sftp /bin/false",
)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with ScriptedUpstream().in_thread() as running:
        yield running


def answer_over(server: OpenSSHServer, upstream: ThreadedUpstream) -> tuple[bytes, str]:
    """What a prompt over `server` is answered, and the front-end's log."""
    options = [*runner_options(server), "--base-url", upstream.base_url, "--log-level", "debug"]
    with FrontEndProcess(options) as front_end:
        response, body = front_end.chat()
        assert response.status == 200, body
        return body, front_end.log


def test_a_locked_down_sshd_is_enough(upstream: ThreadedUpstream) -> None:
    require_sshd()
    with OpenSSHServer(*LOCKED_DOWN) as server:
        assert answer_over(server, upstream)[0] == b"Hello, world"


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_every_login_shell_starts_the_runner_though_the_login_is_noisy(
    shell: str, upstream: ThreadedUpstream
) -> None:
    require_sshd()
    path = require_login_shell(shell)
    with OpenSSHServer(*LOCKED_DOWN[:-2], login_shell=path, noisy_rc=True) as server:
        body, log = answer_over(server, upstream)
        assert body == b"Hello, world"
        # The noise was there, and harmless.
        assert "bytes that its login printed" in log
        assert NOISE not in body.decode()


def test_noise_before_and_after_the_command_does_no_harm(upstream: ThreadedUpstream) -> None:
    require_sshd()
    with OpenSSHServer(
        NOISY_FORCE_COMMAND, login_shell=require_login_shell("bash"), noisy_rc=True
    ) as server:
        body, log = answer_over(server, upstream)
        assert body == b"Hello, world"
        assert f"{NOISE} before" in log


def test_a_login_that_runs_something_else_is_no_runner() -> None:
    require_sshd()
    with OpenSSHServer("ForceCommand echo this account is for rsync only") as server:
        status, _, said = run_serve(runner_options(server))
    assert status == 16
    assert "did not start" in said


def jump_config(folder: Path, jump: OpenSSHServer, target: OpenSSHServer, known: Path) -> Path:
    """An ssh_config in which `target` is behind `jump`, both with keys in `known`."""
    config = folder / "config"
    config.write_text(
        "\n".join(
            f"Host {name}\n  HostName {server.host}\n  Port {server.port}\n"
            f"  User {server.user}\n  IdentityFile {server.identity}\n"
            f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
            + ("  ProxyJump jump\n" if name == "target" else "")
            for name, server in (("jump", jump), ("target", target))
        )
    )
    return config


def host_line(server: OpenSSHServer, public_key: Path | None = None) -> str:
    key = public_key or Path(str(server.host_keys[0])).with_suffix(".pub")
    return known_hosts_line(server.host, server.port, key)


def test_a_runner_behind_a_jump_host_both_known_by_their_aliases(
    tmp_path: Path, upstream: ThreadedUpstream
) -> None:
    require_sshd()
    known = tmp_path / "known_hosts"
    with OpenSSHServer() as jump, OpenSSHServer(*LOCKED_DOWN) as target:
        known.write_text(host_line(jump) + host_line(target))
        config = jump_config(tmp_path, jump, target, known)
        options = ["--runner", "target", "--ssh-config", str(config), "--remote-python"]
        options += [sys.executable, "--base-url", upstream.base_url]
        with FrontEndProcess(options) as front_end:
            assert front_end.chat()[1] == b"Hello, world"
        # The jump host forwarded, and ran nothing.
        assert "direct-tcpip" in jump.log or "Accepted publickey" in jump.log


@pytest.mark.parametrize("which", ["jump", "target"])
@pytest.mark.parametrize("how", ["unknown", "changed"])
def test_host_keys_are_verified_on_every_hop(tmp_path: Path, which: str, how: str) -> None:
    require_sshd()
    known = tmp_path / "known_hosts"
    with OpenSSHServer() as jump, OpenSSHServer() as target:
        wrong, right = (jump, target) if which == "jump" else (target, jump)
        known.write_text(host_line(right))
        if how == "changed":
            other = generate_key(tmp_path / "other").with_suffix(".pub")
            known.write_text(host_line(right) + host_line(wrong, other))
        config = jump_config(tmp_path, jump, target, known)
        status, _, said = run_serve(["--runner", "target", "--ssh-config", str(config)])
    assert status == {"unknown": 11, "changed": 12}[how]
    assert f"The host key of {which} " in said


def test_a_jump_host_that_forwards_nothing_is_named(tmp_path: Path) -> None:
    require_sshd()
    known = tmp_path / "known_hosts"
    with OpenSSHServer("AllowTcpForwarding no") as jump, OpenSSHServer() as target:
        known.write_text(host_line(jump) + host_line(target))
        config = jump_config(tmp_path, jump, target, known)
        status, _, said = run_serve(["--runner", "target", "--ssh-config", str(config)])
    assert status == 10
    assert "target cannot be reached" in said


def test_proxy_jump_in_a_circle_ends(tmp_path: Path) -> None:
    require_sshd()
    config = tmp_path / "config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    status, _, said = run_serve(["--runner", "a", "--ssh-config", str(config)])
    assert status == 3
    assert "more than" in said


def test_a_proxy_command_does_not_inherit_the_key(tmp_path: Path) -> None:
    require_sshd()
    seen = tmp_path / "environment"
    with OpenSSHServer() as server:
        config = server.ssh_config("behind")
        with config.open("a") as file:
            file.write(f"  ProxyCommand sh -c 'env > {seen}; exit 1'\n")
        status, _, _ = run_serve(["--runner", "behind", "--ssh-config", str(config)])
    assert status == 10
    assert "PATH=" in seen.read_text()
    assert "OPENAI_API_KEY" not in seen.read_text()
