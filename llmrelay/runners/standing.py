"""How a runner stands: what there is to know of it for choosing one.

Its calls in flight, and how it did of late. A runner that fails at once never has calls in flight,
and would look like the fastest of all: so what counts is success. Pure: the time is an argument, in
seconds. A snapshot that ranks: whether a runner takes a call is for the runner to say.
"""

from __future__ import annotations

import enum

from runner_payload.messages import End

from ..errors import RelayError
from .breaker import Breaker
from .spec import RunnerSpec

# What a failure leaves of a runner's success, and how fast it comes back: half of what is missing
# with time, a fifth with a call that went well.
_FAILURE = 0.7
_RECOVERY_S = 15.0
_SUCCESS = 0.2
_LEAST = 0.01
# From here on it did well: where few calls come, each goes to one of the best, and the last trace
# of a failure would keep a runner without any for a quarter of an hour.
_WELL = 0.95


class Outcome(enum.Enum):
    """What the end of a call says of its runner."""

    OK = enum.auto()
    FAILED = enum.auto()
    ABANDONED = enum.auto()  # nothing


def outcome_of(ending: End | RelayError | None) -> Outcome:
    """What it says that a call ended so; None if we have cancelled it."""
    if ending is None:
        return Outcome.ABANDONED
    return Outcome.FAILED if isinstance(ending, RelayError) and ending.fault else Outcome.OK


class Standing:
    """One runner, as those who choose see it.

    Attributes:
        spec: what it is to be.
        max_calls: how many calls it may have at once.
        ready: whether it takes calls, as far as is known here.
        in_flight: calls that it has, cancelled ones included until the runner confirms.
    """

    def __init__(self, spec: RunnerSpec, max_calls: int) -> None:
        self.spec = spec
        self.max_calls = max_calls
        self.ready = False
        self.in_flight = 0
        self.breaker = Breaker()
        self._success = 1.0
        self._success_at_s = 0.0

    @property
    def has_room(self) -> bool:
        """Whether another call may be opened on it."""
        return self.in_flight < self.max_calls

    def cost(self, now_s: float) -> float:
        """How busy it would be with one more call, for its weight and its success of late."""
        return (self.in_flight + 1) / (self.spec.weight * self.success(now_s))

    def success(self, now_s: float) -> float:
        """How it did of late: 1 for well, 0.01 for not at all."""
        missing = 1 - self._success
        if missing:
            missing *= 0.5 ** ((now_s - self._success_at_s) / _RECOVERY_S)
        if missing <= 1 - _WELL:
            return 1.0
        return max(_LEAST, 1 - missing)

    def begin(self, now_s: float) -> None:
        """A call is opened on it."""
        self.in_flight += 1
        self.breaker.begin(now_s)

    def end(self, now_s: float, outcome: Outcome) -> None:
        """A call on it is over."""
        self.in_flight -= 1
        if outcome is Outcome.ABANDONED:
            self.breaker.abandon()
            return
        success = self.success(now_s)
        self._success_at_s = now_s
        if outcome is Outcome.OK:
            self._success = success + (1 - success) * _SUCCESS
            self.breaker.succeed()
        else:
            self._success = success * _FAILURE
            self.breaker.fail(now_s)
