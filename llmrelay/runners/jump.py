"""The hosts whose connection several share: jump hosts, and hosts with several runners.

Each is found by what it is and what it is behind, made when somebody first asks for it, and
forgotten when nobody has needed it for a while. shared.py is the life of one. Used by reach.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ..config import Config
from ..errors import UnusableConfig
from ..values import HostAddress
from .shared import SharedHost
from .spec import HostSpec
from .ssh.login import OnStep
from .ssh.settings import resolved

MAX_HOPS = 8


class Jumps:
    """All of them; a context that owns their lives.

    Args:
        on_step: hears of the steps towards each, for `llmrelay check`.
    """

    def __init__(self, config: Config, on_step: OnStep | None = None) -> None:
        self._config = config
        self._on_step = on_step
        # By what they are and what they are behind.
        self._known: dict[object, SharedHost] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def to(self, hops: Sequence[HostAddress], depth: int = 0) -> SharedHost:
        """The last of these jump hosts, each of which is reached over the one before.

        As with `ssh -J a,b`, a may have jump hosts of its own; b's do not count, as a is in front
        of it.

        Raises:
            UnusableConfig: they lead in a circle, or their settings are of no use.
        """
        jump: SharedHost | None = None
        for number, address in enumerate(hops):
            if depth >= MAX_HOPS:
                raise UnusableConfig(
                    f"ProxyJump leads to {address} over more than {MAX_HOPS} hosts."
                )
            async with resolved(address, None, self._config) as settings:
                if jump is None and settings.jumps:
                    jump = await self.to(settings.jumps, depth + 1)
                jump = self._shared(settings.place, address, None, hops[:number], jump)
            depth += 1
        assert jump is not None
        return jump

    def of(self, spec: HostSpec, before: SharedHost | None) -> SharedHost:
        """The one that a host's several runners share.

        Args:
            before: the jump host that it is behind, if any.
        """
        assert spec.address is not None
        # By all that is said of it: whose settings have changed is connected to anew, and its
        # runners' successors take no sessions of the connection that these still have.
        return self._shared(spec, spec.address, spec, (), before)

    def retry_now(self) -> None:
        """Has every lost one tried again at once."""
        for host in self._known.values():
            host.retry_now()

    def _shared(
        self,
        place: object,
        address: HostAddress,
        spec: HostSpec | None,
        via: Sequence[HostAddress],
        before: SharedHost | None,
    ) -> SharedHost:
        key = place, before

        def forget() -> None:
            host = self._known.pop(key)
            if before is not None:
                before.leave(host)

        if key not in self._known:
            host = SharedHost(address, spec, via, before, self._config, self._on_step, forget)
            self._known[key] = host
            if before is not None:
                before.behind.add(host)
            task = asyncio.get_running_loop().create_task(host.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._known[key]
