"""A host with one connection that several share: a jump host's, or one of several runners.

Those behind a jump host share its connection, and so do the runners of a host that has several.
Such a host has a life of its own: it is connected to when somebody first needs it, tried again with
ever longer pauses while somebody waits for it, and left when nobody has needed it for a while. Its
loss is one event: it is logged once and waited for once, however many runners are behind it, and
however many jump hosts. Knows no runner. jump.py has all of them, reach.py needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from ..config import Config
from ..errors import ConnectError, HostUnreachable
from ..values import HostAddress
from . import unforeseen
from .backoff import Backoff
from .spec import HostSpec
from .ssh.login import Login, OnStep, log_in
from .ssh.settings import Settings, resolved

logger = logging.getLogger("llmrelay.runner")

# A runner that is lost needs it again within its longest pause between two attempts.
IDLE_S = 60.0
# A link's longest silence, less what the first shared host on the way is noticed sooner: before
# the links over it, which are as silent, give up one by one.
_SOONER = 0.3


class SharedHostDown(ConnectError):
    """What is needed of a shared host cannot be had: it is lost, or could not be reached.

    Attributes:
        host: the shared host, which is being tried again.
        culprit: which of those on the way it is that has failed; it has been told of.
        error: why.
    """

    def __init__(
        self, host: SharedHost, error: ConnectError, culprit: SharedHost | None = None
    ) -> None:
        super().__init__(error.message)
        self.host = host
        self.culprit = culprit or host
        self.error = error


class SharedHost:
    """One of them.

    Args:
        address: where it is.
        spec: of a host of several runners; None for a jump host.
        via: the hosts that were named as being in front of it, the first hop first.
        before: the jump host that it is reached over, if any.
        on_step: hears of the steps towards it, under its name.
        on_over: called when nobody has needed it for IDLE_S; it cannot be used any more then.

    Attributes:
        name: a jump host's address, or what the inventory calls the host.
        label: what it is called in the log.
        behind: the shared hosts that are reached over it.
    """

    def __init__(
        self,
        address: HostAddress,
        spec: HostSpec | None,
        via: Sequence[HostAddress],
        before: SharedHost | None,
        config: Config,
        on_step: OnStep | None,
        on_over: Callable[[], None],
    ) -> None:
        self.name = str(address) if spec is None else spec.shared_as
        self.label = f"{'jump host' if spec is None else 'host'} {self.name}"
        self.before = before
        self.behind: set[SharedHost] = set()
        self._address = address
        self._spec = spec
        self._via = tuple(via)
        self._config = config
        self._on_step: OnStep | None = None
        if on_step is not None:
            self._on_step = lambda step: on_step(replace(step, hop=self.name))
        self._on_over = on_over
        self._login: Login | None = None
        self._failure: ConnectError = HostUnreachable(f"{self.name} was not tried yet.")
        self._culprit: SharedHost | None = None
        # It is up, or over.
        self._up = asyncio.Event()
        # It is up, or the last attempt has failed.
        self._settled = asyncio.Event()
        self._retry_at_s = 0.0
        self._retry = asyncio.Event()
        # Runners behind it or on it, those that wait for it included.
        self._users = 0
        self._need_changed = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether its connection can be used, as far as is known."""
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
        for host in chain:
            host._users += 1
        try:
            yield
        finally:
            for host in chain:
                host._users -= 1
                host._need_changed.set()

    async def login(self) -> Login:
        """The login on it.

        Raises:
            SharedHostDown: the last attempt has failed, or the one that is being made does.
        """
        await self._settled.wait()
        if self._login is None:
            raise SharedHostDown(self, self._failure, self._culprit)
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

    def leave(self, host: SharedHost) -> None:
        """A shared host behind it is over."""
        self.behind.discard(host)
        self._need_changed.set()

    async def _live(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            up_at_s = None
            error: ConnectError
            try:
                self._settled.clear()
                with unforeseen.told(self.label):
                    async with self._connected() as login:
                        up_at_s = loop.time()
                        await login.lost.wait()
                error = HostUnreachable(f"{self.name} was lost: {login.loss}.")
                if self.before is not None and not self.before.is_up:
                    raise SharedHostDown(self.before, error)
            except SharedHostDown as down:
                # Which has been told of, once for all that are behind it.
                logger.debug("%s waits for %s: %s", self.label, down.host.label, down)
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
            resolved(self._address, self._spec, self._config, self._via) as settings,
            logged_in(settings, self.before, self._on_step, self._silence_s()) as login,
        ):
            logger.info("%s is connected", self.label)
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
        """After which it is lost: the longer the more of them are before it, which are noticed
        first.
        """
        hops, before = 1, self.before
        while before is not None:
            hops, before = hops + 1, before.before
        return self._config.ping_timeout_s * (1 - _SOONER / hops)

    def _fail(self, error: ConnectError, culprit: SharedHost | None = None) -> None:
        self._failure = error
        self._culprit = culprit
        self._settled.set()

    async def _wait(self, error: ConnectError, wait_s: float) -> None:
        """Waits before the next attempt; ends early with retry_now()."""
        self._fail(error)
        self._retry.clear()
        self._retry_at_s = asyncio.get_running_loop().time() + wait_s
        if self._spec is None:
            whom = f"it is in the way to {self._users} runner{'' if self._users == 1 else 's'}"
        else:
            whom = "all its runners wait for it"  # those that it had are not back in line yet
        reason = error.message.rstrip(".")
        logger.warning(
            "%s is lost: %s; %s; next attempt in %.1f s", self.label, reason, whom, wait_s
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._retry.wait()
        self._retry_at_s = 0.0


@contextlib.asynccontextmanager
async def logged_in(
    settings: Settings,
    jump: SharedHost | None,
    on_step: OnStep | None = None,
    silence_s: float | None = None,
) -> AsyncIterator[Login]:
    """A login as `settings` has it, over `jump` if there is one; closed on exit.

    Args:
        silence_s: as for log_in.

    Raises:
        ConnectError: whatever stands in the way, told apart.
        SharedHostDown: the jump host does.
    """
    tunnel = None if jump is None else await jump.login()
    try:
        login = await log_in(settings, tunnel, on_step, silence_s)
    except ConnectError as error:
        if jump is not None and not jump.is_up:
            raise SharedHostDown(jump, error) from error
        raise
    try:
        yield login
    finally:
        await login.close()
