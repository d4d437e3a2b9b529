"""One call to the OpenAI-compatible API. The one file that imports openai.

Uses the SDK for what it is good at (auth, base_url, retries, errors, its aiohttp client) and reads
the streaming response's bytes itself: the SDK's typed iteration costs several times as much per
delta as its raw response with our split and jiter (`scripts/bench sdk` measures both).

Knows no frames and no stdio. Whatever goes wrong leaves here as an UpstreamFailure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Any

import httpx2
import openai

from . import failures
from .deltas import DeltaDecoder, ErrorEvent, NotAnEventStream
from .failures import UpstreamFailure
from .protocol import Call, End, Start

# No call is retried more often than this, nor after its first delta.
MAX_RETRIES = 2
RETRY_DELAY_S = 0.5
# A client is better served by an error that says when to come back, or by another runner, than by
# silence; shorter waits the SDK sits out itself.
MAX_RETRY_AFTER_S = 5.0
CONNECT_TIMEOUT_S = 10.0
# Silence is watched by whoever calls us, with one timer per call; the SDK would set one per read.
_TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
# Of the answer to GET /models; the longest lists that are known have half a megabyte.
MAX_MODELS_BYTES = 4 * 1024 * 1024
# How long the end of a body may follow its [DONE], for the connection to be used again.
DRAIN_S = 0.1

# What reading a response raises. The SDK's aiohttp client lets some of aiohttp's own through, such
# as the one for a reply that is not HTTP.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (httpx2.HTTPError, OSError)
with contextlib.suppress(ImportError):
    _TRANSPORT_ERRORS += (import_module("aiohttp").ClientError,)

Emit = Callable[[bytes], Awaitable[None]]


class _Retries:
    """How many retries of a call have been taken, by the SDK and by us together."""

    taken = 0


class Upstream:
    """The client for one base URL and one key.

    Args:
        max_connections: connections to upstream at once; one call needs one.
    """

    def __init__(self, start: Start, max_connections: int) -> None:
        self._base_url = start.base_url.rstrip("/")
        # api.openai.com has renamed the field, and its newer models refuse the old name; the
        # servers that speak its protocol know the old one.
        host = httpx2.URL(start.base_url).host
        self._max_tokens = "max_completion_tokens" if host == "api.openai.com" else "max_tokens"
        # One for each number of retries that may be left; they share their connections.
        client = openai.AsyncOpenAI(
            api_key=start.api_key,
            base_url=start.base_url,
            max_retries=0,
            http_client=_http_client(max_connections),
        )
        more = (client.with_options(max_retries=count) for count in range(1, MAX_RETRIES + 1))
        self._clients = [client, *more]
        self._drains: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes every connection."""
        for drain in self._drains:
            drain.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        await self._clients[0].close()

    def renew_key(self, key: str) -> None:
        """Asks with `key` from now on; what is under way keeps the one before, retries too."""
        self._clients = [client.with_options(api_key=key) for client in self._clients]

    async def models(self, emit: Emit) -> End:
        """Gives `emit` the body that upstream answers `GET /models` with.

        Raises:
            UpstreamFailure: no answer.
        """
        size = 0
        try:
            ask = self._clients[0].models.with_streaming_response.list(timeout=_TIMEOUT)
            async with ask as response:
                async for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > MAX_MODELS_BYTES:
                        raise failures.broken("with a list of models that has no end")
                    await emit(chunk)
        except openai.OpenAIError as error:
            raise self._failure(error) from error
        except _TRANSPORT_ERRORS as error:
            raise failures.broken(f"and broke off ({failures.root_cause(error)})") from error
        return End()

    async def stream(self, call: Call, prompt: str, emit: Emit) -> End:
        """Gives `emit` the answer's text in UTF-8, as each read from upstream brings it.

        An event without text (a role, a thought) is passed on as none: upstream is alive.

        Raises:
            UpstreamFailure: no answer, or one that is not whole.
        """
        retries = _Retries()
        clients = self._clients
        while True:
            deltas = DeltaDecoder()
            client = clients[self._left(call, retries)]
            try:
                await self._attempt(client, call, prompt, retries, deltas, emit)
                return End(deltas.finish_reason, retries.taken)
            except UpstreamFailure as error:
                if deltas.begun or not error.repeatable or not self._left(call, retries):
                    raise
            # The SDK retries up to the response's head; from there to the first delta we do.
            await asyncio.sleep(RETRY_DELAY_S * 2**retries.taken)
            retries.taken += 1

    async def _attempt(
        self,
        client: openai.AsyncOpenAI,
        call: Call,
        prompt: str,
        retries: _Retries,
        deltas: DeltaDecoder,
        emit: Emit,
    ) -> None:
        """One answer, with the SDK's retries up to its head, as many as `client` makes."""
        create = client.chat.completions.with_streaming_response.create
        try:
            async with contextlib.AsyncExitStack() as stack:
                response = await stack.enter_async_context(create(**self._parameters(call, prompt)))
                retries.taken += response.retries_taken
                kind = response.headers.get("content-type", "")
                if kind.startswith(("text/html", "application/json")):
                    raise failures.broken(f"with {kind} and not with an event stream")
                chunks = _body(response.http_response)
                await _copy(chunks, deltas, emit)
                if deltas.done:
                    self._release(chunks, stack.pop_all())
        except openai.OpenAIError as error:
            raise self._failure(error) from error
        except _TRANSPORT_ERRORS as error:
            how = "and broke off" if deltas.begun else "with something that is no answer"
            raise failures.broken(f"{how} ({failures.root_cause(error)})") from error
        except NotAnEventStream as error:
            raise failures.broken(f"with {error}") from error
        except ErrorEvent as error:
            raise failures.error_event(str(error)) from error
        if not deltas.done and deltas.finish_reason is None:
            raise UpstreamFailure(failures.INCOMPLETE, repeatable=True)

    @staticmethod
    def _left(call: Call, retries: _Retries) -> int:
        """How often upstream may be asked again."""
        return max(0, min(call.retries, MAX_RETRIES) - retries.taken)

    def _failure(self, error: openai.OpenAIError) -> UpstreamFailure:
        """What the SDK raised, after its retries, for the wire."""
        if isinstance(error, openai.APIStatusError):
            return failures.refused(error.status_code, error.body, error.response.headers)
        how = f"cannot be reached: {failures.root_cause(error)}"
        return failures.unreachable(self._base_url, how)

    def _release(self, chunks: AsyncIterator[bytes], response: contextlib.AsyncExitStack) -> None:
        """The answer is whole; its connection is drained beside the call, which need not wait."""
        drain = asyncio.get_running_loop().create_task(_drain(chunks, response))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)

    def _parameters(self, call: Call, prompt: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        if call.system:
            messages.insert(0, {"role": "system", "content": call.system})
        parameters: dict[str, Any] = {
            "model": call.model,
            "messages": messages,
            "stream": True,
            self._max_tokens: call.max_tokens,
            "timeout": _TIMEOUT,
        }
        if call.temperature is not None:
            parameters["temperature"] = call.temperature
        if call.top_p is not None:
            parameters["top_p"] = call.top_p
        return parameters


def _body(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body's bytes, as each read brings them.

    Without a Content-Encoding they are taken where the transport hands them over: the generators
    that decode nothing cost 8 of a delta's 57 µs (`scripts/bench busy`).
    """
    if "content-encoding" in response.headers:
        return response.aiter_bytes()
    assert isinstance(response.stream, httpx2.AsyncByteStream), "an async client's response"
    return response.stream.__aiter__()


async def _copy(chunks: AsyncIterator[bytes], deltas: DeltaDecoder, emit: Emit) -> None:
    """Every read's deltas to `emit`, up to [DONE] or the end: the runner's hot path."""
    events = 0
    async for chunk in chunks:
        text = deltas.feed(chunk)
        # Comments and parts of events are no sign of life worth passing on.
        if deltas.events != events:
            events = deltas.events
            await emit(text)
        if deltas.done:
            return
    await emit(deltas.finish())


async def _drain(chunks: AsyncIterator[bytes], response: contextlib.AsyncExitStack) -> None:
    """Reads what follows [DONE], so that the connection can be used again, and closes."""

    async def read() -> None:
        async for _ in chunks:
            pass

    # The answer is whole: whatever happens to the connection now is no failure of the call.
    with contextlib.suppress(asyncio.TimeoutError, *_TRANSPORT_ERRORS):
        async with response:
            await asyncio.wait_for(read(), DRAIN_S)


def _http_client(max_connections: int) -> httpx2.AsyncClient:
    """The SDK's aiohttp client where its extra is installed: half the cost of its default one."""
    options: dict[str, Any] = {
        # Both stop at 1,000 connections by themselves, and calls beyond would wait unseen.
        "limits": httpx2.Limits(
            max_connections=max_connections,
            max_keepalive_connections=100,
            keepalive_expiry=30.0,
        ),
        "event_hooks": {"response": [_no_long_waits]},
    }
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:  # aiohttp is not there, or older than the SDK wants
        return openai.DefaultAsyncHttpxClient(**options)


async def _no_long_waits(response: httpx2.Response) -> None:
    """Lets a long Retry-After reach the client: the SDK would sleep for up to two minutes."""
    wait_s = failures.retry_after_s(response.headers)
    if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
        response.headers["x-should-retry"] = "false"
