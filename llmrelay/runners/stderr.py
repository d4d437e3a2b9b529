"""A runner's stderr: its log, forwarded under its name.

Always drained, so that a talkative runner is never held up, and bounded: a line that does not end
is cut. The runner's own lines begin with their level; anything else (a shell, a traceback of the
interpreter) is passed on as a warning once the runner has said HELLO, and as noise before.
"""

from __future__ import annotations

import logging
from collections import deque

from ..peer_text import one_line

logger = logging.getLogger("llmrelay.runner")

MAX_LINE_BYTES = 8 * 1024
# Enough to say why a runner did not start.
_KEPT_LINES = 8


class StderrLog:
    """Lines out of bytes, into the log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        # Before HELLO it is the login that talks: greetings are not worth a warning.
        self.plain_level = logging.DEBUG

    @property
    def lines(self) -> list[str]:
        """The last lines, without their levels."""
        return list(self._last)

    def feed(self, data: bytes) -> None:
        """Bytes, in any split."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log(line)
        self._rest = rest
        if len(rest) > MAX_LINE_BYTES:
            self.flush()

    def flush(self) -> None:
        """What has no line end yet, as a line."""
        rest, self._rest = self._rest, b""
        self._log(rest)

    def _log(self, line: bytes) -> None:
        text = one_line(line[:MAX_LINE_BYTES].decode("utf-8", "replace"), MAX_LINE_BYTES)
        if not text:
            return
        level_name, _, message = text.partition(" ")
        level = logging.getLevelNamesMapping().get(level_name)
        if level is None or not message:
            level, message = self.plain_level, text
        self._last.append(message)
        logger.log(level, "%s: %s", self._name, message)
