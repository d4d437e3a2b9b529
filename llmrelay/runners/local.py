"""A runner on this machine, without SSH: the same command as on any host, as a child of ours.

Its stdin, stdout and stderr are pipes; the end of its stdin is what tells it that we are gone, as
the end of an SSH channel would. Knows no frames. Used by reach.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import cast

from ..errors import RunnerBroken
from .channel import HIGH_WATER_BYTES, Backlog, Receiver

# A runner ends as soon as its stdin does, after it has closed its upstream connections.
_END_S = 5.0

# Ours that a command gets, as it would from a login, and what leads it to its upstream. Nothing
# else: another runner's key may be in a variable (llmrelay_key_env).
_ENVIRONMENT = {
    "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER",
    "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE",
}  # fmt: skip
_LOCALE = "LC_"


class Here:
    """This machine."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    async def open(self, command: str, receiver: Receiver) -> Child:
        """Starts `command`, by a shell as an SSH server would.

        Raises:
            RunnerBroken: it cannot be started.
        """
        loop = asyncio.get_running_loop()
        try:
            _, child = await loop.subprocess_exec(
                lambda: Child(receiver),
                "/bin/sh",
                "-c",
                command,
                cwd=_home(),
                env=_environment(),
                # Of its own, so that Ctrl-C on our terminal is for us.
                start_new_session=True,
            )
        except OSError as error:
            raise RunnerBroken(f"No command can be started here: {error.strerror}.") from error
        self._children.append(child)
        return child

    async def close(self) -> None:
        """Ends what was started here; returns when it is gone."""
        for child in self._children:
            child.close()
            try:
                await child.over.wait()
            finally:
                # At once if we are cancelled: it may be standing still.
                child.kill()


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _ENVIRONMENT or name.startswith(_LOCALE)
    }


def _home() -> str:
    """Where a login would be; `/` if there is no such place, as sshd has it."""
    home = Path(os.environ.get("HOME") or "/")
    return str(home) if os.access(home, os.X_OK) else "/"


class Child(Backlog, asyncio.SubprocessProtocol):
    """A command that runs here."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport
        self._kill: asyncio.TimerHandle | None = None
        self.over = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Sends `data` to its stdin; to one that is closed, nowhere."""
        if not self._stdin.is_closing():
            self._stdin.write(data)

    def close(self) -> None:
        """Ends its stdin, and with that the command; one that does not end is killed."""
        if self._kill is not None or self.over.is_set():
            return
        if not self._stdin.is_closing():
            self._stdin.abort()
        self._kill = asyncio.get_running_loop().call_later(_END_S, self.kill)
        if self._transport.get_returncode() is not None:
            self.process_exited()

    def kill(self) -> None:
        """Ends it now, and whomever it may have left in its process group."""
        if self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), signal.SIGKILL)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        # uvloop hears of a command that ends at once before it tells us that there was one.
        if not self._stdin.is_closing():
            self._stdin.set_write_buffer_limits(HIGH_WATER_BYTES)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._receiver.feed(data)
        else:
            self._receiver.feed_stderr(data)

    def process_exited(self) -> None:
        # Whoever else has its pipes is not waited for, once nobody wants to hear any more.
        if self._kill is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended, and its pipes are closed."""
        self.over.set()
        self.resume_writing()
        if self._kill is not None:
            self._kill.cancel()
        self._transport.close()
        status = self._transport.get_returncode()
        if status is not None and status < 0:
            self._receiver.channel_lost(f"{_name(-status)} ended it", None)
        else:
            self._receiver.channel_lost("it ended", status)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones between SIGRTMIN and SIGRTMAX have none
        return f"signal {number}"
