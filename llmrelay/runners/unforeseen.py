"""A bug on the way to a host, as a failure like any other: it is told of, and tried again.

Of ours, or of a library's on a bad day. What is served beside it, and the next attempt, are worth
more than an exit.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..errors import RelayError, RunnerBroken

logger = logging.getLogger("llmrelay.runner")


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Logs an exception that is no RelayError, with its traceback.

    Args:
        name: of the runner or shared host that it happened to.

    Raises:
        RunnerBroken: in its place.
    """
    try:
        yield
    except RelayError:
        raise
    except Exception as bug:
        logger.exception("%s: connecting failed", name)
        raise RunnerBroken("Connecting failed in a way that was not foreseen.") from bug
