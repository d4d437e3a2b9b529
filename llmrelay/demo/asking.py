"""The demo's client: one prompt to `POST /chat`, as curl sends it, and the answer as it comes.

Blocking, to be run in a thread: what it measures is what any other client sees, and a terminal that
is slow to print does not hold up the front-end's loop. Knows an address and a prompt; demo.py runs
it and shows what it brings.
"""

from __future__ import annotations

import codecs
import http.client
import time
from collections.abc import Callable

from ..chatting.connection import AskingFailed, Connection, parse_front_end_url
from ..chatting.terminal import harmless
from ..values import ListenAddress

_READ_BYTES = 64 * 1024


class Asking:
    """A prompt and its answer.

    Attributes:
        deltas: how many pieces came, each a chunk; deltas that upstream sent at once count as one.
        first_delta_s: from the request to the first of them.
        deltas_s: from the first to the last.
    """

    def __init__(self, address: ListenAddress, prompt: str) -> None:
        self.deltas = 0
        self.first_delta_s = 0.0
        self.deltas_s = 0.0
        # A prompt that was no text on the command line goes out as the bytes that it was.
        self._body = prompt.encode("utf-8", "surrogateescape")
        self._connection = Connection(parse_front_end_url(f"http://{address}"))

    def run(self, show: Callable[[str], None]) -> None:
        """Asks, and gives `show` the answer's text piece by piece.

        Raises:
            AskingFailed: the answer is an error, or was cut, or we left.
        """
        try:
            self._ask(show)
        except (OSError, http.client.HTTPException) as error:
            raise AskingFailed(
                "The answer was cut before its end; --log-level info says more."
            ) from error
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Ends run() from another thread, as Ctrl-C ends curl: the socket closes midway."""
        self._connection.leave()

    def _ask(self, show: Callable[[str], None]) -> None:
        begun_at_s = time.monotonic()
        response = self._connection.post(self._body, {})
        first_at_s = 0.0
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # One chunk at a time, as each comes.
        while piece := response.read1(_READ_BYTES):
            now_s = time.monotonic()
            first_at_s = first_at_s or now_s
            self.deltas += 1
            self.first_delta_s = first_at_s - begun_at_s
            self.deltas_s = now_s - first_at_s
            show(harmless(decoder.decode(piece)))
