"""What happens when open files run out: one line that says what to do, and the server goes on.

Clients alone cannot bring that about: serve.py makes the limits on connections fit. Something else
in the process or on the machine has to take them. Then asyncio stops accepting for a second at a
time, with a traceback for each of up to backlog attempts; uvloop (libuv) closes what it cannot keep
and says nothing. What is open already goes on with either.

Knows file descriptors and the loop's exception handler, no connections. Used by server.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from typing import Any, Final

logger = logging.getLogger("llmrelay.http")

# A new descriptor is the lowest that is free: one so close to the limit says that nearly all are
# in use. It is the only sign of it that libuv gives.
NEARLY_OUT: Final = 16
# So often it is said while it lasts.
REPEAT_S: Final = 60.0

_OUT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class DescriptorWatch:
    """Says that open files run out, once a minute at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._said_at_s: float | None = None

    def install(self) -> None:
        """Take asyncio's reports of failed accepts; all else goes where it went before."""
        before = self._loop.get_exception_handler()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and error.errno in _OUT and "socket" in context:
                self._say(error.strerror or str(error))
            elif isinstance(error, ValueError) and "file descriptor: -1" in str(error):
                pass  # asyncio wanted to try again, and the server has been closed meanwhile
            elif before is not None:
                before(loop, context)
            else:
                loop.default_exception_handler(context)

        self._loop.set_exception_handler(handle)

    def opened(self, descriptor: int) -> None:
        """Look at the descriptor of a new connection."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY and descriptor >= limit - NEARLY_OUT:
            self._say(f"nearly all of {limit} open files are in use")

    def _say(self, what: str) -> None:
        now_s = self._loop.time()
        if self._said_at_s is None or now_s >= self._said_at_s + REPEAT_S:
            self._said_at_s = now_s
            logger.error(
                "no more connections can be taken for now: %s; raise the limit (ulimit -n, or"
                " LimitNOFILE= of a systemd unit), or lower --max-connections",
                what,
            )
