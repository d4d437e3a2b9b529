"""Which runner takes a call, and who waits while all are full.

Keeps, of each runner, what there is to know for choosing it (standing.py), has selection.py choose,
and hands places that come free to those who wait, fairly between clients (queue.py). Knows no HTTP
and no runner's life: fleet.py says who there is, attempts.py asks for places.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runner_payload.messages import Call, End, Request

from ..config import Config
from ..errors import BadRequest, ModelNotFound, NoRunner, QueueFull, RelayError, RunnerLost
from .call import LinkCall, Sink
from .queue import FairQueue, FreeRate
from .retry import RetryBudget
from .runner import Runner, State
from .selection import Ask, choose, fitting
from .spec import RunnerSpec
from .standing import Standing, outcome_of

# A call whose time is up while it waits for another runner ends as one that runs out of it there.
_LEAST_S = 0.001


@dataclass(eq=False, slots=True)
class Member:
    """A runner, and how it stands."""

    runner: Runner
    standing: Standing


@dataclass(eq=False, slots=True)
class Waiter:
    """A call that waits for a place."""

    ask: Ask
    tried: Collection[str]
    place: asyncio.Future[Member] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Pool:
    """Places on runners, and the queue for them."""

    def __init__(self, config: Config) -> None:
        self.budget = RetryBudget(config.retry_budget)
        self._config = config
        self._members: dict[str, Member] = {}
        self._standings: list[Standing] = []  # theirs
        self._queue: FairQueue[Waiter] = FairQueue()
        self._free_rate = FreeRate()
        self._now_s = asyncio.get_running_loop().time
        self._random = random.Random()  # noqa: S311 - spreads load

    # --- Who there is: what fleet.py tells ------------------------------------------------------

    def add(self, runner: Runner) -> None:
        """There is another runner."""
        member = Member(runner, Standing(runner.spec, runner.max_calls))
        self._members[runner.name] = member
        self._standings.append(member.standing)

    def remove(self, runner: Runner) -> None:
        """It takes no more calls; those that it has go on."""
        standing = self._members.pop(runner.name).standing
        standing.ready = False
        self._standings.remove(standing)

    def rename(self, before: str, runner: Runner) -> None:
        """A runner has another name; how it stands is as it was."""
        self._members[runner.name] = self._members.pop(before)
        self.look_at(runner)

    def look_at(self, runner: Runner) -> None:
        """A runner has changed: whether it is ready, how many calls it takes, what it is for."""
        member = self._members.get(runner.name)
        if member is None or member.runner is not runner:
            return  # it drains
        member.standing.spec = runner.spec
        member.standing.max_calls = runner.max_calls
        member.standing.ready = runner.state is State.READY
        self._serve_queue(member)

    @property
    def members(self) -> Collection[Member]:
        """Every runner that there is to be."""
        return self._members.values()

    @property
    def in_flight(self) -> int:
        """Calls that have a place."""
        return sum(member.standing.in_flight for member in self.members)

    @property
    def queued(self) -> int:
        """Calls that wait for a place."""
        return len(self._queue)

    def summary(self) -> str:
        """Which runners are ready, in a few words."""
        if len(self._members) == 1:
            return f"runner {next(iter(self._members))}"
        ready = sum(member.standing.ready for member in self.members)
        return f"{ready} of {len(self._members)} runners"

    # --- Places: what attempts.py asks for ------------------------------------------------------

    async def open(
        self,
        ask: Ask,
        call: Call | Request,
        sink: Sink,
        tried: Collection[str],
        deadline_s: float | None,
    ) -> tuple[Runner, LinkCall]:
        """Opens `call` on a runner that is not in `tried`, after a wait if all are full.

        Args:
            deadline_s: when its first delta has to be there, by the loop's clock; None for when
                its runner's limit says.

        Raises:
            ModelNotFound, BadRequest: no runner serves that model, or is in that group.
            NoRunner: none that does is ready.
            QueueFull: the queue is full, or the wait in it was too long.
        """
        while True:
            member = await self._place(ask, tried)
            runner = member.runner
            tried = {*tried, runner.name}
            opened: LinkCall | None = None
            try:
                asked = self._for_runner(call, runner.spec, ask, tried, deadline_s)
                opened = runner.open(asked, sink, partial(self._over, member))
            except NoRunner:
                continue  # lost this very moment, of which its snapshot does not know yet
            finally:
                if opened is None:
                    self._over(member, None)
            return runner, opened

    def _for_runner(
        self,
        call: Call | Request,
        spec: RunnerSpec,
        ask: Ask,
        tried: Collection[str],
        deadline_s: float | None,
    ) -> Call | Request:
        """The call, as the runner of `spec`, which is in `tried`, is asked for it."""
        changes: dict[str, Any] = {}
        model = spec.upstream_model(call.model)
        if model != call.model:
            changes["model"] = model
        if len(self._standings) > 1 and any(self._well(ask, tried)):
            changes["retries"] = 0  # another runner is the better retry
        if deadline_s is not None:
            changes["timeout_s"] = max(_LEAST_S, deadline_s - self._now_s())
        return replace(call, **changes) if changes else call

    def others(self, ask: Ask, tried: Collection[str]) -> list[RunnerSpec]:
        """The runners beside those in `tried` that are well and for such calls, full or not."""
        return [standing.spec for standing in self._well(ask, tried)]

    async def _place(self, ask: Ask, tried: Collection[str]) -> Member:
        """A place on a runner; it has to be given back."""
        if (member := self._choose(ask, tried)) is not None:
            return member
        self._check(ask, tried)
        if self.queued >= self._config.queue_length:
            raise self._full("and so is the queue")
        waiter = Waiter(ask, tried)
        # Whoever was turned away by a runner has had its turn already.
        self._queue.push(ask.client, waiter, front=bool(tried))
        try:
            async with asyncio.timeout(self._config.queue_timeout_s):
                return await waiter.place
        except TimeoutError:
            self._leave(waiter)
            self._check(ask, tried)
            waited = f"no place came free within {self._config.queue_timeout_s:g} s"
            raise self._full(waited) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _choose(self, ask: Ask, tried: Collection[str]) -> Member | None:
        """A runner with a place for the call, which is taken then."""
        now_s = self._now_s()
        chosen = choose(ask, self._standings, now_s, self._random, tried)
        if chosen is None:
            return None
        chosen.begin(now_s)
        return self._members[chosen.spec.name]

    def _check(self, ask: Ask, tried: Collection[str]) -> None:
        """Raises what no wait for a place would mend."""
        specs = [member.runner.spec for member in self._members.values()]
        if ask.group is not None and not any(ask.group in spec.groups for spec in specs):
            raise BadRequest(f"There is no group {ask.group!r} of runners.")
        serving = [member for member in self._members.values() if ask.fits(member.runner.spec)]
        if not serving:
            where = "" if ask.group is None else f" of the group {ask.group!r}"
            what = (
                "a request that names no model" if ask.model is None else f"the model {ask.model!r}"
            )
            raise ModelNotFound(f"No runner{where} serves {what}.")
        if not any(m.standing.ready and m.runner.name not in tried for m in serving):
            wait_s = min(member.runner.retry_in_s for member in serving)
            raise NoRunner("No runner is ready just now; try again.", retry_after_s=max(1, wait_s))

    def _full(self, why: str) -> QueueFull:
        wait_s = self._free_rate.retry_after_s(self.queued, self._now_s())
        return QueueFull(f"All runners are full, {why}. Try again later.", retry_after_s=wait_s)

    # --- Places that come free ------------------------------------------------------------------

    def _over(self, member: Member, ending: End | RelayError | None) -> None:
        """A call on `member` is over, and its place free."""
        now_s = self._now_s()
        member.standing.end(now_s, outcome_of(ending))
        if not isinstance(ending, RunnerLost):  # whose place has gone with it
            self._free_rate.note(now_s)
        if self._queue:
            self._serve_queue(member)

    def _serve_queue(self, member: Member) -> None:
        """Hands the member's free places to those who wait for one."""
        standing = member.standing

        def suits(waiter: Waiter) -> bool:
            ask, tried = waiter.ask, waiter.tried
            # One that was cancelled a moment ago is on its way out.
            waits = not waiter.place.done() and standing.spec.name not in tried
            if not waits or not ask.fits(standing.spec):
                return False
            # A runner that is out is left to a later call, unless there is no other for this one.
            return standing.breaker.allows(self._now_s()) or not any(self._well(ask, tried))

        while self._queue and standing.ready and standing.has_room:
            waiter = self._queue.pop(suits)
            if waiter is None:
                return
            standing.begin(self._now_s())
            waiter.place.set_result(member)

    def _well(self, ask: Ask, tried: Collection[str]) -> Iterator[Standing]:
        """The ready runners for such calls, beside those in `tried`, that may have one."""
        now_s = self._now_s()
        return (s for s in fitting(ask, self._standings, tried) if s.breaker.allows(now_s))

    def _leave(self, waiter: Waiter) -> None:
        """Whoever waited is gone; should a place have come this moment, it is passed on."""
        if waiter.place.done() and not waiter.place.cancelled():
            self._over(waiter.place.result(), None)
        else:
            self._queue.remove(waiter.ask.client, waiter)
