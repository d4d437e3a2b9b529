"""One runner's life: connecting, ready, draining, lost, and connecting again.

The one writer of its state. reach.py logs in, provision.py starts, link.py carries the calls; when
to do which is decided here. A runner that is to be replaced, because its host's settings changed or
because it said GOAWAY, goes on with its calls beside its successor: so there may be several links,
of which one takes new calls. Knows no HTTP, and nothing of other runners.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from runner_payload.messages import Call, Request

from ..config import Config
from ..errors import ConnectError, NoRunner, RelayError, RunnerBroken
from ..peer_text import one_line
from ..secret import Secret
from . import provision, reach, unforeseen
from .backoff import Backoff
from .call import LinkCall, OnOver, Sink
from .jump import Jumps
from .link import Link
from .provision import Started
from .shared import SharedHost, SharedHostDown
from .slots import Slots
from .spec import HostSpec, RunnerSpec

logger = logging.getLogger("llmrelay.runner")


class State(enum.Enum):
    """Where a runner is in its life."""

    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class _Life:
    """One connection, from the first attempt to log in until its last call is over."""

    host: HostSpec
    key: Secret
    # How the attempt went: None for well.
    outcome: asyncio.Future[ConnectError | None]
    error: ConnectError = field(default_factory=lambda: RunnerBroken("It ended as it began."))
    over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    # Whose connection it goes over, if others do so, too.
    shared: SharedHost | None = None
    link: Link | None = None
    ready_at_s: float = math.inf

    @property
    def usable(self) -> bool:
        """Whether it takes new calls."""
        return self.link is not None and not self.link.draining


class Runner:
    """A runner on one host, kept alive.

    Args:
        key: goes to the host once per link, in the START frame.
        on_change: called when it may take calls that it did not take before, or no longer does.

    Attributes:
        spec: what it is to be.
        quiet: why it cannot be started is for whoever waits for it to tell.
        first_attempt: how that went, as soon as it is known: None if calls were taken.
    """

    def __init__(
        self,
        spec: RunnerSpec,
        key: Secret,
        config: Config,
        jumps: Jumps,
        slots: Slots,
        on_change: Callable[[Runner], None],
    ) -> None:
        self.spec = spec
        self.quiet = False
        self.first_attempt: asyncio.Future[ConnectError | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._key = key
        self._config = config
        self._jumps = jumps
        self._slots = slots
        self._on_change = on_change
        # What the host's limit of open files allows.
        self._host_calls = spec.max_calls
        self._lives: set[_Life] = set()
        # The one that takes new calls.
        self._current: _Life | None = None
        self._attempting: _Life | None = None
        self._stopping = False
        self._loss = ""
        self._retry_at_s = 0.0
        self._waits_for: SharedHost | None = None
        self._retry = False
        # Something happened that the loop in run() has to look at.
        self._wake = asyncio.Event()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def max_calls(self) -> int:
        """How many calls it may have at once: its spec's, or fewer if its host allows fewer."""
        return min(self.spec.max_calls, self._host_calls)

    @property
    def state(self) -> State:
        """Where it is now."""
        if self._stopping:
            return State.DRAINING if self._lives else State.STOPPED
        if self._current is not None and self._current.usable:
            return State.READY
        return State.CONNECTING if self._attempting else State.LOST

    @property
    def loss(self) -> str:
        """Why it is not ready, in words for its operator; empty if it is, or is not known to be."""
        return self._loss

    @property
    def retry_in_s(self) -> float:
        """When a lost one is tried again, in seconds from now; 0 if it is being tried."""
        if self._waits_for is not None:
            return self._waits_for.retry_in_s
        return max(0.0, self._retry_at_s - self._now_s())

    def open(self, call: Call | Request, sink: Sink, on_over: OnOver) -> LinkCall:
        """Opens a call.

        Raises:
            NoRunner: it is not ready. Why is in the log: it may name the operator's files.
        """
        life = self._current
        if life is None or life.link is None or not life.usable or self._stopping:
            raise NoRunner(
                f"The runner is {self.state.value} just now; try again.",
                retry_after_s=max(1.0, self.retry_in_s),
            )
        return life.link.open(call, sink, on_over)

    # --- What its owner asks for ----------------------------------------------------------------

    async def run(self) -> None:
        """Keeps the runner connected until stop(), and its calls going until they are over."""
        backoff = Backoff()
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                life = self._begin_life(group)
                error: RelayError | None = await self._attempt(life)
                if error is None:
                    error = await self._while_wanted(life)
                # Replaced because it changed: what it was before is of no interest any more.
                if error is not None and life.host == self.spec.host:
                    await self._wait(error, life, backoff)

    def revise(self, spec: RunnerSpec, key: Secret) -> None:
        """Becomes what `spec` says: at once, or on a new link if that takes one."""
        attempt = self._attempting
        # One that has just come up serves until its successor does.
        if attempt is not None and attempt.link is None and attempt.host != spec.host:
            assert attempt.task is not None
            attempt.task.cancel()
        self.spec = spec
        if key.reveal() != self._key.reveal():
            self._key = key
            for life in self._lives:
                if life.link is not None:
                    life.link.renew_key(key)
        self._wake.set()
        self._on_change(self)

    def retry_now(self) -> None:
        """Tries again at once, if it is lost."""
        self._retry = True
        self._wake.set()

    def stop(self) -> None:
        """Takes no more calls, and ends the runner on the host after its last one."""
        self._stopping = True
        for life in self._lives:
            if life.link is not None:
                life.link.go_away("the front-end is done with this runner")
            elif life.task is not None:
                life.task.cancel()
        self._wake.set()
        self._on_change(self)

    # --- Its life -------------------------------------------------------------------------------

    def _begin_life(self, group: asyncio.TaskGroup) -> _Life:
        life = _Life(self.spec.host, self._key, asyncio.get_running_loop().create_future())
        self._lives.add(life)
        life.task = group.create_task(self._live(life))

        def ended(_: object) -> None:
            self._lives.discard(life)
            if not life.outcome.done():
                life.outcome.set_result(life.error)

        # Not by the task itself, which never comes to it if it is cancelled before it begins.
        life.task.add_done_callback(ended)
        return life

    async def _attempt(self, life: _Life) -> ConnectError | None:
        """Waits until it is known whether a life has begun."""
        self._attempting = life
        error = await life.outcome
        self._attempting = None
        # One that a change has ended says nothing of what there is to be now.
        if not self.first_attempt.done() and life.host == self.spec.host:
            self.first_attempt.set_result(error)
        return error

    async def _while_wanted(self, life: _Life) -> RelayError | None:
        """Waits until a life takes no more calls; why, or None if it is as it should not be."""
        while not self._stopping and life.host == self.spec.host:
            self._wake.clear()
            if self._current is not life:
                return NoRunner(self._loss)
            if not life.usable:
                return NoRunner("it takes no more calls")
            await self._wake.wait()
        return None

    async def _wait(self, error: RelayError, life: _Life, backoff: Backoff) -> None:
        """Waits before the next attempt; ends early with stop(), revise() and retry_now()."""
        self._loss = error.message.rstrip(".")
        shared = life.shared
        if shared is not None and not shared.is_up:
            # Which has been told of, once for all that need it.
            logger.debug("%s waits for %s: %s", self.name, shared.label, self._loss)
            self._waits_for = shared
            await self._unless_asked(shared.up())
            self._waits_for = None
            return
        wait_s = backoff.next_s(error, max(0.0, self._now_s() - life.ready_at_s))
        self._retry_at_s = self._now_s() + wait_s
        if not (self._stopping or self.quiet):
            logger.warning("%s is lost: %s; next attempt in %.1f s", self.name, self._loss, wait_s)
        await self._unless_asked(asyncio.sleep(wait_s))

    async def _unless_asked(self, waiting: Coroutine[None, None, None]) -> None:
        """Waits for `waiting`, unless something is asked of the runner meanwhile."""
        host = self.spec.host
        self._retry = False
        task = asyncio.ensure_future(waiting)
        task.add_done_callback(lambda _: self._wake.set())
        try:
            while not (task.done() or self._retry or self._stopping or self.spec.host != host):
                self._wake.clear()
                await self._wake.wait()
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _live(self, life: _Life) -> None:
        """One connection: made, used, closed. Never raises what a host or a network can cause."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(unforeseen.told(self.name))
                async with self._slots.login():
                    reached = reach.connect(life.host, self._config, self._jumps)
                    connection = await stack.enter_async_context(reached)
                life.shared = connection.shared
                async with self._slots.start():
                    started = await self._start(connection, life)
                self._take_over(life, started)
                life.outcome.set_result(None)
                await life.over.wait()
        except SharedHostDown as down:
            life.error, life.shared = down.error, down.host
        except ConnectError as error:
            life.error = error

    async def _start(self, connection: reach.Connection, life: _Life) -> Started:
        def on_lost(link: Link, reason: str) -> None:
            life.over.set()
            if self._current is life:
                self._current = None
                self._loss = reason
                self._wake.set()
                self._on_change(self)

        return await provision.start(
            self.name, connection, life.host, self._config, life.key, on_lost
        )

    def _take_over(self, life: _Life, started: Started) -> None:
        """The life's link takes the calls from now on; one that did before finishes its own."""
        hello = started.hello
        before, self._current = self._current, life
        life.link = started.link
        life.link.on_draining = self._on_draining
        life.ready_at_s = self._now_s()
        self._loss = ""
        self.quiet = False
        if before is not None and before.link is not None:
            before.link.go_away("another runner takes its place")
        if self._key is not life.key:
            life.link.renew_key(self._key)
        self._host_calls = hello.max_calls
        self._retry_at_s = 0.0
        self._tell_ready(started)
        self._on_change(self)

    def _on_draining(self) -> None:
        self._wake.set()
        self._on_change(self)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell_ready(self, started: Started) -> None:
        hello = started.hello
        if self.max_calls < self.spec.max_calls:
            logger.warning(
                "%s: its limit of open files allows %d calls at once, not %d (ulimit -n)",
                self.name,
                self.max_calls,
                self.spec.max_calls,
            )
        if hello.uvloop is None:
            logger.info(
                "%s: without uvloop each delta costs its CPU half as much again;"
                " install it there: %s -m pip install uvloop",
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
