"""A scripted OpenAI-compatible upstream on a real loopback socket.

A test says step by step what upstream does to a request: deltas, pauses, gates, errors, malformed
events, cut connections, bytes that are not HTTP. Every byte is written by hand, without an HTTP
library, so that no fault is out of reach; and every request is recorded together with when and by
whom it was ended, because "the upstream request was cancelled" is what many tests want to know.

It may not know llmrelay: it imports neither of the two packages, and stands at the far end of the
flow, where a real API would be. Standard library only.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.helpers.upstream_connection import Connection, Recorded
from tests.helpers.upstream_script import (
    CleanEnd,
    Cut,
    Delta,
    Done,
    ErrorEvent,
    Event,
    Finish,
    Garbage,
    Headers,
    NoAnswer,
    Pause,
    Raw,
    ReadBody,
    Script,
    Silence,
    Status,
    Step,
    Together,
    Usage,
    WaitFor,
    Wire,
    answer,
    encode,
    sse,
    together,
)

__all__ = [
    "HOST",
    "CleanEnd",
    "Cut",
    "Delta",
    "Done",
    "ErrorEvent",
    "Event",
    "Finish",
    "Garbage",
    "Headers",
    "NoAnswer",
    "Pause",
    "Raw",
    "ReadBody",
    "Recorded",
    "Script",
    "ScriptSource",
    "ScriptedUpstream",
    "Silence",
    "Status",
    "Step",
    "ThreadedUpstream",
    "Together",
    "Usage",
    "WaitFor",
    "Wire",
    "answer",
    "encode",
    "refused_base_url",
    "sse",
    "together",
]

HOST = "127.0.0.1"
BACKLOG = 1024  # asyncio's 100 makes some of 300 connections at once wait for a SYN retry of 1 s
STOP_LIMIT_S = 15.0


@contextmanager
def refused_base_url() -> Iterator[str]:
    """A base_url at which connections are refused: the port is taken, and nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind((HOST, 0))
        yield f"http://{HOST}:{taken.getsockname()[1]}/v1"


ScriptSource = Script | Callable[[Recorded], Script]


# --- The server ---------------------------------------------------------------------------------


class ScriptedUpstream:
    """`async with ScriptedUpstream(script) as upstream:` serves in the test's own event loop.

    `script` answers every chat completion, and may be a function of the request (use one for a
    generator, which can be read only once). `queue` holds scripts for the first requests, one for
    each; when it is empty, `script` answers again. Both may be changed while it serves. `paths`
    answers other targets, such as /v1/embeddings, whatever the method (openai_api.py has them all).
    A mistake in a script, or a request that is not HTTP, is raised when the context ends.
    """

    def __init__(
        self,
        script: ScriptSource | None = None,
        *,
        queue: Iterable[ScriptSource] = (),
        models: Iterable[str] = ("gpt-4o-mini",),
        paths: Mapping[str, ScriptSource] | None = None,
        send_buffer_bytes: int | None = None,
    ) -> None:
        self.script: ScriptSource = answer("Hello", ", ", "world") if script is None else script
        self.queue: deque[ScriptSource] = deque(queue)
        self.models = tuple(models)
        self.paths = dict(paths or {})
        # Targets whose requests are answered from their head on: their scripts read the body.
        self.uploads: set[str] = set()
        self.requests: list[Recorded] = []
        self.failures: list[BaseException] = []
        self.connections_total = 0
        self._send_buffer_bytes = send_buffer_bytes
        self._connections: set[Connection] = set()
        self._gates: dict[str, asyncio.Event] = {}
        self._arrival = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        assert self._port, "not started"
        return self._port

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    @property
    def connections_open(self) -> int:
        return len(self._connections)

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def open(self, name: str) -> None:
        """Lets every `WaitFor(name)` pass, now and later."""
        self.gate(name).set()

    async def wait_for_requests(self, count: int, timeout_s: float = 20.0) -> list[Recorded]:
        """Returns when `count` requests, answered or not, have been read."""
        async with asyncio.timeout(timeout_s):
            while len(self.requests) < count:
                self._arrival.clear()
                await self._arrival.wait()
        return self.requests

    async def __aenter__(self) -> Self:
        # A socket of our own: SO_SNDBUF has to be set before connections inherit it.
        # asyncio turns Nagle's algorithm off only where the protocol is said.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        listener.bind((HOST, 0))
        self._port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=listener, backlog=BACKLOG)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        async with asyncio.timeout(STOP_LIMIT_S):
            # What was accepted in this turn of the loop joins the set in the next but one.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            while self._connections:
                await asyncio.gather(*[connection.stop() for connection in self._connections])
            await self._server.wait_closed()
        # The test's own failure says more than what followed from it.
        if self.failures and error is None:
            raise self.failures[0]

    @contextmanager
    def in_thread(self) -> Iterator[ThreadedUpstream]:
        """Serves from a thread with a loop of its own, for tests that are not async."""
        ready = threading.Event()
        threaded = ThreadedUpstream(self)
        raised: list[BaseException] = []

        async def serve() -> None:
            async with self:
                threaded.loop = asyncio.get_running_loop()
                ready.set()
                await threaded.stop.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # noqa: BLE001 - handed to the test's thread
                raised.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="scripted-upstream")
        thread.start()
        ready.wait()
        try:
            if not raised:
                yield threaded
        finally:
            threaded.call(threaded.stop.set)
            thread.join()
        if raised:
            raise raised[0]

    def _connect(self) -> Connection:
        self.connections_total += 1
        return Connection(self, self.connections_total)

    def script_for(self, recorded: Recorded) -> Script:
        target = recorded.path.partition("?")[0]
        if target == "/v1/chat/completions":
            if recorded.method != "POST":
                return [Status(405, {"allow": "POST"}, message="only POST")]
            source = self.queue.popleft() if self.queue else self.script
            return source(recorded) if callable(source) else source
        if target in self.paths:
            source = self.paths[target]
            return source(recorded) if callable(source) else source
        if target == "/v1/models":
            if recorded.method != "GET":
                return [Status(405, {"allow": "GET"}, message="only GET")]
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "scripted"}
                for name in self.models
            ]
            return [Status(200, body={"object": "list", "data": models})]
        return [Status(404, message=f"no such path: {target}")]

    def record(self, recorded: Recorded) -> None:
        self.requests.append(recorded)
        self._arrival.set()

    def join(self, connection: Connection) -> None:
        self._connections.add(connection)

    def leave(self, connection: Connection) -> None:
        self._connections.discard(connection)


class ThreadedUpstream:
    """What a test in another thread may do with an upstream: every call goes to its loop."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stop = asyncio.Event()

    @property
    def base_url(self) -> str:
        return self.upstream.base_url

    @property
    def requests(self) -> list[Recorded]:
        return self.upstream.requests

    def call(self, what: Callable[[], object]) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(what)

    def open(self, name: str) -> None:
        self.call(lambda: self.upstream.open(name))

    def wait_for_requests(self, count: int, timeout_s: float = 20.0) -> list[Recorded]:
        assert self.loop is not None
        waiting = self.upstream.wait_for_requests(count, timeout_s)
        return asyncio.run_coroutine_threadsafe(waiting, self.loop).result()

    def wait_for(self, event: asyncio.Event, timeout_s: float = 20.0) -> None:
        """Waits for one of a request's events, such as `client_closed`, or raises TimeoutError."""

        async def waiting() -> None:
            async with asyncio.timeout(timeout_s):
                await event.wait()

        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(waiting(), self.loop).result()
