"""The middle: a client's exchange on one side, a call on a runner on the other.

Opens a call, sends it the request's body, copies its answer into the response as it comes, hands
credit back as the client takes it, and ends the response as the call ended. The first byte of the
answer is the commit point: until it goes out a call that failed may be tried on another runner, and
else is a status of its own; after it, the answer is cut. If the client goes away its handler is
cancelled, and that cancels the call, queued, before the first byte or midway.

Knows neither HTTP's bytes nor frames nor what an answer looks like: Exchange, LinkCall and the
forms of api/answers.py do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from runner_payload.messages import End, Response

from .api.answers import HEARTBEAT, Form
from .config import Config
from .errors import ClientTooSlow, RelayError
from .http.exchange import Exchange
from .peer_text import one_line
from .runners.attempts import Attempts
from .runners.call import LinkCall

# Half a window within this time is no text that somebody reads: the call may have more under way.
MUCH_S = 0.5

# What upstream gives as finish_reason goes into a header.
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(slots=True)
class Body:
    """What a call is sent.

    Attributes:
        begun: its beginning, or all of it.
        whole: nothing follows that; else the client still sends the rest of its upload.
        behind: goes after the client's last byte.
        repeatable: it can be sent again, and upstream be asked again.
    """

    begun: bytes
    whole: bool = True
    behind: bytes = b""
    repeatable: bool = True


async def relay(
    exchange: Exchange, attempts: Attempts, body: Body, form: Callable[[], Form], config: Config
) -> None:
    """Answers `exchange` with what a call says.

    A call that is safe to repeat may be tried on other runners before its first byte, however far
    the one before came with it.

    Args:
        form: makes the answer's form, for each attempt.

    Raises:
        RelayError: the call has no whole answer.
    """
    answer = Answer(exchange, body, form, config)
    try:
        while True:
            opened = await attempts.open(answer)
            exchange.log_fields |= attempts.log_fields
            try:
                await answer.come(opened)
                return
            except RelayError as error:
                if not answer.repeatable or not attempts.again(error):
                    raise
            finally:
                opened.cancel()
    except RelayError as error:
        answer.break_off(error)
        raise
    finally:
        answer.stop()


class Answer:
    """A call's sink: its answer goes into the client's response in the callback that brings it.

    The handler's coroutine sleeps in come() meanwhile; it wakes for a client that does not keep up,
    and for the end. An answer that has not begun may come from another call than was tried first.
    """

    def __init__(
        self, exchange: Exchange, body: Body, make_form: Callable[[], Form], config: Config
    ) -> None:
        self._call: LinkCall
        self._exchange = exchange
        self._body = body
        self._make_form = make_form
        self._form = make_form()
        self._send_timeout_s = config.send_timeout_s
        # No Event: with the queue of its waiters it takes as much memory as all else in here.
        self._waiter: asyncio.Future[None] | None = None
        self._client_behind = False
        self._begun = False
        self._over = False
        self._error: RelayError | None = None
        self._loop = asyncio.get_running_loop()
        self._credited_at_s = -MUCH_S
        self._heartbeat_s = config.heartbeat_s
        self._heartbeat: asyncio.TimerHandle | None = None
        if self._form.heartbeat and self._heartbeat_s:
            self._arm_heartbeat()

    @property
    def repeatable(self) -> bool:
        """Whether another call may be tried."""
        return not self._begun and self._body.repeatable

    async def come(self, call: LinkCall) -> None:
        """Sends the body to `call`; returns when the answer is whole.

        Raises:
            RelayError: it is not, and will not be.
        """
        self._call, self._over, self._error = call, False, None
        self._form = self._make_form()
        if self._body.whole:
            await call.send_body(self._body.begun)
            await self._until_over()
        else:
            await call.send(self._body.begun)
            await self._upload()
        if self._error is not None:
            raise self._error

    async def _upload(self) -> None:
        """Passes on what the client still sends; the answer may come before its end."""
        self._forget_body()
        sending = asyncio.create_task(self._send_rest())
        try:
            await self._until_over()
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send_rest(self) -> None:
        try:
            while part := await self._exchange.read_part():
                await self._call.send(part)
        except RelayError as error:
            self.error(error)
            return
        await self._call.send_body(self._body.behind)

    async def _until_over(self) -> None:
        while not self._over:
            if self._client_behind:
                await self._wait_for_client()
            else:
                self._waiter = self._loop.create_future()
                await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_client(self) -> None:
        """Hands credit back once a slow client's buffer has emptied."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await self._exchange.drained()
        except TimeoutError:
            raise ClientTooSlow(
                f"The client did not keep up with its answer for {self._send_timeout_s:g} s."
            ) from None
        self._client_behind = False
        self._call.hand_back()

    # What the link calls: see runners.call.Sink.

    def response(self, response: Response) -> None:
        if (name := dict(response.headers).get("x-upstream-request-id")) is not None:
            self._exchange.log_fields["upstream_request"] = one_line(name, 100)
        self._form.response(response, opened=self._exchange.started)
        if not self._form.heartbeat:
            self.stop()

    def data(self, text: bytes) -> None:
        piece = self._form.piece(text)
        if piece:
            if not self._begun:
                self._begin()
            self._exchange.write(piece)

    def credit_due(self) -> None:
        if self._exchange.congested:
            self._client_behind = True
            self._wake()
            return
        now_s = self._loop.time()
        self._call.hand_back(grow=now_s - self._credited_at_s < MUCH_S)
        self._credited_at_s = now_s

    def end(self, end: End) -> None:
        if end.finish_reason and not _WORD.fullmatch(end.finish_reason):
            end = End("unknown", end.retries, end.input_tokens, end.output_tokens)
        exchange = self._exchange
        last = self._form.end(end)
        # An answer may be empty, and is whole all the same.
        if not self._begun:
            self._begin()
        exchange.write(last)
        exchange.log_fields |= _logged(end)
        exchange.finish(self._form.trailers(end))
        self._over = True
        self._wake()

    def error(self, error: RelayError) -> None:
        if self._over:  # the answer was whole, and the upload broke off behind it
            return
        self._error = error
        self._over = True
        self._wake()

    # The response's begin and end.

    def _begin(self) -> None:
        """The commit point: the call is not tried again, so its body is not needed any more."""
        self._begun = True
        self.stop()
        if not self._exchange.started:
            self._exchange.start(*self._form.head())
        self._forget_body()

    def _forget_body(self) -> None:
        self._body.begun = b""
        self._exchange.forget_body()

    def _arm_heartbeat(self) -> None:
        self._heartbeat = self._loop.call_later(self._heartbeat_s, self._beat)

    def _beat(self) -> None:
        """Nothing has come yet: proxies learn that the connection is alive, clients skip it."""
        if not self._exchange.started:
            self._exchange.start(200, self._form.heartbeat)
        self._exchange.write(HEARTBEAT)
        self._arm_heartbeat()

    def stop(self) -> None:
        """No more heartbeats."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    def break_off(self, error: RelayError) -> None:
        """No whole answer will come: says so in it, if its head is out and its form has words."""
        if self._exchange.started and not self._exchange.finished:
            self._exchange.write(self._form.broken(error))


def _logged(end: End) -> dict[str, object]:
    """What the access log has of how a call ended."""
    fields = {
        "finish_reason": end.finish_reason,
        "retries": end.retries or None,
        "input_tokens": end.input_tokens,
        "output_tokens": end.output_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None}
