"""How long to wait before what was lost is tried again: ever longer, and never all at once.

Pure but for the jitter. Used for runners (runner.py) and for shared hosts (shared.py).
"""

from __future__ import annotations

import random

from ..errors import ConnectError, RelayError

MIN_S = 0.5
MAX_S = 30.0
# What a person has to mend is tried ever more rarely: a login refused, a host key changed.
MAX_STUCK_S = 300.0
# What lived for so long was well: its loss is the first one again.
STEADY_S = 30.0


class Backoff:
    """The waits of one runner or shared host."""

    def __init__(self) -> None:
        self._losses = 0

    def next_s(self, error: RelayError, lived_s: float) -> float:
        """The wait after a loss, in seconds, with its jitter.

        Args:
            error: why; one that does not heal by itself may be waited for longer.
            lived_s: how long what was lost had been well; 0 for an attempt that failed, however
                long that took.
        """
        self._losses = 1 if lived_s >= STEADY_S else self._losses + 1
        heals = not isinstance(error, ConnectError) or error.heals
        wait_s = min(MIN_S * 2.0 ** min(self._losses - 1, 16), MAX_S if heals else MAX_STUCK_S)
        return wait_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
