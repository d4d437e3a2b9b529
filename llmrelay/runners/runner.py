"""One runner's life: connecting, ready, draining, lost, and connecting again.

The one writer of its state. ssh.py logs in, provision.py starts, link.py carries the calls; when to
do which is decided here. Knows no HTTP, and nothing of other runners.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Callable

from runner_payload.protocol import Call

from ..config import Config
from ..errors import ConnectError, NoRunner, RelayError, RunnerBroken
from ..peer_text import one_line
from ..secret import Secret
from ..values import HostAddress
from . import provision, ssh
from .call import LinkCall, Sink
from .link import Link
from .provision import Started

logger = logging.getLogger("llmrelay.runner")

# Between attempts to get a lost runner back.
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
# What a person has to mend is tried ever more rarely: a login refused, a host key changed.
STUCK_BACKOFF_S = 300.0
# A runner that lived for so long was well: its loss is the first one again.
STEADY_S = 30.0


class State(enum.Enum):
    """Where a runner is in its life."""

    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"
    STOPPED = "stopped"


class Runner:
    """A runner on one host, kept alive.

    Args:
        key: goes to the host once per link, in the START frame.
    """

    def __init__(self, address: HostAddress, config: Config, key: Secret) -> None:
        self.name = str(address)
        # How many calls it may have at once: as configured, or fewer if its host allows fewer.
        self.max_calls = config.max_calls
        self._state = State.CONNECTING
        self._address = address
        self._config = config
        self._key = key
        self._link: Link | None = None
        self._loss = ""
        self._link_over = asyncio.Event()
        self._stopping = asyncio.Event()
        self._retry_at = 0.0

    @property
    def state(self) -> State:
        """Where it is now; one that said GOAWAY finishes its calls and takes no more."""
        if self._link is not None and self._link.draining:
            return State.DRAINING
        return self._state

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keeps the runner connected until stop().

        Args:
            on_ready: called when it takes calls for the first time.

        Raises:
            ConnectError: the very first attempt failed: whoever starts us should hear of it.
        """
        losses = 0
        first = True
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            ready_at: float | None = None
            error: RelayError
            try:
                async with ssh.connect(self._address, self._config) as connection:
                    self._link_over.clear()
                    self._begin(await self._start(connection))
                    ready_at = loop.time()
                    if first:
                        first = False
                        on_ready()
                    await self._link_over.wait()
                error = NoRunner(self._loss)
            except ConnectError as connect_error:
                if first:
                    raise
                error = connect_error
            except Exception:
                if first:
                    raise
                # A bug of ours, or of a library on a bad day: the other calls of this front-end,
                # and the next attempt, are worth more than an exit.
                logger.exception("%s: connecting failed", self.name)
                error = RunnerBroken("connecting failed in a way that was not foreseen")
            if self._stopping.is_set():
                break
            # An attempt that took long to fail is no life that was long.
            steady = ready_at is not None and loop.time() - ready_at >= STEADY_S
            losses = 1 if steady else losses + 1
            await self._back_off(error, losses)
        self._state = State.STOPPED

    def open(self, call: Call, sink: Sink, on_over: Callable[[], None]) -> LinkCall:
        """Opens a call.

        Raises:
            NoRunner: the runner is not ready. Why is in the log: it may name the operator's files.
        """
        if self.state is not State.READY or self._link is None:
            wait_s = max(1.0, self._retry_at - asyncio.get_running_loop().time())
            raise NoRunner(
                f"The runner is {self.state.value} just now; try again.", retry_after_s=wait_s
            )
        return self._link.open(call, sink, on_over)

    async def stop(self) -> None:
        """Ends the runner on the host: GOAWAY, its calls, its channel; then run() returns."""
        self._stopping.set()
        if self._link is not None:
            self._link.go_away("the front-end ends")
            await self._link_over.wait()

    async def _start(self, connection: ssh.Connection) -> Started:
        return await provision.start(self.name, connection, self._config, self._key, self._on_lost)

    def _begin(self, started: Started) -> None:
        """The link takes calls."""
        hello = started.hello
        self._link = started.link
        self._state = State.READY
        self.max_calls = min(self._config.max_calls, hello.max_calls)
        if self.max_calls < self._config.max_calls:
            logger.warning(
                "%s: its limit of open files allows %d calls at once, not %d (ulimit -n)",
                self.name,
                self.max_calls,
                self._config.max_calls,
            )
        if hello.aiohttp is None:
            logger.info(
                "%s: without aiohttp each delta costs its CPU twice as much;"
                " install it there: %s -m pip install 'openai[aiohttp]'",
                self.name,
                one_line(hello.executable),
            )
        logger.info(
            "%s is ready: Python %s, openai %s, pid %d, import %.2f s",
            self.name,
            one_line(hello.python),
            one_line(hello.openai or ""),
            hello.pid,
            started.import_s,
        )

    def _on_lost(self, link: Link, reason: str) -> None:
        if self._link is link:
            self._link = None
            self._state = State.LOST
            self._loss = reason
        self._link_over.set()

    async def _back_off(self, error: RelayError, losses: int) -> None:
        """Waits before the next attempt, exponentially and with jitter; ends early with stop()."""
        heals = not isinstance(error, ConnectError) or error.heals
        wait_s = MIN_BACKOFF_S * 2 ** min(losses - 1, 16)
        wait_s = min(wait_s, MAX_BACKOFF_S if heals else STUCK_BACKOFF_S)
        wait_s *= random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
        self._state = State.LOST
        self._retry_at = asyncio.get_running_loop().time() + wait_s
        reason = error.message.rstrip(".")
        logger.warning("%s is lost: %s; next attempt in %.1f s", self.name, reason, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            self._state = State.CONNECTING
