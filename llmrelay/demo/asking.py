"""The demo's client: one prompt to `POST /chat`, as curl sends it, and the answer as it comes.

Blocking, with the standard library's HTTP client, to be run in a thread: what it measures is what
any other client sees, and a terminal that is slow to print does not hold up the front-end's loop.
Knows an address and a prompt; demo.py runs it and shows what it brings.
"""

from __future__ import annotations

import codecs
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable

from ..values import ListenAddress

_READ_BYTES = 64 * 1024
# An answer comes from another machine: it may not steer the terminal that shows it.
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "?") | {ord(c): c for c in "\t\n"}


class AskingFailed(Exception):
    """There is no answer, or no whole one; says why in a sentence."""


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
        self._connection = http.client.HTTPConnection(address.host, address.port)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._left = False

    def run(self, show: Callable[[str], None]) -> None:
        """Asks, and gives `show` the answer's text piece by piece.

        Raises:
            AskingFailed: the answer is an error, or was cut, or we left.
        """
        try:
            self._connect()
            self._ask(show)
        except (OSError, http.client.HTTPException) as error:
            raise AskingFailed(
                "The answer was cut before its end; --log-level info says more."
            ) from error
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Ends run() from another thread, as Ctrl-C ends curl: the socket closes midway."""
        with self._lock:
            self._left = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> None:
        self._connection.connect()
        with self._lock:
            self._socket = self._connection.sock
            if self._left:
                raise ConnectionAbortedError

    def _ask(self, show: Callable[[str], None]) -> None:
        begun_at_s = time.monotonic()
        self._connection.request("POST", "/chat", self._body)
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            raise AskingFailed(response.read().decode("utf-8", "replace").strip())
        first_at_s = 0.0
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # One chunk at a time, as each comes.
        while piece := response.read1(_READ_BYTES):
            now_s = time.monotonic()
            first_at_s = first_at_s or now_s
            self.deltas += 1
            self.first_delta_s = first_at_s - begun_at_s
            self.deltas_s = now_s - first_at_s
            show(decoder.decode(piece).translate(_CONTROLS))
