"""Requests to upstream. The one file that imports openai.

Uses the SDK for what it is good at (auth, base_url, providers, retries, errors) and hands over the
answer's bytes as they come: the SDK's typed iteration costs several times as much per delta as our
own split and jiter (`scripts/bench sdk` measures both). The SDK's requests go over our own
connections (transport.py), or over its own client's where the environment names a proxy.

Knows no frames and no stdio, and no more of what is asked than its path. Whatever goes wrong leaves
here as an UpstreamFailure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import NoneType
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2
import openai

from . import failures
from .chatting import MAX_RETRIES, chat
from .connection import Body
from .failures import UpstreamFailure
from .http1 import Head
from .messages import Call, End, Start
from .prepared import PreparedRequests
from .reply import Destination, Reply
from .transport import BODY, Transport, proxied, response_of

# A client is better served by an error that says when to come back, or by another runner, than by
# silence; shorter waits the SDK sits out itself.
MAX_RETRY_AFTER_S = 5.0
CONNECT_TIMEOUT_S = 10.0
# Silence is watched by whoever calls us, with one timer per call; the SDK would set one per read.
_TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
# Of Azure's API below /openai/deployments, the newest that is generally available; the one below
# /openai/v1 has none.
AZURE_API_VERSION = "2024-10-21"
# What it has for each deployment, which is what it calls a model (Azure OpenAI reference).
_DEPLOYED = frozenset({"audio", "chat", "completions", "embeddings", "images"})
# How long the end of a body may follow its [DONE], for the connection to be used again.
DRAIN_S = 0.1

# What reading a response raises.
_TRANSPORT_ERRORS = (httpx2.HTTPError, OSError)
_ERRORS = (openai.OpenAIError, *_TRANSPORT_ERRORS)

# Asks the SDK for the response as it is, unread; what its own with_streaming_response sets.
_UNREAD = {"X-Stainless-Raw-Response": "stream"}
# In which it says how often it has asked before.
_RETRY_COUNT = "x-stainless-retry-count"
# Carries a form's Content-Type past the SDK, which takes no bytes for a form (_own_content_type).
_FORM_TYPE = "x-llmrelay-content-type"
# Where the SDK's clients have the key.
_KEY_HEADERS = ("authorization", "api-key")
# What a redirected request still has of the first one: where that went.
_HOME = "llmrelay_home"


class Upstream:
    """The client for one base URL and one key.

    Args:
        max_connections: connections to upstream at once; one call needs one.

    Attributes:
        adapter, native, max_tokens_field, ask_usage: as Start's.
    """

    def __init__(self, start: Start, max_connections: int) -> None:
        self._base_url = start.base_url.rstrip("/")
        self.adapter = start.adapter
        self.native = frozenset(start.native.split())
        self.max_tokens_field = start.max_tokens_field
        self.ask_usage = start.ask_usage
        self._start = start
        # None where a proxy is in the way.
        self._transport = None if proxied(start.base_url) else Transport()
        self._http_client = _http_client(max_connections, start, self._transport)
        self._clients = self._make_clients()
        self._prepared = PreparedRequests()
        self._drains: set[asyncio.Task[None]] = set()

    def _make_clients(self) -> list[openai.AsyncOpenAI]:
        """One for each number of retries that may be left; they share their connections."""
        client = _client(self._start, self._http_client)
        more = (client.with_options(max_retries=count) for count in range(1, MAX_RETRIES + 1))
        return [client, *more]

    async def close(self) -> None:
        """Closes every connection."""
        for drain in self._drains:
            drain.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        await self._clients[0].close()

    def renew_key(self, key: str) -> None:
        """Asks with `key` from now on; what is under way keeps the one before."""
        self._start = replace(self._start, api_key=key)
        self._clients = self._make_clients()
        self._prepared = PreparedRequests()

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
        retries: int,
        *,
        native: bool = False,
        decoded: bool = False,
    ) -> Exchange:
        """Any request: what upstream answers, be it an event stream, JSON or sound.

        Args:
            path: below the base URL, with the query.
            body: as it is; one that comes bit by bit cannot be sent again.
            retries: how often the SDK may ask again.
            native: it is for upstream's own API, where the key may have a header of its own.
            decoded: the answer's body is wanted without its Content-Encoding.
        """
        told = self._headers(headers, native=native)
        again = min(retries, MAX_RETRIES) if isinstance(body, (bytes, NoneType)) else 0
        return Exchange(self, _Asked(method, path, told, body, again, decoded))

    async def ask(self, asked: _Asked) -> Reply:
        """Asks by the SDK."""
        # Another key may come meanwhile, which has kinds of its own.
        prepared, client = self._prepared, self._clients[asked.retries]
        ask: Any = getattr(client, asked.method.lower())
        options = {"headers": asked.told, "timeout": _TIMEOUT}
        content = {} if asked.body is None else {"content": asked.body}
        try:
            response: httpx2.Response = await ask(
                f"/{asked.path}", cast_to=httpx2.Response, options=options, **content
            )
        finally:
            _first.set(None)
        request = response.request
        taken = int(request.headers.get(_RETRY_COUNT, 0))
        # Each form has a boundary of its own, and what was redirected is another request.
        alike = _FORM_TYPE not in asked.told and not response.history
        if isinstance(client, _Resuming) and isinstance(asked.body, bytes) and alike:
            prepared.keep(asked.method, asked.path, asked.told, request)
        return _reply(response, taken, decoded=asked.decoded)

    async def ask_again(self, asked: _Asked) -> Reply | None:
        """Asks what the SDK has asked before but for the body, with a tenth of its CPU time.

        Returns:
            None if it is for the SDK to ask, or to make of the answer what it makes of errors.
        """
        body, transport = asked.body, self._transport
        prepared = self._prepared.find(asked.method, asked.path, asked.told)
        if prepared is None or transport is None or not isinstance(body, bytes):
            return None
        begin = prepared.head(asked.told, body)
        try:
            head, content = await transport.ask(prepared.origin, begin, body, CONNECT_TIMEOUT_S)
        except httpx2.TransportError as error:
            _first.set(error)
            return None
        if 300 <= head.status < 400:
            await content.aclose()  # the SDK asks again, and follows
            return None
        headers = head.headers
        if head.status >= 400 or (asked.decoded and "content-encoding" in headers):
            _first.set((head, content))
            return None
        chunks = content.__aiter__()
        return Reply(head.status, headers, chunks, source=content, close=content.aclose)

    def _headers(self, headers: Mapping[str, str], *, native: bool) -> dict[str, Any]:
        """What the SDK is told beside its own: the request's, and how it is to be sent."""
        told: dict[str, Any] = {**headers, **_UNREAD}
        start = self._start
        if native and start.key_header:
            told |= {start.key_header: start.api_key, "Authorization": openai.Omit()}
        content_type = headers.get("content-type", "")
        if content_type.lower().startswith("multipart/"):
            told |= {"content-type": "application/octet-stream", _FORM_TYPE: content_type}
        return told

    def path_of(self, path: str, model: str) -> str:
        """Where upstream has what the API has at `path`: Azure has it below each deployment."""
        azure = isinstance(self._clients[0], openai.AsyncAzureOpenAI)
        if azure and model and path.partition("/")[0] in _DEPLOYED:
            return f"deployments/{quote(model, safe='')}/{path}"
        return path

    async def stream(self, call: Call, prompt: str, answer: Destination) -> End:
        """A chat completion; see chatting.py."""
        return await chat(self, call, prompt, answer)

    def failure(self, error: openai.OpenAIError) -> UpstreamFailure:
        """What the SDK raised, after its retries, for the wire."""
        if isinstance(error, openai.APIStatusError):
            response = error.response
            return failures.refused(
                error.status_code, error.body, response.headers, response.content
            )
        how = f"cannot be reached: {failures.root_cause(error)}"
        return failures.unreachable(self._base_url, how)

    async def let_go(self, reply: Reply) -> None:
        """Nobody reads the answer any more."""
        if reply.source is not None and reply.source.over:
            return
        if reply.released:
            # Beside the call, which need not wait.
            drain = asyncio.get_running_loop().create_task(_read_to_end(reply))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)
        elif reply.close is not None:
            await reply.close()


