"""From a host's spec to a connection that runs a command: over SSH, jump hosts and all, or here.

Knows which way leads to a host, and nothing of what is started there. ssh/ makes one login, jump.py
keeps those that several share, local.py needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from ..config import Config
from .channel import ByteChannel, Receiver
from .jump import Jumps
from .local import Here
from .shared import SharedHost, logged_in
from .spec import HostSpec
from .ssh.login import OnStep
from .ssh.settings import resolved


class Open(Protocol):
    """Starts commands on a host."""

    async def __call__(self, command: str, receiver: Receiver) -> ByteChannel:
        """Starts `command`.

        Raises:
            RunnerBroken: it cannot be started.
        """


@dataclass(frozen=True, slots=True)
class Connection:
    """A host that a command can be started on.

    Attributes:
        shared: whose connection it needs that others need, too, if any: the host's own, where it
            has several runners, or that of the jump host before it.
    """

    open: Open
    shared: SharedHost | None = None


@contextlib.asynccontextmanager
async def connect(
    host: HostSpec,
    config: Config,
    jumps: Jumps,
    on_step: OnStep | None = None,
    on_shared: Callable[[SharedHost], None] | None = None,
) -> AsyncIterator[Connection]:
    """A connection to `host`, through its jump hosts; closed on exit.

    One that is shared stays for the others; what was started over it ends.

    Args:
        on_step: hears of the steps towards the host itself, if its connection is not shared.
        on_shared: hears of the last shared host on the way, once that is connected.

    Raises:
        ConnectError: whatever stands in the way, told apart.
        SharedHostDown: a shared host does.
    """
    async with contextlib.AsyncExitStack() as stack:
        if host.address is None:
            here = Here()
            stack.push_async_callback(here.close)
            yield Connection(here.open)
            return
        async with resolved(host.address, host, config) as settings:
            shared = await jumps.to(settings.jumps) if settings.jumps else None
            if host.shared_as:
                shared = jumps.of(host, shared)
            if shared is not None:
                stack.enter_context(shared.needed())
                login = await shared.login()
                if on_shared is not None:
                    on_shared(shared)
            if not host.shared_as:
                login = await stack.enter_async_context(logged_in(settings, shared, on_step))

        async def open_own(command: str, receiver: Receiver) -> ByteChannel:
            channel = await login.open(command, receiver)
            stack.callback(channel.close)
            return channel

        yield Connection(open_own, shared)
