"""One call on the runner: its body, its credit both ways, its time limits, its task.

Knows frames and limits, but not how upstream is reached. In the flow: main -> here -> upstream, and
back through emit(), which is where a slow client holds up its own call and no other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from .credit import SendWindow
from .failures import UpstreamFailure
from .inbound import Inbound
from .messages import Call, End, Failure, Request, Response, Start
from .protocol import (
    DATA,
    DATA_BYTES,
    HEADER,
    FrameType,
    encode_credit,
    encode_data,
    encode_frame,
)
from .relaying import relay
from .stdio import Stdio

if TYPE_CHECKING:
    # Not at run time: upstream imports openai, which this module must not wait for.
    from .upstream import Upstream

logger = logging.getLogger("runner")
_pack = HEADER.pack


class RunningCall:
    """A call from its CALL or REQUEST frame to its END or ERROR.

    Attributes:
        inbound: the prompt, or the request's body.
        task: what runs it, once it does.
    """

    __slots__ = (
        "_call",
        "_granted",
        "_held",
        "_now_s",
        "_silence",
        "_start",
        "_stdio",
        "_window",
        "call_id",
        "inbound",
        "streamed",
        "task",
    )

    def __init__(self, call_id: int, call: Call | Request, stdio: Stdio, start: Start) -> None:
        self.call_id = call_id
        self.streamed = isinstance(call, Request) and call.streamed
        held = None if self.streamed else start.max_body_bytes
        self.inbound = Inbound(start.window_bytes, held, self._hand_back)
        self.task: asyncio.Task[None] | None = None
        self._call = call
        self._stdio = stdio
        self._start = start
        self._window = SendWindow(start.window_bytes)
        # Made when the call waits for it.
        self._granted: asyncio.Event | None = None
        self._now_s = asyncio.get_running_loop().time
        self._silence = Silence(start.delta_timeout_s)
        # Of the answer: what has no credit, or no room in the channel.
        self._held = b""

    def _hand_back(self, amount: int) -> None:
        self._stdio.write(encode_credit(self.call_id, amount))

    def grant(self, amount: int) -> None:
        """The client has taken `amount` bytes."""
        self._window.grant(amount)
        if self._granted is not None:
            self._granted.set()

    async def run(self, upstream: Upstream) -> None:
        """The call, up to the frame that ends it.

        Raises:
            asyncio.CancelledError: a CANCEL; whoever owns the task sends the frame then, for a task
                that is cancelled before its first step never comes here.
        """
        task = asyncio.current_task()
        assert task is not None
        first_s = self._start.timeout_s if self._call.timeout_s is None else self._call.timeout_s
        self._silence.watch(task, first_s)
        try:
            end = await self._answer(upstream)
        except asyncio.CancelledError:
            if not self._silence.expired:
                raise
            self._send(FrameType.ERROR, self._silence.failure())
        except Exception:
            logger.exception("call %d failed", self.call_id)
            self._send(
                FrameType.ERROR, Failure("runner_failed", "The runner hit a bug; see its log.")
            )
        else:
            self._send(FrameType.END if isinstance(end, End) else FrameType.ERROR, end)
        finally:
            self._silence.stop()

    async def _answer(self, upstream: Upstream) -> End | Failure:
        call = self._call
        try:
            if isinstance(call, Request):
                body = self._pieces() if call.streamed else self.inbound.take()
                return await relay(upstream, call, body, self)
            if call.kind not in ("chat", "messages"):
                return Failure("bad_request", "The runner knows no such kind of call.")
            return await upstream.stream(call, self.inbound.take().decode(), self)
        except UnicodeDecodeError:
            return Failure("bad_request", "The prompt is not UTF-8.")
        except RecursionError:  # which depth is too much is Python's to say, and this one's
            return Failure("bad_request", "The JSON in the body is nested too deeply.")
        except UpstreamFailure as error:
            return error.failure

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; it is the client who is awaited meanwhile, not upstream."""
        self._silence.pause()
        async for piece in self.inbound.pieces():
            self._silence.heard()
            yield piece
            self._silence.pause()
        self._silence.heard()

    def head(self, response: Response) -> None:
        """Sends the head of an answer that is relayed."""
        self._stdio.write(encode_frame(FrameType.RESPONSE, self.call_id, response.encode()))

    def emit(self, text: bytes) -> bool:
        """Sends a piece of the answer: the runner's hot path.

        Args:
            text: empty for an event without text; that upstream is alive is worth knowing, too.

        Returns:
            Whether another piece may follow at once. If not, ready() says when: the call has no
            credit, or the channel is full.
        """
        silence, window, length = self._silence, self._window, len(text)
        now_s = self._now_s
        silence.since_s = now_s()
        if not length:
            return True
        silence.begun = True
        left = window.available - length
        if left >= 0 and length <= DATA_BYTES:
            window.available = left
            # As encode_data() does.
            return self._stdio.write(_pack(DATA, self.call_id, length) + text)
        self._held = text
        return False

    async def ready(self) -> None:
        """Returns when what emit() could not send has been sent, and there is room for more."""
        if not self._held and not self._stdio.congested:
            return
        self._silence.pause()
        window = self._window
        await self._stdio.writable()
        while self._held:
            while not window.available:
                self._granted = self._granted or asyncio.Event()
                self._granted.clear()
                await self._granted.wait()
            await self._stdio.writable()
            piece = self._held[: min(window.available, DATA_BYTES)]
            self._held = self._held[len(piece) :]
            window.spend(len(piece))
            self._stdio.write(encode_data(self.call_id, piece))
        self._silence.heard()

    def _send(self, frame_type: FrameType, message: End | Failure) -> None:
        self._stdio.write(encode_frame(frame_type, self.call_id, message.encode()))