class _Asked(NamedTuple):
    """A request, as Upstream.send() is asked for it; `told` are its headers, for the SDK."""

    method: str
    path: str
    told: Mapping[str, Any]
    body: bytes | AsyncIterator[bytes] | None
    retries: int
    decoded: bool


class Exchange:
    """A request and its answer, for `async with`.

    Raises:
        UpstreamFailure: an error's status, or an answer that broke off, be it while it is read.
    """

    __slots__ = ("_asked", "_reply", "_upstream")

    def __init__(self, upstream: Upstream, asked: _Asked) -> None:
        self._upstream = upstream
        self._asked = asked
        self._reply: Reply | None = None

    async def __aenter__(self) -> Reply:
        upstream, asked = self._upstream, self._asked
        try:
            reply = await upstream.ask_again(asked)
            if reply is None:
                reply = await upstream.ask(asked)
        except _ERRORS as error:
            raise self._failure(error) from error
        self._reply = reply
        return reply

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        assert self._reply is not None
        try:
            await self._upstream.let_go(self._reply)
        except _ERRORS as another:
            error = another
        if isinstance(error, _ERRORS):
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> UpstreamFailure:
        if isinstance(error, openai.OpenAIError):
            return self._upstream.failure(error)
        how = "with something that is no answer" if self._reply is None else "and broke off"
        return failures.broken(f"{how} ({failures.root_cause(error)})")


