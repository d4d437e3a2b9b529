"""The middle: a client's exchange on one side, a call on a runner on the other.

Opens a call, copies its deltas into the response as they come, hands credit back as the client
takes them, and ends the response as the call ended. The first byte is the commit point: until it
goes out a call that failed may be tried on another runner, and else is a status of its own; after
it, the answer is cut. If the client goes away its handler is cancelled, and that cancels the call,
queued, before the first delta or midway.

Knows neither HTTP's bytes nor frames: Exchange and LinkCall do.
"""

from __future__ import annotations

import asyncio
import re

from runner_payload.messages import End

from .api import chat
from .config import Config
from .errors import ClientTooSlow, RelayError
from .http.exchange import Exchange
from .runners.attempts import Attempts
from .runners.call import LinkCall
from .runners.pool import Pool
from .runners.selection import Ask

# What upstream gives as finish_reason goes into a header.
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


async def relay_chat(exchange: Exchange, pool: Pool, config: Config) -> None:
    """Answers `POST /chat`.

    A chat is safe to repeat, as all that it does is to cost: before its first byte it may be tried
    on other runners, however far the one before came with it.

    Raises:
        RelayError: the request is wrong, or the call has no whole answer.
    """
    chat.check_head(exchange.request)
    asked = chat.parse_request(exchange.request, config)
    prompt = chat.check_prompt(await exchange.read_body())
    exchange.log_fields["model"] = asked.call.model
    conversation = chat.conversation(asked.call, prompt) if config.balance == "affinity" else b""
    ask = Ask(asked.call.model, asked.group, exchange.asker, conversation)
    attempts = Attempts(pool, ask, asked.call, config)
    answer = Answer(exchange, prompt, config.send_timeout_s)
    del prompt  # the answer, which forgets it with its first byte, may take minutes
    while True:
        opened = await attempts.open(answer)
        exchange.log_fields |= attempts.log_fields
        try:
            await answer.come(opened)
            return
        except RelayError as error:
            if exchange.started or not attempts.again(error):
                raise
        finally:
            opened.cancel()


class Answer:
    """A call's sink: its deltas go into the client's response in the callback that brings them.

    The handler's coroutine sleeps in come() meanwhile; it wakes for a client that does not keep up,
    and for the end. An answer that has not begun may come from another call than was tried first.
    """

    def __init__(self, exchange: Exchange, prompt: bytes, send_timeout_s: float) -> None:
        self._call: LinkCall
        self._exchange = exchange
        self._prompt = prompt
        self._send_timeout_s = send_timeout_s
        self._wake = asyncio.Event()
        self._over = False
        self._error: RelayError | None = None

    async def come(self, call: LinkCall) -> None:
        """Sends the prompt to `call`; returns when the answer is whole.

        Raises:
            RelayError: it is not, and will not be.
        """
        self._call, self._over, self._error = call, False, None
        await call.send_prompt(self._prompt)
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
        self._call.hand_back()

    # What the link calls: see runners.call.Sink.

    def data(self, text: bytes) -> None:
        exchange = self._exchange
        if not exchange.started:
            self._begin()
        exchange.write(text)

    def credit_due(self) -> None:
        if self._exchange.congested:
            self._wake.set()
        else:
            self._call.hand_back()

    def end(self, end: End) -> None:
        exchange = self._exchange
        # An answer may be empty, and is whole all the same.
        if not exchange.started:
            self._begin()
        reason = end.finish_reason or "unknown"
        if not _WORD.fullmatch(reason):
            reason = "unknown"
        exchange.log_fields["finish_reason"] = reason
        if end.retries:
            exchange.log_fields["retries"] = end.retries
        exchange.finish([(chat.FINISH_REASON, reason)])
        self._over = True
        self._wake.set()

    def _begin(self) -> None:
        """The commit point: the call is not tried again, so its prompt is not needed any more."""
        self._exchange.start(200, chat.HEADERS)
        self._exchange.forget_body()
        self._prompt = b""

    def error(self, error: RelayError) -> None:
        self._error = error
        self._over = True
        self._wake.set()
