"""An SSH server in the test's own event loop, for what no OpenSSH does on demand.

It lets everybody in who has its key, and then does to a command what the test says: runs it, never
answers, or ends it by a signal. The real sshd is in openssh.py, and the better peer for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from llmrelay.config import Config
from llmrelay.values import HostAddress

Process = asyncssh.SSHServerProcess[bytes]
Command = Callable[[Process], Coroutine[Any, Any, None]]


@dataclass
class Host:
    """Where it is and how to get in."""

    address: HostAddress
    identity: Path
    known_hosts: Path

    def config(self, **settings: Any) -> Config:
        """Settings that lead to it."""
        return Config(identity=self.identity, known_hosts=self.known_hosts, **settings)


@asynccontextmanager
async def ssh_server(folder: Path, on_command: Command | None) -> AsyncIterator[Host]:
    """A host whose commands are `on_command`; without one it never answers a session's request.

    Args:
        folder: for the keys.
    """
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    user_key = asyncssh.generate_private_key("ssh-ed25519")
    identity = folder / "identity"
    user_key.write_private_key(identity)
    held = asyncio.Event()

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return key.public_data == user_key.public_data

    class Frozen(Server):
        async def session_requested(self) -> bool:
            await held.wait()
            return False

    server = await asyncssh.create_server(
        Frozen if on_command is None else Server,
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        process_factory=on_command,
        encoding=None,
    )
    port = server.get_port()
    known_hosts = folder / "known_hosts"
    known_hosts.write_bytes(b"[127.0.0.1]:%d %b" % (port, host_key.export_public_key()))
    try:
        yield Host(HostAddress("127.0.0.1", "tester", port), identity, known_hosts)
    finally:
        held.set()
        server.close()
        await server.wait_closed()
