"""The middle: a client's exchange on one side, a call on a runner on the other.

Opens a call, copies its deltas into the response as they come, hands credit back as the client
takes them, and ends the response as the call ended. The first byte is the commit point: until it
goes out a failure is a status of its own; after it, the answer is cut. If the client goes away its
handler is cancelled, and that cancels the call, queued, before the first delta or midway.

Knows neither HTTP's bytes nor frames: Exchange and LinkCall do.
"""

from __future__ import annotations

import asyncio
import re

from runner_payload.protocol import End

from .api import chat
from .config import Config
from .errors import ClientTooSlow, RelayError
from .http.exchange import Exchange
from .runners.call import LinkCall
from .runners.pool import Pool

# What upstream gives as finish_reason goes into a header.
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


async def relay_chat(exchange: Exchange, pool: Pool, config: Config) -> None:
    """Answers `POST /chat`.

    Raises:
        RelayError: the request is wrong, or the call has no whole answer.
    """
    chat.check_head(exchange.request)
    call = chat.parse_call(exchange.request, config)
    prompt = chat.check_prompt(await exchange.read_body())
    answer = Answer(exchange, config.send_timeout_s)
    opened = await pool.open(call, answer)
    exchange.log_fields["runner"] = pool.runner.name
    exchange.log_fields["model"] = call.model
    answer.call = opened
    try:
        await opened.send_prompt(prompt)
        del prompt  # the answer may take minutes
        exchange.forget_body()
        await answer.ended()
    finally:
        opened.cancel()


class Answer:
    """A call's sink: its deltas go into the client's response in the callback that brings them.

    The handler's coroutine sleeps in ended() meanwhile; it wakes for a client that does not keep
    up, and for the end.
    """

    def __init__(self, exchange: Exchange, send_timeout_s: float) -> None:
        self.call: LinkCall
        self._exchange = exchange
        self._send_timeout_s = send_timeout_s
        self._wake = asyncio.Event()
        self._over = False
        self._error: RelayError | None = None

    async def ended(self) -> None:
        """Returns when the answer is whole.

        Raises:
            RelayError: it is not, and will not be.
        """
        while not self._over:
            await self._wake.wait()
            self._wake.clear()
            if not self._over:
                await self._wait_for_client()
        if self._error is not None:
            raise self._error

    async def _wait_for_client(self) -> None:
        """Hands credit back once a slow client's buffer has emptied."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await self._exchange.drained()
        except TimeoutError:
            raise ClientTooSlow(
                f"The client did not keep up with its answer for {self._send_timeout_s:g} s."
            ) from None
        self.call.hand_back()

    # What the link calls: see runners.call.Sink.

    def data(self, text: bytes) -> None:
        exchange = self._exchange
        if not exchange.started:
            exchange.start(200, chat.HEADERS)
        exchange.write(text)

    def credit_due(self) -> None:
        if self._exchange.congested:
            self._wake.set()
        else:
            self.call.hand_back()

    def end(self, end: End) -> None:
        exchange = self._exchange
        # An answer may be empty, and is whole all the same.
        if not exchange.started:
            exchange.start(200, chat.HEADERS)
        reason = end.finish_reason or "unknown"
        if not _WORD.fullmatch(reason):
            reason = "unknown"
        exchange.log_fields["finish_reason"] = reason
        if end.retries:
            exchange.log_fields["retries"] = end.retries
        exchange.finish([(chat.FINISH_REASON, reason)])
        self._over = True
        self._wake.set()

    def error(self, error: RelayError) -> None:
        self._error = error
        self._over = True
        self._wake.set()
