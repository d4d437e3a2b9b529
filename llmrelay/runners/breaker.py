"""Takes out a runner that keeps failing, and lets one call at a time try it again.

Counts failures, less the calls that went well: a runner that fails now and then is only chosen less
often (standing.py), one that fails more often than not would still cost each of its callers an
attempt. A count of failures in a row would not do: where answers take a minute, those that began
before a host broke end well for as long, in between. Pure: the time is an argument, in seconds.
"""

from __future__ import annotations

# So many more failures than successes are no bad luck: where one call in five fails, it comes to
# that after one failure in 340 (the gambler's ruin: 3 / 1,023).
FAILURES = 5
# Long enough for a server to start again, short enough that nobody misses it for long after that.
MIN_OUT_S = 5.0
MAX_OUT_S = 60.0


class Breaker:
    """Whether calls may go to one runner."""

    def __init__(self) -> None:
        self._failures = 0
        self._out_until_s: float | None = None
        self._out_s = 0.0
        self._trying = False
        # Whether a call has gone there since it was taken out, or since the last one that tried it.
        self._asked = False

    @property
    def out(self) -> bool:
        """Whether it is taken out, but for a call that tries it."""
        return self._out_until_s is not None

    def allows(self, now_s: float) -> bool:
        """Whether a call may go there now."""
        return self._out_until_s is None or (now_s >= self._out_until_s and not self._trying)

    def begin(self, now_s: float) -> None:
        """A call goes there; if it was out, to try it."""
        if self._out_until_s is not None:
            self._asked = True
            self._trying = self._trying or now_s >= self._out_until_s

    def succeed(self) -> None:
        """A call there went well: if it was out, it is well."""
        if self._out_until_s is None:
            self._failures = max(0, self._failures - 1)
        elif self._asked:  # answers that began before it was taken out say nothing new
            self.__init__()  # type: ignore[misc]

    def fail(self, now_s: float) -> None:
        """A call there failed."""
        self._failures += 1
        if self._failures < FAILURES:
            return
        # Those that were under way when it was taken out say nothing new.
        if self._out_until_s is None or self._trying:
            self._out_s = min(self._out_s * 2 or MIN_OUT_S, MAX_OUT_S)
            self._out_until_s = now_s + self._out_s
            self._asked = False
        self._trying = False

    def abandon(self) -> None:
        """A call there ended without a word on the runner: another may try it."""
        self._trying = False
