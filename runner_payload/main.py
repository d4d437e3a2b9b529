"""The runner: frames from the front-end become calls, what upstream says becomes frames.

Everything here ends when stdin ends, when the front-end has been silent for the lease, or when it
sent GOAWAY and the last call is over. Knows no SSH and no openai: the first is stdio's business,
the second upstream's, which is imported only after HELLO has gone out, for it takes most of a
second.

In the flow: stdio -> here -> upstream, and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import platform
import signal
import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING

from . import log, stdio
from .messages import Call, End, Failure, GoAway, Hello, Key, Message, Ready, Request, Start
from .process import allow_descriptors, forbid_core_dumps
from .protocol import (
    MARKER,
    PROTOCOL_VERSION,
    FrameDecoder,
    FrameType,
    RemoteProtocolError,
    decode_credit,
    encode_frame,
)
from .running import RunningCall

if TYPE_CHECKING:
    from .upstream import Upstream

logger = logging.getLogger("runner")

# More than a front-end ever has under way; one that opens more has lost count.
MAX_CALLS = 65536
# Descriptors beside those of the calls: stdio, the loop, name look-ups, files being imported.
SPARE_DESCRIPTORS = 64
# The front-end has to send START within this of our HELLO, or it is not there any more.
START_TIMEOUT_S = 30.0
# For closing upstream connections after the front-end has gone.
END_TIMEOUT_S = 2.0


def main(digest: str) -> None:
    """Runs until the front-end is done with this runner; the process's exit status is 0 then."""
    forbid_core_dumps()
    descriptors = stdio.claim()
    log.configure()
    # The key and the upstream come from the front-end; what a login has set for other programs
    # (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS) is not meant for it.
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]
    # Ctrl-C on a terminal that we share with the front-end is meant for the front-end, which ends
    # us when its answers are through.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        # Not required: a read costs half as much with it.
        run = import_module("uvloop").run
    except ImportError:
        run = asyncio.run
    sys.exit(run(Runner(_hello(digest)).run(descriptors)))


