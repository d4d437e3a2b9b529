"""The link: many calls at once over one byte channel.

Finds the marker behind whatever the login printed, exchanges HELLO, START and READY, and from then
on multiplexes: frames to sinks, prompts to frames, credit both ways, PING. Knows no SSH (any
ByteChannel will do) and no HTTP (any Sink will do).

The way back of a delta is `feed`, and it is hot: the bytes that the channel hands over are split
into frames, and each goes to its call's sink in the same callback. No task wakes, no future is set
and no timer is armed per delta. All that is sent in one loop turn leaves in one write, and a
sink does the same towards its client (http/outgoing.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from runner_payload.messages import (
    Call,
    End,
    Failure,
    GoAway,
    Hello,
    Key,
    Message,
    Ready,
    Request,
    Response,
    Start,
)
from runner_payload.protocol import (
    DATA,
    MARKER,
    MAX_CALL_ID,
    MAX_NOISE_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameDecoder,
    FrameType,
    RemoteProtocolError,
    decode_credit,
    encode_frame,
)

from ..errors import BY_CODE, BadRequest, RelayError, RunnerFailed, RunnerLost, UpstreamAnswer
from ..peer_text import one_line
from ..secret import Secret
from .call import LinkCall, OnOver, Sink
from .channel import ByteChannel
from .stderr import StderrLog

logger = logging.getLogger("llmrelay.runner")


# What calls may queue in one loop turn before they wait: prompts in small pieces hold up nobody
# only if few pieces stand in front of a CANCEL.
MAX_UNSENT_BYTES = 256 * 1024


class Link:
    """The front-end's end of a channel.

    Args:
        name: the runner's, for the log.
        on_lost: called once when the link is of no more use, with the reason.
    """

    def __init__(self, name: str, on_lost: Callable[[Link, str], None]) -> None:
        self.name = name
        # Set once the command runs.
        self.channel: ByteChannel | None = None
        self.exit_status: int | None = None
        # No new calls: the runner said so, or we did.
        self.draining = False
        # Called when the runner says so, once it takes calls.
        self.on_draining: Callable[[], None] = lambda: None
        self.stderr = StderrLog(name)
        self.feed_stderr = self.stderr.feed
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self.lost = False
        # What the login prints before the marker; None once that has come.
        self._noise: bytearray | None = bytearray()
        self._decoder = FrameDecoder()
        self._calls: dict[int, LinkCall] = {}
        self._last_id = 0
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._hello: asyncio.Future[Hello] = self._loop.create_future()
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._start: Start | None = None
        self._heard_at = self._loop.time()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._handlers: dict[int, Callable[[int, bytes], None]] = {
            FrameType.HELLO: self._on_hello,
            FrameType.READY: self._on_ready,
            FrameType.PING: self._on_ping,
            FrameType.PONG: self._on_pong,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.RESPONSE: self._on_response,
            FrameType.END: self._on_end,
            FrameType.ERROR: self._on_error,
            FrameType.CREDIT: self._on_credit,
        }

    @property
    def calls(self) -> int:
        """Calls under way, cancelled ones included until the runner confirms."""
        return len(self._calls)

    # --- Before the first call ------------------------------------------------------------------

    async def hello(self) -> Hello:
        """The runner's HELLO.

        Raises:
            RunnerLost: the channel was lost first.
        """
        return await self._hello

    async def start(self, start: Start) -> Ready:
        """Hands the runner its key, once, and waits until it takes calls.

        Raises:
            RunnerLost: the channel was lost first.
            RunnerFailed: the runner cannot take calls.
        """
        self._start = start
        self._send_message(FrameType.START, start)
        self._heard_at = self._loop.time()
        self._beat()
        return await self._ready

    # --- Calls ----------------------------------------------------------------------------------

    def open(self, call: Call | Request, sink: Sink, on_over: OnOver) -> LinkCall:
        """Opens a call; its body goes after it.

        Args:
            on_over: called once, with how it ended, when its place on the runner is free again.

        Raises:
            RunnerLost: the link is lost or draining.
            BadRequest: its parameters do not fit into a frame.
        """
        if self.lost or self.draining or self._start is None:
            raise RunnerLost("The runner takes no calls just now; try again.")
        payload = call.encode()
        headless = isinstance(call, Request)
        frame_type = FrameType.REQUEST if headless else FrameType.CALL
        if len(payload) > MAX_PAYLOAD_BYTES[frame_type]:
            raise BadRequest("The parameters of the call are too long.")
        call_id = self._next_id()
        window_bytes = self._start.window_bytes
        opened = LinkCall(self, call_id, sink, window_bytes, on_over, headless=headless)
        self._calls[call_id] = opened
        self.send(frame_type, call_id, payload)
        return opened

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % MAX_CALL_ID + 1
            if self._last_id not in self._calls:
                return self._last_id

    def renew_key(self, key: Secret) -> None:
        """Calls that begin from now on are asked with `key`."""
        if not self.lost:
            self._send_message(FrameType.KEY, Key(key.reveal()))

    def go_away(self, reason: str) -> None:
        """No new calls from us; the runner ends when the last one is over."""
        if not self.draining and not self.lost:
            self.draining = True
            self._send_message(FrameType.GOAWAY, GoAway(reason))

    # --- Out: what calls see of us (call.Outlet) ------------------------------------------------

    @property
    def congested(self) -> bool:
        """More is unsent, here or in the channel, than should be."""
        channel = self.channel
        return self._unsent_bytes > MAX_UNSENT_BYTES or (channel is not None and channel.congested)

    async def writable(self) -> None:
        """Returns when what was unsent has gone, or the channel has."""
        if self._unsent:
            # This turn's write comes first; then the channel knows.
            await asyncio.sleep(0)
        if self.channel is not None and self.channel.congested:
            await self.channel.writable()

    def send(self, frame_type: FrameType, call_id: int, payload: bytes = b"") -> None:
        """Queues a frame for the one write at the end of this loop turn."""
        self.write(encode_frame(frame_type, call_id, payload))

    def write(self, frame: bytes) -> None:
        """Queues an encoded frame."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)
        self._unsent_bytes += len(frame)

    def _send_message(self, frame_type: FrameType, message: Message) -> None:
        self.send(frame_type, 0, message.encode())

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if self.channel is not None and not self.lost:
            self.channel.write(b"".join(unsent))

    def _beat(self) -> None:
        assert self._start is not None
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._start.ping_timeout_s:
            self.fail(f"it was silent for {silent_s:.1f} s")
            return
        self.send(FrameType.PING, 0, bytes(8))
        self._heartbeat = self._loop.call_later(self._start.ping_interval_s, self._beat)

    # --- In: what the channel calls -------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the runner's stdout, in any split."""
        self._heard_at = self._loop.time()
        try:
            if self._noise is not None:
                data = self._skip_noise(self._noise, data)
            self._feed_frames(data)
        except RemoteProtocolError as error:
            self.fail(f"it broke the protocol: {error}", RunnerFailed)

    def _skip_noise(self, noise: bytearray, data: bytes) -> bytes:
        """What follows the marker; logins print greetings, and not only on terminals."""
        noise += data
        at = noise.find(MARKER)
        if at < 0:
            if len(noise) > MAX_NOISE_BYTES:
                raise RemoteProtocolError(f"no marker in the first {MAX_NOISE_BYTES} bytes")
            return b""
        if at:
            logger.debug("%s: skipped %d bytes that its login printed", self.name, at)
        self._noise = None
        return bytes(noise[at + len(MARKER) :])

    def _feed_frames(self, data: bytes) -> None:
        calls = self._calls
        for frame_type, call_id, payload in self._decoder.feed(data):
            if frame_type == DATA:
                call = calls.get(call_id)
                if call is None:
                    raise RemoteProtocolError(f"DATA for call {call_id}, which is not open")
                call.deliver(payload)
                continue
            handler = self._handlers.get(frame_type)
            if handler is None:
                raise RemoteProtocolError(f"{FrameType(frame_type).name} to a front-end")
            handler(call_id, payload)

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        """The channel is closed."""
        self.exit_status = exit_status
        if exit_status:
            reason = f"it ended with status {exit_status}"
        self.fail(reason)

    def fail(self, reason: str, error: type[RelayError] = RunnerLost) -> None:
        """Ends the link and every call on it; does nothing a second time."""
        if self.lost:
            return
        self.lost = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self.stderr.flush()
        message = f"The runner was lost: {reason}."
        for waiting in (self._hello, self._ready):
            if not waiting.done():
                waiting.set_exception(RunnerLost(message))
                # Not everybody waits for both.
                waiting.exception()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(error(message))
        if self.channel is not None:
            self.channel.close()
        self._on_lost(self, reason)

    # --- In: frames -----------------------------------------------------------------------------

    def _on_hello(self, call_id: int, payload: bytes) -> None:
        if self._hello.done():
            raise RemoteProtocolError("a second HELLO")
        self._hello.set_result(Hello.decode(payload))
        self.stderr.plain_level = logging.WARNING

    def _on_ready(self, call_id: int, payload: bytes) -> None:
        if self._ready.done() or self._start is None:
            raise RemoteProtocolError("READY out of turn")
        self._ready.set_result(Ready.decode(payload))

    def _on_ping(self, call_id: int, payload: bytes) -> None:
        self.send(FrameType.PONG, 0, payload)

    def _on_pong(self, call_id: int, payload: bytes) -> None:
        """Having been heard is all that a PONG is for."""

    def _on_goaway(self, call_id: int, payload: bytes) -> None:
        reason = one_line(GoAway.decode(payload).reason)
        self.draining = True
        if not self._ready.done():
            self._ready.set_exception(RunnerFailed(f"It said: {reason}."))
        else:
            logger.warning("%s takes no more calls: %s", self.name, reason)
            self.on_draining()

    def _on_response(self, call_id: int, payload: bytes) -> None:
        response = Response.decode(payload)
        call = self._calls.get(call_id)
        if call is None:
            raise RemoteProtocolError(f"RESPONSE to call {call_id}, which is not open")
        if not 200 <= response.status <= 599:
            raise RemoteProtocolError(f"RESPONSE with status {response.status}")
        call.respond(response)

    def _on_end(self, call_id: int, payload: bytes) -> None:
        end = End.decode(payload)
        self._forget(call_id).end(end)

    def _on_error(self, call_id: int, payload: bytes) -> None:
        failure = Failure.decode(payload)
        if failure.status and not 400 <= failure.status <= 599:
            raise RemoteProtocolError(f"ERROR with status {failure.status}")
        kind = BY_CODE.get(failure.code, RunnerFailed)
        error = kind(one_line(failure.message, 1000), retry_after_s=failure.retry_after_s)
        if failure.status:
            error.upstream = UpstreamAnswer(
                failure.status, failure.headers, failure.body.encode("utf-8", "replace")
            )
        self._forget(call_id).fail(error)

    def _forget(self, call_id: int) -> LinkCall:
        call = self._calls.pop(call_id, None)
        if call is None:
            raise RemoteProtocolError(f"the end of call {call_id}, which is not open")
        return call

    def _on_credit(self, call_id: int, payload: bytes) -> None:
        amount = decode_credit(payload)
        # A call that ended a moment ago may still be handed credit.
        call = self._calls.get(call_id)
        if call is not None:
            call.grant(amount)
