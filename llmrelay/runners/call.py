"""One call on a link, as the one who opened it sees it, and the sink that takes its answer.

The body goes up under the runner's credit, the answer comes down under ours: half a window at a
time, handed back when the bytes have gone on to the client. Knows a link's way out and no other
call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from runner_payload.credit import ReceiveWindow, SendWindow
from runner_payload.messages import End, Response
from runner_payload.protocol import DATA_BYTES, FrameType, RemoteProtocolError, encode_credit

from ..errors import RelayError, RunnerFailed

logger = logging.getLogger("llmrelay.runner")

_END_OF_BODY = End().encode()

# Told how a call ended, once its place on the runner is free again; None if we cancelled it.
OnOver = Callable[[End | RelayError | None], None]


class Outlet(Protocol):
    """A link, as its calls see it: where their frames go out."""

    @property
    def congested(self) -> bool:
        """More is unsent than should be: a prompt's next piece can wait for writable()."""

    async def writable(self) -> None:
        """Returns when the backlog has gone, or the channel."""

    def send(self, frame_type: FrameType, call_id: int, payload: bytes = b"") -> None:
        """Queues a frame for the one write at the end of this loop turn."""

    def write(self, frame: bytes) -> None:
        """Queues an encoded frame."""


class Sink(Protocol):
    """Who takes a call's answer. Called from the channel's callback: it may not block."""

    def response(self, response: Response) -> None:
        """The answer to a Request begins; the first thing that comes of it."""

    def data(self, text: bytes) -> None:
        """A piece of the answer."""

    def credit_due(self) -> None:
        """Half a window has come: call LinkCall.hand_back() once it has gone on."""

    def end(self, end: End) -> None:
        """The answer is whole. Nothing follows."""

    def error(self, error: RelayError) -> None:
        """There is no answer, or no whole one. Nothing follows."""


class LinkCall:
    """One call under way, as the one who opened it sees it.

    Args:
        headless: it is a Request, the head of whose answer has still to come.
    """

    __slots__ = (
        "_granted",
        "_on_over",
        "_outlet",
        "_receive",
        "_send",
        "call_id",
        "headless",
        "over",
        "sink",
    )

    def __init__(
        self,
        outlet: Outlet,
        call_id: int,
        sink: Sink,
        window_bytes: int,
        on_over: OnOver,
        *,
        headless: bool,
    ) -> None:
        self.call_id = call_id
        self.headless = headless
        # None once it was cancelled: what still comes is counted and dropped.
        self.sink: Sink | None = sink
        self.over = False
        self._outlet = outlet
        self._on_over = on_over
        self._send = SendWindow(window_bytes)
        self._receive = ReceiveWindow(window_bytes)
        self._granted: asyncio.Event | None = None

    async def send(self, body: bytes) -> None:
        """Sends a part of the body, as credit and channel allow; returns early if the call ends.

        In small pieces, so that a long one does not hold up the calls beside it.
        """
        at = 0
        while at < len(body) and not self.over:
            if not self._send.available:
                self._granted = self._granted or asyncio.Event()
                self._granted.clear()
                await self._granted.wait()
            elif self._outlet.congested:
                await self._outlet.writable()
            else:
                piece = body[at : at + min(DATA_BYTES, self._send.available)]
                self._send.spend(len(piece))
                self._outlet.send(FrameType.DATA, self.call_id, piece)
                at += len(piece)

    async def send_body(self, body: bytes) -> None:
        """Sends all of it."""
        await self.send(body)
        self.end_body()

    def end_body(self) -> None:
        """The body is whole."""
        if not self.over:
            self._outlet.send(FrameType.END, self.call_id, _END_OF_BODY)

    def hand_back(self, *, grow: bool = False) -> None:
        """What came has gone on to the client: the runner may send as much again.

        Args:
            grow: and more, as the client is not what holds it up.
        """
        if not self.over and (amount := self._receive.take_credit(grow=grow)):
            self._outlet.write(encode_credit(self.call_id, amount))

    def cancel(self) -> None:
        """Nobody wants the answer any more. Its place is taken until the runner confirms.

        To be called when the call is over, too: a sink and its call hold each other until then.
        """
        if not self.over and self.sink is not None:
            self._outlet.send(FrameType.CANCEL, self.call_id)
        self.sink = None

    # What the link calls. A sink's error ends its own call; it may not reach the channel's
    # callback, which carries everybody's.

    def deliver(self, text: bytes) -> None:
        """A piece of the answer.

        Raises:
            RemoteProtocolError: its head has not come.
        """
        if self.headless:
            raise RemoteProtocolError(f"DATA for call {self.call_id} before its RESPONSE")
        due = self._receive.receive(len(text))
        sink = self.sink
        if sink is None:
            return
        try:
            sink.data(text)
            if due:
                sink.credit_due()
        except Exception as error:  # noqa: BLE001 - logged by _broken
            self._broken(sink, error)

    def respond(self, response: Response) -> None:
        """The answer begins.

        Raises:
            RemoteProtocolError: it has begun before, or has no head.
        """
        if not self.headless:
            raise RemoteProtocolError(f"RESPONSE to call {self.call_id} out of turn")
        self.headless = False
        if self.sink is None:
            return
        try:
            self.sink.response(response)
        except Exception as error:  # noqa: BLE001 - logged by _broken
            self._broken(self.sink, error)

    def grant(self, amount: int) -> None:
        """The runner has taken `amount` bytes of the body."""
        self._send.grant(amount)
        if self._granted is not None:
            self._granted.set()

    def end(self, end: End) -> None:
        """The call is over, and its answer whole."""
        if self.headless and self.sink is not None:
            self.fail(RunnerFailed("The runner ended an answer that it had not begun."))
            return
        self._finish(end)
        if self.sink is None:
            return
        try:
            self.sink.end(end)
        except Exception as error:  # noqa: BLE001 - logged by _broken
            self._broken(self.sink, error)

    def fail(self, error: RelayError) -> None:
        """The call is over without a whole answer."""
        self._finish(error)
        if self.sink is not None:
            self.sink.error(error)

    def _finish(self, ending: End | RelayError) -> None:
        self.over = True
        if self._granted is not None:
            self._granted.set()
        self._on_over(None if self.sink is None else ending)

    def _broken(self, sink: Sink, error: Exception) -> None:
        """The sink cannot pass on the answer: it says why, or has a bug."""
        self.cancel()
        if not isinstance(error, RelayError):
            logger.exception("call %d: its answer could not be passed on", self.call_id)
            error = RelayError("The server hit a bug of its own; its log has the details.")
        sink.error(error)