def _hello(digest: str) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        digest=digest,
        python=platform.python_version(),
        executable=sys.executable,
        openai=_version("openai"),
        uvloop=_version("uvloop"),
        pid=os.getpid(),
        max_calls=max(1, allow_descriptors(MAX_CALLS + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _import_upstream() -> ModuleType:
    # Where it is installed the SDK imports aiohttp, which takes a third of the time, for a client
    # that is not the one we give it (transport.py). It copes with its absence.
    sys.modules.setdefault("aiohttp", None)  # type: ignore[arg-type]
    return import_module("runner_payload.upstream")


class Runner:
    """One link's other end."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._decoder = FrameDecoder()
        self._calls: dict[int, RunningCall] = {}
        self._draining = False
        self._over = asyncio.Event()
        self._exit_status = 0
        self._handlers = {
            FrameType.START: self._on_start,
            FrameType.PING: self._on_ping,
            FrameType.PONG: self._on_pong,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.KEY: self._on_key,
            FrameType.CALL: self._on_call,
            FrameType.REQUEST: self._on_request,
            FrameType.DATA: self._on_data,
            FrameType.END: self._on_end,
            FrameType.CANCEL: self._on_cancel,
            FrameType.CREDIT: self._on_credit,
        }

    async def run(self, descriptors: tuple[int, int]) -> int:
        """Serves the link until it is over; the process's exit status."""
        self._loop = asyncio.get_running_loop()
        self._stdio = stdio.Stdio(descriptors, self._feed, self._over.set)
        self._heard_at = self._loop.time()
        self._lease_s = START_TIMEOUT_S
        self._lease = self._loop.call_later(self._lease_s, self._check_lease)
        self._heartbeat: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        self._stdio.write(MARKER)
        self._send_message(FrameType.HELLO, self._hello)
        await self._over.wait()
        await self._end()
        return self._exit_status

    async def _end(self) -> None:
        if self._draining and not self._calls:
            # The last answer's end may stand behind much that a slow channel has yet to take.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stdio.flushed(), self._lease_s)
        self._lease.cancel()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        if self._starting is not None:
            tasks.append(self._starting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
        if self._upstream is not None:
            await self._upstream.close()
        self._stdio.close()

    # --- The link -------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            for frame_type, call_id, payload in self._decoder.feed(data):
                handler = self._handlers.get(FrameType(frame_type))
                if handler is None:
                    raise RemoteProtocolError(f"{FrameType(frame_type).name} to a runner")
                handler(call_id, payload)
        except RemoteProtocolError as error:
            logger.error("the front-end broke the protocol: %s", error)
            self._exit_status = 1
            self._over.set()

    def _send_message(self, frame_type: FrameType, message: Message, call_id: int = 0) -> None:
        self._stdio.write(encode_frame(frame_type, call_id, message.encode()))

    def _on_start(self, call_id: int, payload: bytes) -> None:
        if self._starting is not None:
            raise RemoteProtocolError("a second START")
        start = Start.decode(payload)
        log.conceal(start.api_key)
        self._start_settings = start
        self._lease_s = start.ping_timeout_s
        self._check_lease()
        self._beat()
        self._starting = self._loop.create_task(self._import_upstream(start))

    async def _import_upstream(self, start: Start) -> None:
        begun_at = self._loop.time()
        # What an import leaves is here to stay: looking through it again and again takes a tenth of
        # the time, and afterwards it need never be looked at.
        gc.disable()
        try:
            # In a thread: on a slow disk this takes long enough to miss PINGs.
            upstream = await self._loop.run_in_executor(None, _import_upstream)
            self._upstream = upstream.Upstream(start, self._hello.max_calls)
        except Exception as error:  # whatever it is, the front-end has to hear of it
            logger.exception("openai cannot be used")
            reason = log.concealed(f"openai cannot be used: {type(error).__name__}: {error}")
            self._send_message(FrameType.GOAWAY, GoAway(reason[:1000]))
            return
        self._send_message(FrameType.READY, Ready(self._loop.time() - begun_at))
        # Without collecting first: the hundred objects that it would find are not worth the time.
        gc.freeze()
        gc.enable()

    def _on_ping(self, call_id: int, payload: bytes) -> None:
        self._stdio.write(encode_frame(FrameType.PONG, 0, payload))

    def _on_pong(self, call_id: int, payload: bytes) -> None:
        """Having been heard is all that a PONG is for."""

    def _on_goaway(self, call_id: int, payload: bytes) -> None:
        GoAway.decode(payload)
        self._drain()

    def _on_key(self, call_id: int, payload: bytes) -> None:
        key = Key.decode(payload).api_key
        if self._upstream is None:
            raise RemoteProtocolError("KEY before READY")
        log.conceal(key)
        self._upstream.renew_key(key)

    def _on_sigterm(self) -> None:
        self._send_message(FrameType.GOAWAY, GoAway("the runner was asked to end (SIGTERM)"))
        self._drain()

    def _drain(self) -> None:
        self._draining = True
        if not self._calls:
            self._over.set()

    def _beat(self) -> None:
        self._stdio.write(encode_frame(FrameType.PING, 0, bytes(8)))
        self._heartbeat = self._loop.call_later(self._start_settings.ping_interval_s, self._beat)
        # Should this loop hang, the kernel ends the process instead: none outlives its front-end.
        signal.setitimer(signal.ITIMER_REAL, self._lease_s)

    def _check_lease(self) -> None:
        self._lease.cancel()
        due = self._heard_at + self._lease_s
        if self._loop.time() >= due:
            logger.warning("nothing from the front-end for %g s: ending", self._lease_s)
            self._over.set()
        else:
            self._lease = self._loop.call_at(due, self._check_lease)

    # --- Calls ----------------------------------------------------------------------------------

    def _on_call(self, call_id: int, payload: bytes) -> None:
        self._open(call_id, Call.decode(payload))

    def _on_request(self, call_id: int, payload: bytes) -> None:
        self._open(call_id, Request.decode(payload))

    def _open(self, call_id: int, call: Call | Request) -> None:
        if call_id in self._calls:
            raise RemoteProtocolError(f"call {call_id} is under way already")
        if self._upstream is None:
            raise RemoteProtocolError("CALL before READY")
        if self._draining or len(self._calls) >= self._hello.max_calls:
            self._send_message(
                FrameType.ERROR,
                Failure("runner_lost", "The runner takes no more calls; try again."),
                call_id,
            )
            return
        running = RunningCall(call_id, call, self._stdio, self._start_settings)
        self._calls[call_id] = running
        if running.streamed:
            self._run(running, self._upstream)

    def _on_data(self, call_id: int, payload: bytes) -> None:
        running = self._calls.get(call_id)
        # A call that has just ended here may still get frames that were under way.
        if running is not None:
            running.inbound.receive(payload)

    def _on_end(self, call_id: int, payload: bytes) -> None:
        running = self._calls.get(call_id)
        if running is None:
            return
        running.inbound.end()
        if running.task is None:
            assert self._upstream is not None
            self._run(running, self._upstream)

    def _run(self, running: RunningCall, upstream: Upstream) -> None:
        running.task = self._loop.create_task(running.run(upstream))
        running.task.add_done_callback(lambda task: self._on_done(running, task))

    def _on_cancel(self, call_id: int, payload: bytes) -> None:
        running = self._calls.get(call_id)
        if running is None:
            return
        if running.task is not None:
            running.task.cancel()
        else:
            self._confirm_cancel(running)

    def _on_done(self, running: RunningCall, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._confirm_cancel(running)
        else:
            self._forget(running)

    def _confirm_cancel(self, running: RunningCall) -> None:
        """The call is over and its upstream connection closed: its place is free."""
        self._send_message(FrameType.END, End(), running.call_id)
        self._forget(running)

    def _on_credit(self, call_id: int, payload: bytes) -> None:
        amount = decode_credit(payload)
        running = self._calls.get(call_id)
        if running is not None:
            running.grant(amount)

    def _forget(self, running: RunningCall) -> None:
        del self._calls[running.call_id]
        if self._draining and not self._calls:
            self._over.set()
