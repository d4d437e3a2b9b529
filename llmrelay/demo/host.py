"""The demo's other machine: `python -m llmrelay.demo.host`, a process of its own on loopback.

An SSH server that logs in one throwaway user key and runs commands, and nothing else: no shell, no
terminal, no forwarding, no SFTP. With --simulate-upstream there is an API on its loopback, too. It
says where everything is in one JSON line on stdout, and ends when its stdin ends, with all that it
started: whatever happens to the demo, no process and no key file outlives it.

Knows nothing of the runner that is started on it, as a real host would not. local.py starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh

from .upstream import make_server

ADDRESS = "127.0.0.1"
# A runner ends as soon as its stdin does; what has not ended by then is killed.
END_S = 1.0
_READ_BYTES = 64 * 1024

# What sshd gives a command, from its own environment.
_LOGIN_VARIABLES = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
# How this machine reaches the world; in the way of an upstream that is on loopback.
_NETWORK_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_TLS_VARIABLES = ("SSL_CERT_DIR", "SSL_CERT_FILE")


class Commands:
    """The commands that logins have started, each in a session of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        home = environment.get("HOME", "/")
        self._folder = home if os.access(home, os.X_OK) else "/"
        self._running: set[asyncio.subprocess.Process] = set()

    async def run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Runs what a session asks for, with its stdin, stdout and stderr."""
        if process.command is None:
            process.stderr.write(b"This host runs commands; it has no shell to log in to.\n")
            process.exit(1)
            return
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,
        )
        self._running.add(child)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        feeding = asyncio.create_task(_copy_in(process.stdin, child.stdin))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy_out(child.stdout, process.stdout))
                group.create_task(_copy_out(child.stderr, process.stderr))
            status = await child.wait()
        finally:
            feeding.cancel()
            # The end of its stdin is what tells a command that its login is over.
            child.stdin.close()
            if child.returncode is not None:
                self._running.discard(child)
        # As a shell reports the end by a signal.
        process.exit(status if status >= 0 else 128 - status)

    async def end(self) -> None:
        """Waits for all of them, and kills what does not end."""
        running = [child for child in self._running if child.returncode is None]
        waiting = [asyncio.create_task(child.wait()) for child in running]
        if not waiting:
            return
        await asyncio.wait(waiting, timeout=END_S)
        for child in running:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        await asyncio.wait(waiting)


async def _copy_in(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(_READ_BYTES):
            target.write(data)
            await target.drain()
    target.close()


async def _copy_out(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    gone = False
    while data := await source.read(_READ_BYTES):
        # A command whose login has gone can still write, so that it comes to its own end.
        if not gone:
            try:
                target.write(data)
                await target.drain()
            except (OSError, asyncssh.Error):
                gone = True


class _Login(asyncssh.SSHServer):
    """One connection; remembered, so that it can be ended."""

    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)


@contextlib.asynccontextmanager
async def _ssh_server(
    host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey, environment: dict[str, str]
) -> AsyncIterator[int]:
    """The SSH server's port; on exit its logins end, and their commands with them."""
    commands = Commands(environment)
    connections: set[asyncssh.SSHServerConnection] = set()
    authorized = user_key.export_public_key().decode()
    server = await asyncssh.listen(
        ADDRESS,
        0,
        server_factory=lambda: _Login(connections),
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(authorized),
        password_auth=False,
        kbdint_auth=False,
        process_factory=commands.run,
        encoding=None,
        allow_pty=False,
        agent_forwarding=False,
    )
    try:
        yield server.get_port()
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        await commands.end()


@contextlib.asynccontextmanager
async def _simulated_upstream() -> AsyncIterator[str]:
    """The simulated upstream's base URL."""
    server = make_server()
    await server.start()
    try:
        yield f"http://{server.address}/v1"
    finally:
        await server.drain(0)


def login_environment(*, simulated: bool) -> dict[str, str]:
    """What commands get: little, as from sshd, and never a key that this process was given."""
    names = set(_LOGIN_VARIABLES)
    if not simulated:
        names.update(_TLS_VARIABLES, _NETWORK_VARIABLES, map(str.lower, _NETWORK_VARIABLES))
    return {name: os.environ[name] for name in names if name in os.environ}


def _write_client_files(folder: Path, port: int, host_key: asyncssh.SSHKey) -> dict[str, str]:
    """What `ssh` would need to log in here, besides the identity; their paths by name."""
    public = host_key.export_public_key().decode()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[{ADDRESS}]:{port} {public}")
    ssh_config = folder / "ssh_config"
    ssh_config.write_text("")
    return {"known_hosts": str(known_hosts), "ssh_config": str(ssh_config)}


async def serve(*, simulated: bool) -> None:
    """Is a host until stdin ends."""
    # The client's key comes from here and not from the client because this process removes it even
    # if the client is killed. The host key never leaves memory.
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    user_key = asyncssh.generate_private_key("ssh-ed25519")
    over = await _end_of_stdin()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmrelay-demo-")))
        base_url = await stack.enter_async_context(_simulated_upstream()) if simulated else None
        environment = login_environment(simulated=simulated)
        port = await stack.enter_async_context(_ssh_server(host_key, user_key, environment))
        identity = folder / "identity"
        identity.touch(0o600)
        user_key.write_private_key(identity)
        announcement = {
            "port": port,
            "base_url": base_url,
            "identity": str(identity),
            **_write_client_files(folder, port, host_key),
        }
        with contextlib.suppress(BrokenPipeError):  # killed meanwhile: stdin has ended, too
            print(json.dumps(announcement), flush=True)  # noqa: T201
        await over.wait()


async def _end_of_stdin() -> asyncio.Event:
    """An event for the end of stdin, or for a SIGTERM."""
    over = asyncio.Event()

    class Stdin(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            over.set()

    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(Stdin, sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, over.set)
    return over


if __name__ == "__main__":
    asyncio.run(serve(simulated="--simulate-upstream" in sys.argv[1:]))
