"""From a host's spec to a connection that runs a command: over SSH, jump hosts and all, or here.

Knows which way leads to a host, and nothing of what is started there. ssh/ makes one login, jump.py
keeps those that several hosts share, local.py needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from ..config import Config
from .channel import ByteChannel, Receiver
from .jump import JumpHost, Jumps, logged_in
from .local import Here
from .spec import HostSpec
from .ssh.login import OnStep
from .ssh.settings import resolved


class Opener(Protocol):
    """What a command can be started on."""

    async def open(self, command: str, receiver: Receiver) -> ByteChannel:
        """Starts `command`.

        Raises:
            RunnerBroken: it cannot be started.
        """


class Connection:
    """A host that a command can be started on.

    Attributes:
        jump: the jump host before it, if any.
    """

    def __init__(self, opener: Opener, jump: JumpHost | None = None) -> None:
        self.open = opener.open
        self.jump = jump


@contextlib.asynccontextmanager
async def connect(
    host: HostSpec,
    config: Config,
    jumps: Jumps,
    on_step: OnStep | None = None,
    on_jump: Callable[[JumpHost], None] | None = None,
) -> AsyncIterator[Connection]:
    """A connection to `host`, through its jump hosts; closed on exit.

    Args:
        on_step: hears of the steps towards the host itself.
        on_jump: hears of the jump host before it, once that is connected.

    Raises:
        ConnectError: whatever stands in the way, told apart.
        JumpHostDown: a jump host does.
    """
    async with contextlib.AsyncExitStack() as stack:
        if host.address is None:
            here = Here()
            stack.push_async_callback(here.close)
            yield Connection(here)
            return
        jump = None
        async with resolved(host.address, host, config) as settings:
            if settings.jumps:
                jump = await jumps.to(settings.jumps)
                stack.enter_context(jump.needed())
                await jump.login()
                if on_jump is not None:
                    on_jump(jump)
            login = await stack.enter_async_context(logged_in(settings, jump, on_step))
        yield Connection(login, jump)
