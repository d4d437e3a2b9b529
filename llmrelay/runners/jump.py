"""Jump hosts, each with one connection for all hosts behind it.

A jump host has a life of its own: it is connected to when somebody first needs it, tried again with
ever longer pauses while somebody waits for it, and left when nobody has needed it for a while. Its
loss is one event: it is logged once and waited for once, however many runners are behind it, and
however many jump hosts. Knows no runner. Used by reach.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from ..config import Config
from ..errors import ConnectError, HostUnreachable, UnusableConfig
from ..values import HostAddress
from . import unforeseen
from .backoff import Backoff
from .ssh.login import Login, OnStep, log_in
from .ssh.settings import Settings, resolved

logger = logging.getLogger("llmrelay.runner")

MAX_HOPS = 8
# A runner that is lost needs its jump host again within its longest pause between two attempts.
IDLE_S = 60.0
# A link's longest silence, less what the first jump host on the way is noticed sooner: before the
# links behind it, which are as silent, give up one by one.
_SOONER = 0.3


class JumpHostDown(ConnectError):
    """A host cannot be reached, as the jump host before it cannot.

    Attributes:
        jump: the jump host, which is being tried again.
        culprit: which of those on the way it is that has failed; it has been told of.
        error: why.
    """

    def __init__(
        self, jump: JumpHost, error: ConnectError, culprit: JumpHost | None = None
    ) -> None:
        super().__init__(error.message)
        self.jump = jump
        self.culprit = culprit or jump
        self.error = error


class JumpHost:
    """One jump host.

    Args:
        address: where it is.
        via: the hosts that were named as being in front of it, the first hop first.
        before: the one that it is reached over, if any.
        on_over: called when nobody has needed it for IDLE_S; it cannot be used any more then.

    Attributes:
        behind: the jump hosts that are reached over it.
    """

    def __init__(
        self,
        address: HostAddress,
        via: Sequence[HostAddress],
        before: JumpHost | None,
        config: Config,
        on_step: OnStep | None,
        on_over: Callable[[], None],
    ) -> None:
        self.name = str(address)
        self.before = before
        self.behind: set[JumpHost] = set()
        self._address = address
        self._via = tuple(via)
        self._config = config
        self._on_step = on_step
        self._on_over = on_over
        self._login: Login | None = None
        self._failure: ConnectError = HostUnreachable(f"{self.name} was not tried yet.")
        self._culprit: JumpHost | None = None
        # It is up, or over.
        self._up = asyncio.Event()
        # It is up, or the last attempt has failed.
        self._settled = asyncio.Event()
        self._retry_at_s = 0.0
        self._retry = asyncio.Event()
        # Runners behind it, those that wait for it included.
        self._users = 0
        self._need_changed = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether hosts behind it can be connected to, as far as is known."""
        return self._login is not None and not self._login.lost.is_set()

    @property
    def retry_in_s(self) -> float:
        """When it is tried again, in seconds from now."""
        return max(0.0, self._retry_at_s - asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """It is kept for a runner, or tried again, as long as the block lasts."""
        chain = [self]
        while (before := chain[-1].before) is not None:
            chain.append(before)
        for jump in chain:
            jump._users += 1
        try:
            yield
        finally:
            for jump in chain:
                jump._users -= 1
                jump._need_changed.set()

    async def login(self) -> Login:
        """The login on it.

        Raises:
            JumpHostDown: the last attempt has failed, or the one that is being made does.
        """
        await self._settled.wait()
        if self._login is None:
            raise JumpHostDown(self, self._failure, self._culprit)
        return self._login

    async def up(self) -> None:
        """Returns when it is connected again."""
        with self.needed():
            await self._up.wait()

    def retry_now(self) -> None:
        """Tries again at once, if it is lost."""
        self._retry.set()

    # --- Its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps it connected for as long as somebody needs it."""
        async with asyncio.TaskGroup() as group:
            life = group.create_task(self._live())
            await self._unneeded()
            self._on_over()
            self._up.set()
            life.cancel()

    async def _unneeded(self) -> None:
        """Returns when nobody has needed it for IDLE_S."""
        while True:
            self._need_changed.clear()
            try:
                async with asyncio.timeout(None if self._users or self.behind else IDLE_S):
                    await self._need_changed.wait()
            except TimeoutError:
                # Somebody may have come since the timer was set.
                if not (self._users or self.behind):
                    return

    def leave(self, jump: JumpHost) -> None:
        """A jump host behind it is over."""
        self.behind.discard(jump)
        self._need_changed.set()

    async def _live(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            up_at_s = None
            error: ConnectError
            try:
                self._settled.clear()
                with unforeseen.told(f"jump host {self.name}"):
                    async with self._connected() as login:
                        up_at_s = loop.time()
                        await login.lost.wait()
                error = HostUnreachable(f"{self.name} was lost: {login.loss}.")
                if self.before is not None and not self.before.is_up:
                    raise JumpHostDown(self.before, error)
            except JumpHostDown as down:
                # Which has been told of, once for all that are behind it.
                logger.debug("jump host %s waits for %s: %s", self.name, down.jump.name, down)
                self._fail(down.error, down.culprit)
                assert self.before is not None
                await self.before._up.wait()
                continue
            except ConnectError as connect_error:
                error = connect_error
            lived_s = 0.0 if up_at_s is None else loop.time() - up_at_s
            await self._wait(error, backoff.next_s(error, lived_s))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Login]:
        async with (
            resolved(self._address, None, self._config, self._via) as settings,
            logged_in(settings, self.before, self._on_step, self._silence_s()) as login,
        ):
            logger.info("jump host %s is connected", self.name)
            self._login = login
            self._up.set()
            self._settled.set()
            try:
                yield login
            finally:
                self._login = None
                self._up.clear()
                self._settled.clear()

    def _silence_s(self) -> float:
        """After which it is lost: the longer the more jump hosts are before it, which are noticed
        first.
        """
        hops, before = 1, self.before
        while before is not None:
            hops, before = hops + 1, before.before
        return self._config.ping_timeout_s * (1 - _SOONER / hops)

    def _fail(self, error: ConnectError, culprit: JumpHost | None = None) -> None:
        self._failure = error
        self._culprit = culprit
        self._settled.set()

    async def _wait(self, error: ConnectError, wait_s: float) -> None:
        """Waits before the next attempt; ends early with retry_now()."""
        self._fail(error)
        self._retry.clear()
        self._retry_at_s = asyncio.get_running_loop().time() + wait_s
        logger.warning(
            "jump host %s is lost: %s; it is in the way to %d runner%s; next attempt in %.1f s",
            self.name,
            error.message.rstrip("."),
            self._users,
            "" if self._users == 1 else "s",
            wait_s,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._retry.wait()
        self._retry_at_s = 0.0


@contextlib.asynccontextmanager
async def logged_in(
    settings: Settings,
    jump: JumpHost | None,
    on_step: OnStep | None = None,
    silence_s: float | None = None,
) -> AsyncIterator[Login]:
    """A login as `settings` has it, over `jump` if there is one; closed on exit.

    Args:
        silence_s: as for log_in.

    Raises:
        ConnectError: whatever stands in the way, told apart.
        JumpHostDown: the jump host does.
    """
    tunnel = None if jump is None else await jump.login()
    try:
        login = await log_in(settings, tunnel, on_step, silence_s)
    except ConnectError as error:
        if jump is not None and not jump.is_up:
            raise JumpHostDown(jump, error) from error
        raise
    try:
        yield login
    finally:
        await login.close()


class Jumps:
    """All jump hosts; a context that owns their lives.

    Args:
        on_step: hears of the steps towards each, for `llmrelay check`.
    """

    def __init__(self, config: Config, on_step: OnStep | None = None) -> None:
        self._config = config
        self._on_step = on_step
        # By what they are and what they are behind.
        self._known: dict[object, JumpHost] = {}
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

    async def to(self, hops: Sequence[HostAddress], depth: int = 0) -> JumpHost:
        """The last of `hops`, each of which is reached over the one before.

        As with `ssh -J a,b`, a may have jump hosts of its own; b's do not count, as a is in front
        of it.

        Raises:
            UnusableConfig: they lead in a circle, or their settings are of no use.
        """
        jump: JumpHost | None = None
        for number, address in enumerate(hops):
            if depth >= MAX_HOPS:
                raise UnusableConfig(
                    f"ProxyJump leads to {address} over more than {MAX_HOPS} hosts."
                )
            async with resolved(address, None, self._config) as settings:
                if jump is None and settings.jumps:
                    jump = await self.to(settings.jumps, depth + 1)
                jump = self._shared(settings.place, address, hops[:number], jump)
            depth += 1
        assert jump is not None
        return jump

    def retry_now(self) -> None:
        """Has every lost jump host tried again at once."""
        for jump in self._known.values():
            jump.retry_now()

    def _shared(
        self,
        place: object,
        address: HostAddress,
        via: Sequence[HostAddress],
        before: JumpHost | None,
    ) -> JumpHost:
        key = place, before

        def forget() -> None:
            jump = self._known.pop(key)
            if before is not None:
                before.leave(jump)

        if key not in self._known:
            jump = JumpHost(address, via, before, self._config, self._on_step, forget)
            self._known[key] = jump
            if before is not None:
                before.behind.add(jump)
            task = asyncio.get_running_loop().create_task(jump.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._known[key]
