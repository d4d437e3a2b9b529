"""What the Python programs of this folder share: their arguments, and a line for each feature.

`ok NAME` or `FAILED NAME: reason` on stdout, in the order of the functions. Beside it the words and
files that they ask with, so that each looks for the same answers. Knows no client library; standard
library only, as these programs run in a virtual environment of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

MODEL = "gpt-4o-mini"
PROMPT = "Grüße aus Zürich, 東京 🚀"
ANSWER = f"You said: {PROMPT}"
# As long as all of the library's own limits are not reached: a client that hangs says where.
LIMIT_S = 20.0
SPEECH_BYTES = 200_000
# Upstream waits 0.3 s behind the first piece: a relay that collects the answer has no such gap.
SPEECH_GAP_S = 0.15

# Not text, with every byte in it, and longer than a call's window.
RECORDING = b"RIFF\x24\x08\x00\x00WAVEfmt " + bytes(range(256)) * 2000
PICTURE = b"\x89PNG\r\n\x1a\n\r\n--" + bytes(range(256)) * 40
DOCUMENT = b"%PDF-1.7\n" + bytes(range(256)) * 40

PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FITTING = {"city": "Zürich", "days": 21}

Feature = TypeVar("Feature", bound=Callable[[], Any])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sound(words: str) -> bytes:
    """What upstream makes of words."""
    return hashlib.shake_256(words.encode()).digest(SPEECH_BYTES)


def equal(got: object, wanted: object) -> None:
    """An assertion that says both."""
    if got != wanted:
        raise AssertionError(f"{got!r:.300} instead of {wanted!r:.300}")


class Report:
    """`@report("name")` on a function, async or not; then `report.run()` runs them all.

    Attributes:
        base_url, key: the program's arguments.
    """

    def __init__(self) -> None:
        _, self.base_url, self.key = sys.argv
        self._features: list[tuple[str, Callable[[], Any]]] = []

    def __call__(self, name: str) -> Callable[[Feature], Feature]:
        def register(feature: Feature) -> Feature:
            self._features.append((name, feature))
            return feature

        return register

    def run(self) -> None:
        # One loop for all that are async, as an asynchronous client has connections in it; and
        # none around the others.
        with asyncio.Runner() as runner:
            for name, feature in self._features:
                begun_s = time.monotonic()
                try:
                    ended = feature()
                    if inspect.isawaitable(ended):
                        runner.run(_within_limit(ended))
                except Exception as error:  # noqa: BLE001 - it is the result
                    why = " ".join(f"{type(error).__name__}: {error}".split())
                    print(f"FAILED {name}: {why}", flush=True)
                    traceback.print_exc()
                else:
                    print(f"ok {name}", flush=True)
                print(f"{name}: {time.monotonic() - begun_s:.2f} s", file=sys.stderr)


async def _within_limit(ending: Awaitable[None]) -> None:
    async with asyncio.timeout(LIMIT_S):
        await ending
