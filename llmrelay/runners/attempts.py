"""One call's way over the runners: where it was tried, and where it may be tried next.

A call that has failed before its first byte goes to another runner if its error lets it, if there
is one, and if the budget has a retry left; all attempts together have the time of one. pool.py
gives the places, retry.py has the rule. Knows no HTTP: relay.py asks, and says when to give up.
"""

from __future__ import annotations

import asyncio
import logging

from runner_payload.messages import Call, Request

from ..config import Config
from ..errors import RelayError
from . import retry
from .call import LinkCall, Sink
from .pool import Pool
from .runner import Runner
from .selection import Ask

logger = logging.getLogger("llmrelay.runner")


class Attempts:
    """The attempts at one call.

    Attributes:
        log_fields: the runner that has it, and those that failed it, for the access log.
    """

    def __init__(self, pool: Pool, ask: Ask, call: Call | Request, config: Config) -> None:
        self.log_fields: dict[str, object] = {}
        self._pool = pool
        self._ask = ask
        self._call = call
        self._config = config
        # Name of the runner -> code of the error.
        self._failed: dict[str, str] = {}
        # For the first delta, from the first attempt on.
        self._deadline_s: float | None = None
        # And those that would not do better.
        self._passed_over: set[str] = set()
        self._runner: Runner
        self._now_s = asyncio.get_running_loop().time

    async def open(self, sink: Sink) -> LinkCall:
        """Opens the call on a runner that has not failed it.

        Raises:
            RelayError: there is none that takes it; as Pool.open.
        """
        self._runner, opened = await self._pool.open(
            self._ask, self._call, sink, self._passed_over, self._deadline_s
        )
        if self._deadline_s is None:
            self._pool.budget.deposit()
            self._deadline_s = self._now_s() + self._config.timeout_s
        self.log_fields["runner"] = self._runner.name
        return opened

    def again(self, error: RelayError) -> bool:
        """Whether the call, which `error` has ended before its first byte, is to be tried again."""
        failed = self._runner.spec
        self._passed_over.add(failed.name)
        others = self._pool.others(self._ask, self._passed_over)
        no_better = retry.unfit(error, failed, others)
        if (
            no_better is None
            or len(no_better) == len(others)
            or len(self._failed) >= self._config.retries
            or self._deadline_s is None
            or self._now_s() >= self._deadline_s
            or not self._pool.budget.withdraw()
        ):
            return False
        self._passed_over |= no_better
        self._failed[failed.name] = error.code
        self.log_fields["failed"] = ",".join(f"{n}:{code}" for n, code in self._failed.items())
        logger.info("%s: a call goes to another runner: %s", failed.name, error.message)
        return True