class Silence:
    """Cancels a call's task when upstream says nothing for too long.

    Until the first text came that is `first_s`, then `between_s`, counted from the last event of
    whatever kind: a model that thinks aloud is not silent. One timer per call, not per delta: an
    event only notes the time, and the timer, when it fires, looks at the note and goes on from
    there. It first fires when the shorter limit is over, so that the first text changes nothing.

    Attributes:
        begun: text has come.
        expired: that is what cancelled the task.
        since_s: the loop's time at the last event; infinite while it is the client who is awaited.
    """

    __slots__ = (
        "_between_s",
        "_first_s",
        "_loop",
        "_task",
        "_timer",
        "begun",
        "expired",
        "since_s",
    )

    def __init__(self, between_s: float) -> None:
        self.expired = False
        self.since_s = 0.0
        self._first_s = self._between_s = between_s
        self.begun = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None]
        self._timer: asyncio.TimerHandle

    def watch(self, task: asyncio.Task[None], first_s: float) -> None:
        """From now on; `first_s` is the limit before the first text."""
        self._task = task
        self._first_s = first_s
        self.heard()
        self._timer = self._loop.call_later(min(first_s, self._between_s), self._check)

    def heard(self) -> None:
        """From here on it is upstream again that is awaited."""
        self.since_s = self._loop.time()

    def pause(self) -> None:
        """It is the client who is awaited, not upstream."""
        self.since_s = math.inf

    def stop(self) -> None:
        """The call is over."""
        self._timer.cancel()

    def failure(self) -> Failure:
        """What happened, once expired."""
        when = "after a delta" if self.begun else "before its first delta"
        return Failure(
            "upstream_timeout", f"The upstream was silent for {self._limit_s():g} s {when}."
        )

    def _limit_s(self) -> float:
        return self._between_s if self.begun else self._first_s

    def _check(self) -> None:
        now_s = self._loop.time()
        due_s = min(self.since_s, now_s) + self._limit_s()
        if now_s >= due_s:
            self.expired = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_at(due_s, self._check)
