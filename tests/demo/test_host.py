"""The demo's host: what it lets in, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from llmrelay.demo.host import login_environment
from llmrelay.demo.local import Machine, started_host
from tests.demo.terminal import started_at, wait_until

LIMIT_S = 20.0


@contextlib.asynccontextmanager
async def login(machine: Machine) -> AsyncIterator[asyncssh.SSHClientConnection]:
    connection = await asyncssh.connect(
        machine.address.host,
        machine.address.port or 0,
        username="demo",
        client_keys=[str(machine.identity)],
        known_hosts=str(machine.known_hosts),
        config=None,
        agent_path=None,
    )
    async with connection:
        yield connection


def test_host_and_its_commands_end_when_its_stdin_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    async def main() -> list[int]:
        async with asyncio.timeout(LIMIT_S), started_host(None) as machine:
            folder = machine.identity.parent
            assert folder.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o700
            assert machine.identity.stat().st_mode & 0o777 == 0o600
            async with login(machine) as connection:
                # Neither the end of stdin nor a SIGTERM ends it.
                stubborn = await connection.create_process(
                    "trap '' TERM HUP; echo $$ $PPID; while :; do sleep 100; done"
                )
                pids = [int(word) for word in (await stubborn.stdout.readline()).split()]
                assert all(started_at(pid) for pid in pids)
                return pids

    pids = asyncio.run(main())
    assert len(pids) == 2
    assert wait_until(lambda: not any(started_at(pid) for pid in pids))
    assert list(tmp_path.iterdir()) == []


def test_host_runs_commands_as_sshd_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-the-host")

    async def main() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            started_host(None) as machine,
            login(machine) as connection,
        ):
            both = await connection.run("tr a-z A-Z; echo err >&2; exit 7", input="x" * 300_000)
            assert (both.stdout, both.stderr, both.exit_status) == ("X" * 300_000, "err\n", 7)
            killed = await connection.run("kill -9 $$")
            assert killed.exit_status == 128 + signal.SIGKILL
            environment = str((await connection.run("env")).stdout)
            assert "OPENAI" not in environment
            assert f"PATH={os.environ['PATH']}" in environment

    asyncio.run(main())


def test_host_gives_a_login_commands_and_nothing_else() -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S), started_host(None) as machine:
            async with login(machine) as connection:
                shell = await connection.run(check=False)
                assert shell.exit_status == 1
                assert "no shell" in str(shell.stderr)
                with pytest.raises(asyncssh.ChannelOpenError):
                    await connection.open_connection("127.0.0.1", machine.address.port or 0)
                with pytest.raises(asyncssh.ChannelListenError):
                    await connection.forward_remote_port("", 0, "127.0.0.1", 9)
                with pytest.raises(asyncssh.ChannelOpenError):
                    await connection.run("true", term_type="xterm")
                with pytest.raises(asyncssh.ChannelOpenError):
                    await connection.start_sftp_client()
            machine.identity.write_bytes(
                asyncssh.generate_private_key("ssh-ed25519").export_private_key()
            )
            with pytest.raises(asyncssh.PermissionDenied):
                async with login(machine):
                    pass

    asyncio.run(main())


def test_proxies_are_for_a_real_upstream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTP_PROXY", "SSL_CERT_FILE", "OPENAI_API_KEY", "OPENAI_ORG_ID"):
        monkeypatch.setenv(name, "x")
    names = {"https_proxy", "HTTP_PROXY", "SSL_CERT_FILE"}
    assert login_environment(simulated=False).keys() >= names
    assert not login_environment(simulated=True).keys() & names
    assert not any(name.startswith("OPENAI") for name in login_environment(simulated=False))
