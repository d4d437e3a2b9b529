"""Jump hosts, each with one connection for all hosts behind it.

A jump host has a life of its own: it is connected to when somebody first needs it, tried again with
ever longer pauses while somebody waits for it, and left when nobody has needed it for a while. Its
loss is one event: it is logged once and waited for once, however many runners are behind it. Knows
no runner. Used by reach.py.
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
from .backoff import Backoff
from .ssh.login import Login, OnStep, log_in
from .ssh.settings import resolved

logger = logging.getLogger("llmrelay.runner")

MAX_HOPS = 8
# A runner that is lost needs its jump host again within its longest pause between two attempts.
IDLE_S = 60.0
# Of a link's longest silence, what a jump host may be silent for.
_SOONER = 0.7


class JumpHostDown(Exception):
    """A host cannot be reached, as the jump host before it cannot.

    Attributes:
        jump: which has been told of, and is being tried again.
        error: why not.
    """

    def __init__(self, jump: JumpHost, error: ConnectError) -> None:
        super().__init__(error.message)
        self.jump = jump
        self.error = error


class JumpHost:
    """One jump host.

    Args:
        before: the one that it is reached over, if any.
        on_idle: called when nobody has needed it for IDLE_S; it cannot be used any more then.
    """

    def __init__(
        self,
        address: HostAddress,
        before: JumpHost | None,
        config: Config,
        on_step: OnStep | None,
        on_idle: Callable[[], None],
    ) -> None:
        self.name = str(address)
        self._address = address
        self.before = before
        self._config = config
        self._on_step = on_step
        self._on_idle = on_idle
        self._login: Login | None = None
        self._failure: ConnectError = HostUnreachable(f"{self.name} was not tried yet.")
        self._up = asyncio.Event()
        # It is up, or the last attempt has failed.
        self._settled = asyncio.Event()
        self._retry_at_s = 0.0
        self._users = 0
        self._wake = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether hosts behind it can be connected to, as far as is known."""
        return self._login is not None and not self._login.lost.is_set()

    @property
    def retry_in_s(self) -> float:
        """When it is tried again, in seconds from now."""
        return max(0.0, self._retry_at_s - asyncio.get_running_loop().time())

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[Login]:
        """The login on it, for a connection through it that lasts as long as the block.

        Raises:
            JumpHostDown: the last attempt has failed, or the one that is being made does.
        """
        with self._use():
            await self._settled.wait()
            if self._login is None:
                raise JumpHostDown(self, self._failure)
            yield self._login

    async def up(self) -> None:
        """Returns when it is connected again."""
        with self._use():
            await self._up.wait()

    def retry_now(self) -> None:
        """Tries again at once, if it is lost."""
        self._retry_at_s = 0.0
        self._wake.set()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._wake.set()

    # --- Its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps it connected for as long as somebody needs it."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            up_at_s = None
            try:
                async with self._connected() as login:
                    up_at_s = loop.time()
                    if await self._idle(login):
                        self._on_idle()
                        return
                error: ConnectError = HostUnreachable(f"{self.name} was lost: {login.loss}.")
            except JumpHostDown as down:
                self._fail(down.error)
                await down.jump.up()
                continue
            except ConnectError as connect_error:
                error = connect_error
            except Exception:
                # As in runner.py: what is behind it is worth more than an exit.
                logger.exception("jump host %s: connecting failed", self.name)
                error = HostUnreachable("Connecting failed in a way that was not foreseen.")
            lived_s = 0.0 if up_at_s is None else loop.time() - up_at_s
            await self._wait(error, backoff.next_s(error, lived_s))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Login]:
        self._settled.clear()
        async with contextlib.AsyncExitStack() as stack:
            tunnel = None
            if self.before is not None:
                tunnel = await stack.enter_async_context(self.before.used())
            async with resolved(self._address, None, self._config) as settings:
                # Before the links behind it, which are as silent, give up one by one.
                silence_s = self._config.ping_timeout_s * _SOONER
                login = await log_in(settings, tunnel, self._on_step, silence_s)
            stack.push_async_callback(login.close)
            logger.info("jump host %s is connected", self.name)
            self._login = login
            self._up.set()
            self._settled.set()
            yield login

    async def _idle(self, login: Login) -> bool:
        """Waits until the login is lost, or nobody has needed it for long; whether the latter."""
        lost = asyncio.ensure_future(login.lost.wait())
        lost.add_done_callback(lambda _: self._wake.set())
        try:
            while not login.lost.is_set():
                self._wake.clear()
                try:
                    async with asyncio.timeout(None if self._users else IDLE_S):
                        await self._wake.wait()
                except TimeoutError:
                    return True
            return False
        finally:
            self._login = None
            self._up.clear()
            lost.cancel()

    def _fail(self, error: ConnectError) -> None:
        self._failure = error
        self._settled.set()

    async def _wait(self, error: ConnectError, wait_s: float) -> None:
        """Waits before the next attempt; ends early with retry_now()."""
        self._fail(error)
        loop = asyncio.get_running_loop()
        self._retry_at_s = loop.time() + wait_s
        logger.warning(
            "jump host %s is lost: %s; it is in the way to %d runners; next attempt in %.1f s",
            self.name,
            error.message.rstrip("."),
            self._users,
            wait_s,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._retry_at_s:
                    self._wake.clear()
                    await self._wake.wait()


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
        for address in hops:
            if depth >= MAX_HOPS:
                raise UnusableConfig(
                    f"ProxyJump leads to {address} over more than {MAX_HOPS} hosts."
                )
            async with resolved(address, None, self._config) as settings:
                if jump is None and settings.jumps:
                    jump = await self.to(settings.jumps, depth + 1)
                jump = self._shared((settings.place, jump), address, jump)
            depth += 1
        assert jump is not None
        return jump

    def retry_now(self) -> None:
        """Has every lost jump host tried again at once."""
        for jump in self._known.values():
            jump.retry_now()

    def _shared(self, key: object, address: HostAddress, before: JumpHost | None) -> JumpHost:
        def forget() -> None:
            del self._known[key]

        if key not in self._known:
            self._known[key] = jump = JumpHost(address, before, self._config, self._on_step, forget)
            task = asyncio.get_running_loop().create_task(jump.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._known[key]
