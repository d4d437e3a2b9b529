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
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import NoneType
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from . import failures
from .chatting import MAX_RETRIES, chat
from .connection import Body
from .failures import UpstreamFailure
from .messages import Call, End, Start
from .reply import Destination, Reply
from .transport import BODY, Transport

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

# Asks the SDK for the response as it is, unread; what its own with_streaming_response sets.
_UNREAD = {"X-Stainless-Raw-Response": "stream"}
# In which it says how often it has asked before.
_RETRY_COUNT = "x-stainless-retry-count"
# Carries a form's Content-Type past the SDK, which takes no bytes for a form (_own_content_type).
_FORM_TYPE = "x-llmrelay-content-type"
# Of a request's headers those that no other has.
_OWN_HEADERS = frozenset({"idempotency-key", "x-client-request-id"})
# Kinds of requests: paths times what clients say of themselves.
_MAX_PREPARED = 256
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
        self._http_client = _http_client(max_connections, start)
        self._clients = self._make_clients()
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

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
        retries: int,
        *,
        native: bool = False,
        decoded: bool = False,
    ) -> AsyncIterator[Reply]:
        """Any request: what upstream answers, be it an event stream, JSON or sound.

        Args:
            path: below the base URL, with the query.
            body: as it is; one that comes bit by bit cannot be sent again.
            retries: how often the SDK may ask again.
            native: it is for upstream's own API, where the key may have a header of its own.
            decoded: the answer's body is wanted without its Content-Encoding.

        Raises:
            UpstreamFailure: an error's status, or an answer that broke off, be it while it is read.
        """
        again = isinstance(body, (bytes, NoneType))
        client = self._clients[min(retries, MAX_RETRIES) if again else 0]
        options: Any = {"headers": self._headers(headers, native=native), "timeout": _TIMEOUT}
        begun = False
        try:
            ask: Any = getattr(client, method.lower())
            content = {} if body is None else {"content": body}
            response: httpx2.Response = await ask(
                f"/{path}", cast_to=httpx2.Response, options=options, **content
            )
            begun = True
            taken = int(response.request.headers.get(_RETRY_COUNT, 0))
            reply = _reply(response, taken, decoded=decoded)
            try:
                yield reply
            finally:
                if reply.released:
                    self._drain(response, reply)
                else:
                    await response.aclose()
        except openai.OpenAIError as error:
            raise self._failure(error) from error
        except _TRANSPORT_ERRORS as error:
            how = "and broke off" if begun else "with something that is no answer"
            raise failures.broken(f"{how} ({failures.root_cause(error)})") from error

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

    def _failure(self, error: openai.OpenAIError) -> UpstreamFailure:
        """What the SDK raised, after its retries, for the wire."""
        if isinstance(error, openai.APIStatusError):
            response = error.response
            return failures.refused(
                error.status_code, error.body, response.headers, response.content
            )
        how = f"cannot be reached: {failures.root_cause(error)}"
        return failures.unreachable(self._base_url, how)

    def _drain(self, response: httpx2.Response, reply: Reply) -> None:
        """Reads what is left of an answer that is whole, beside the call, which need not wait."""
        drain = asyncio.get_running_loop().create_task(_read_to_end(response, reply))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)


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
    return _Preparing(api_key=start.api_key, base_url=start.base_url, **options)


class _Preparing(openai.AsyncOpenAI):
    """Keeps what requests of a kind have in common: all but the body, and what names the one.

    Of the CPU time that a request takes, the SDK's building of it was nearly half.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._prepared: dict[tuple[object, ...], httpx2.Request] = {}

    def _build_request(self, options: Any, **how: Any) -> httpx2.Request:
        if not isinstance(options.content, bytes):
            return super()._build_request(options, **how)
        own = {n: v for n, v in options.headers.items() if n in _OWN_HEADERS}
        common = tuple(item for item in options.headers.items() if item[0] not in own)
        kind = (options.method, options.url, *how.items(), *common)
        built = self._prepared.get(kind)
        if built is None:
            if len(self._prepared) >= _MAX_PREPARED:
                self._prepared.clear()
            built = self._prepared[kind] = super()._build_request(options, **how)
            del built.headers["content-length"]
        request = httpx2.Request(
            built.method,
            built.url,
            headers=built.headers,
            content=options.content,
            extensions=built.extensions,
        )
        request.headers.update(own)
        return request


def _reply(response: httpx2.Response, taken: int, *, decoded: bool) -> Reply:
    """The SDK's response, its body past httpx2's generators where nothing has to be decoded."""
    head = response.status_code, response.headers
    body: Body | None = response.extensions.get(BODY)
    if decoded and "content-encoding" in response.headers:
        return Reply(*head, response.aiter_bytes(), taken)
    if body is None:
        # Past httpx2's generators, which would close it at its end.
        assert isinstance(response.stream, httpx2.AsyncByteStream), "an async client's response"
        return Reply(*head, response.stream.__aiter__(), taken)
    return Reply(*head, body.__aiter__(), taken, pour=body.pour)


async def _read_to_end(response: httpx2.Response, reply: Reply) -> None:
    """So that the connection can be used again."""

    async def read() -> None:
        async for _ in reply.chunks:
            pass

    # The answer is whole: whatever happens to the connection now is no failure of the call.
    with contextlib.suppress(asyncio.TimeoutError, *_TRANSPORT_ERRORS):
        async with contextlib.aclosing(response):
            await asyncio.wait_for(read(), DRAIN_S)


def _http_client(max_connections: int, start: Start) -> httpx2.AsyncClient:
    """The SDK's client over our own connections (transport.py), or over its own for a proxy."""
    options: dict[str, Any] = {
        # What upstream gives one client is not for the next.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
        "event_hooks": {
            "request": [_own_content_type, _keys_stay(start.key_header)],
            "response": [_no_long_waits],
        },
    }
    if not _proxied(start.base_url):
        options["transport"] = Transport()
    # It would stop at 1,000 connections by itself, and calls beyond would wait unseen.
    limits = httpx2.Limits(
        max_connections=max_connections, max_keepalive_connections=100, keepalive_expiry=30.0
    )
    return openai.DefaultAsyncHttpxClient(limits=limits, **options)


def _proxied(base_url: str) -> bool:
    """Whether the host's environment has a proxy for upstream, as curl reads it."""
    url = urlsplit(base_url)
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    return bool(named) and not proxy_bypass(url.hostname or "")


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
