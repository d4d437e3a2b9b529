"""The runner's log: lines on stderr, which the front-end forwards under the runner's name.

Each line begins with its level, so that the front-end can give it the same. The key is replaced
in whatever is logged, tracebacks included. Knows nothing of frames.
"""

from __future__ import annotations

import logging
import sys

_secrets: list[str] = []
# An upstream that needs no key is given any word, which may be part of others.
_LEAST_CHARS = 8


def conceal(secret: str) -> None:
    """From now on `secret` is written as ***; but not a word that stands for no key at all."""
    if len(secret) >= _LEAST_CHARS and secret not in _secrets:
        _secrets.append(secret)
        # One that another begins with would leave the other's end.
        _secrets.sort(key=len, reverse=True)


def concealed(text: str) -> str:
    """`text` without any secret."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = concealed(super().format(record)).splitlines()
        return "\n".join(f"{record.levelname} {line}" for line in lines)


def configure() -> None:
    """Sends all logging to stderr; libraries are heard from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("runner").setLevel(logging.INFO)