def _client(start: Start, http_client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """The openai package's client for such an upstream."""
    options: Any = {"max_retries": 0, "http_client": http_client}
    url = start.base_url.rstrip("/")
    if start.sdk == "bedrock":
        from openai.providers import bedrock  # noqa: PLC0415 - younger than the package

        provider = bedrock(base_url=url, api_key=start.api_key)
        return openai.AsyncOpenAI(provider=provider, **options)
    if start.sdk == "vertex":
        from openai.providers import vertex  # noqa: PLC0415

        provider = vertex(base_url=url, token_provider=lambda: start.api_key)
        return openai.AsyncOpenAI(provider=provider, **options)
    if start.sdk == "azure" and not url.endswith("/v1"):
        return openai.AsyncAzureOpenAI(
            azure_endpoint=url.removesuffix("/openai"),
            api_key=start.api_key,
            api_version=AZURE_API_VERSION,
            **options,
        )
    return _Resuming(api_key=start.api_key, base_url=start.base_url, **options)


# What upstream answered to a request that the SDK is about to send; for this task alone.
_first: ContextVar[tuple[Head, Body] | Exception | None] = ContextVar("first", default=None)


class _Resuming(openai.AsyncOpenAI):
    """Takes up a request that was asked already, and was not answered well."""

    async def _send_request(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        first = _first.get()
        if first is None:
            return await super()._send_request(request, **how)
        _first.set(None)
        if isinstance(first, Exception):
            raise first
        response = response_of(*first, request)
        await _no_long_waits(response)
        return response


def _reply(response: httpx2.Response, taken: int, *, decoded: bool) -> Reply:
    """The SDK's response, its body past httpx2's generators where nothing has to be decoded."""
    status, headers, close = response.status_code, response.headers, response.aclose
    if decoded and "content-encoding" in headers:
        return Reply(status, headers, response.aiter_bytes(), taken, close=close)
    body: Body | None = response.extensions.get(BODY)
    if body is not None:
        return Reply(status, headers, body.__aiter__(), taken, source=body, close=close)
    # Past httpx2's generators, which would close it at its end.
    assert isinstance(response.stream, httpx2.AsyncByteStream), "an async client's response"
    return Reply(status, headers, response.stream.__aiter__(), taken, close=close)


async def _read_to_end(reply: Reply) -> None:
    """So that the connection can be used again."""

    async def read() -> None:
        async for _ in reply.chunks:
            pass

    assert reply.close is not None
    # The answer is whole: whatever happens to the connection now is no failure of the call.
    with contextlib.suppress(asyncio.TimeoutError, *_TRANSPORT_ERRORS):
        try:
            await asyncio.wait_for(read(), DRAIN_S)
        finally:
            await reply.close()


def _http_client(
    max_connections: int, start: Start, transport: Transport | None
) -> httpx2.AsyncClient:
    """The SDK's client over our own connections (transport.py), or over its own for a proxy."""
    options: dict[str, Any] = {
        # What upstream gives one client is not for the next.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
        "event_hooks": {
            "request": [_own_content_type, _keys_stay(start.key_header)],
            "response": [_no_long_waits],
        },
    }
    if transport is not None:
        options["transport"] = transport
    # It would stop at 1,000 connections by itself, and calls beyond would wait unseen.
    limits = httpx2.Limits(
        max_connections=max_connections, max_keepalive_connections=100, keepalive_expiry=30.0
    )
    return openai.DefaultAsyncHttpxClient(limits=limits, **options)


async def _own_content_type(request: httpx2.Request) -> None:
    """A form's bytes are the client's, boundary and all; the SDK makes forms itself or none."""
    if (content_type := request.headers.pop(_FORM_TYPE, None)) is not None:
        request.headers["content-type"] = content_type


def _keys_stay(key_header: str) -> Callable[[httpx2.Request], Awaitable[None]]:
    """No redirect takes the key to another origin; httpx looks after Authorization alone."""

    async def keys_stay(request: httpx2.Request) -> None:
        # A redirected request has the extensions of the first one.
        home, url = request.extensions.setdefault(_HOME, request.url), request.url
        upgraded = (home.scheme, url.scheme, url.host) == ("http", "https", home.host)
        if url.origin != home.origin and not upgraded:
            for name in filter(None, (*_KEY_HEADERS, key_header)):
                request.headers.pop(name, None)

    return keys_stay


async def _no_long_waits(response: httpx2.Response) -> None:
    """Lets a long Retry-After reach the client: the SDK would sleep for up to two minutes."""
    wait_s = failures.retry_after_s(response.headers)
    if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
        response.headers["x-should-retry"] = "false"
