"""A steady load: so many calls at once, each one looked at from its first byte to its last.

Every call has a name of its own, which upstream repeats with each delta: a whole answer is exactly
`name:0 … name:49`, and anything else is wrong, unless the connection was cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .upstream import DELTAS

# No call takes so long: five seconds, twice that where upstream is slow, and its retries.
HUNG_S = 60.0
# After a failure a client waits for a moment, as people and SDKs do.
PAUSE_S = 0.5


# A call is whole; cut, after its first byte; failed, with a status before it; lost, without any
# response; hung, over the limit; or wrong, a text that is not its own or not in its order.
ENDINGS = ("whole", "cut", "failed", "lost", "hung", "wrong")


@dataclass
class Result:
    """How one call went.

    Attributes:
        ended: one of ENDINGS.
        runner: which had it last, from the access log.
    """

    name: str
    ended: str
    status: int
    begun_at_s: float
    ended_at_s: float
    request_id: str = ""
    detail: str = ""
    runner: str = ""
    failed_on: str = ""


class Load:
    """The calls, until it is stopped."""

    def __init__(self, port: int, at_once: int) -> None:
        self.results: list[Result] = []
        self._port = port
        self._at_once = at_once
        self._stop = asyncio.Event()
        self._count = 0

    async def run(self) -> None:
        """Returns when the last call is over, after stop()."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._client())

    def stop(self) -> None:
        """No new calls."""
        self._stop.set()

    async def _client(self) -> None:
        while not self._stop.is_set():
            self._count += 1
            result = await self.call(f"call{self._count}")
            self.results.append(result)
            if result.ended != "whole":
                await asyncio.sleep(PAUSE_S)

    async def call(self, name: str) -> Result:
        """One call, whose prompt is its name."""
        begun_at_s = time.time()
        ended, status, request_id, detail = "hung", 0, "", ""
        try:
            async with asyncio.timeout(HUNG_S):
                ended, status, request_id, detail = await self._ask(name)
        except TimeoutError:
            pass
        except OSError as error:
            ended, detail = "lost", str(error)
        return Result(name, ended, status, begun_at_s, time.time(), request_id, detail)

    async def _ask(self, name: str) -> tuple[str, int, str, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                b"POST /chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(name), name.encode())
            )
            answer = b""
            # A reset ends an answer as well as an end does; what came before it counts.
            with contextlib.suppress(ConnectionResetError):
                while data := await reader.read(65536):
                    answer += data
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head:
            return "lost", 0, "", "no response"
        status = int(head.split(b" ", 2)[1])
        headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        request_id = headers.get(b"x-request-id", b"").decode()
        if status != 200:
            return "failed", status, request_id, headers.get(b"x-error-code", b"").decode()
        text, whole = _unchunked(body)
        return _judged(name, text, whole=whole), status, request_id, f"{len(text)} B"


def _unchunked(body: bytes) -> tuple[bytes, bool]:
    """The text of a chunked body, and whether its last chunk is there (RFC 9112, section 7.1)."""
    text = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        if length == 0:
            return text, rest.endswith(b"\r\n")
        text += rest[:length]
        body = rest[length + 2 :]
    return text, False


def _judged(name: str, text: bytes, *, whole: bool) -> str:
    expected = "".join(f"{name}:{number} " for number in range(DELTAS)).encode()
    if whole:
        return "whole" if text == expected else "wrong"
    return "cut" if expected.startswith(text) else "wrong"


def counted(results: list[Result], what: Callable[[Result], str]) -> Counter[str]:
    return Counter(what(result) for result in results)
