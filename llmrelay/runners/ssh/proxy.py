"""ProxyCommand: the way to a host is a command of the user's, over its stdin and stdout.

Run by a shell, as ssh does. Not left to asyncssh, which knows no shell, and takes what the command
says on stderr for bytes of the host. To asyncssh this is a tunnel, and the transport through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, cast

from ..stderr import StderrLog


class Proxy(asyncio.SubprocessProtocol):
    """A ProxyCommand.

    Args:
        name: of the host that it leads to, for the log.
    """

    def __init__(self, command: str, name: str) -> None:
        self._command = command
        self._stderr = StderrLog(name)
        # asyncssh's end of the way, once the command runs.
        self._user: asyncio.Protocol | None = None
        self._make_user: Callable[[], asyncio.Protocol]
        self._process: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport
        self._ending = False
        self._over = asyncio.Event()

    @property
    def said(self) -> str:
        """The last that it said on stderr; empty if nothing."""
        self._stderr.flush()
        return self._stderr.lines[-1] if self._stderr.lines else ""

    async def end(self) -> None:
        """Ends it, and whomever it started in its process group; returns when it is gone."""
        self.abort()
        if self._process is not None:
            await self._over.wait()

    # --- What asyncssh calls: a tunnel, then a transport ----------------------------------------

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[None, asyncio.Protocol]:
        """Starts the command.

        Raises:
            OSError: there is no shell.
        """
        self._make_user = factory
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            "/bin/sh",
            "-c",
            f"exec {self._command}",
            # Of its own, so that Ctrl-C on our terminal is for us.
            start_new_session=True,
        )
        assert self._user is not None
        return None, self._user

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket and no address."""
        return default

    def write(self, data: bytes) -> None:
        if not self._stdin.is_closing():
            self._stdin.write(data)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self._process is None or self._ending:
            return
        self._ending = True
        if self._process.get_returncode() is not None:
            self._process.close()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.get_pid(), signal.SIGKILL)

    # --- What asyncio calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._process.get_pipe_transport(0))
        self._user = self._make_user()
        self._user.connection_made(cast(asyncio.BaseTransport, self))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr.feed(data)
        elif self._user is not None:
            cast(Any, self._user).data_received(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and self._user is not None:
            self._user.connection_lost(exc)

    def process_exited(self) -> None:
        # Not before: asyncio would take the exit status from under its own watcher's nose.
        if self._ending and self._process is not None:
            self._process.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()
        if self._process is not None:
            self._process.close()
        if self._user is not None:
            self._user.connection_lost(exc)
