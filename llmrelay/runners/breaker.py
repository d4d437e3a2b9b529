"""Takes out a runner that keeps failing, and lets one call at a time try it again.

Counts failures in a row: a runner that fails now and then is only chosen less often (standing.py),
one that fails every time would still cost each of its callers an attempt. Pure: the time is an
argument, in seconds.
"""

from __future__ import annotations

# So many in a row are no bad luck: of a runner that fails one call in five it is one row in 3,000.
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

    @property
    def out(self) -> bool:
        """Whether it is taken out, but for a call that tries it."""
        return self._out_until_s is not None

    def allows(self, now_s: float) -> bool:
        """Whether a call may go there now."""
        return self._out_until_s is None or (now_s >= self._out_until_s and not self._trying)

    def begin(self, now_s: float) -> None:
        """A call goes there; if it was out, to try it."""
        if self._out_until_s is not None and now_s >= self._out_until_s:
            self._trying = True

    def succeed(self) -> None:
        """A call there went well: it is well."""
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
        self._trying = False

    def abandon(self) -> None:
        """A call there ended without a word on the runner: another may try it."""
        self._trying = False
