"""How the SDK's client reaches upstream: httpx2's interface over our own connections.

Keeps connections that may be used again, by origin. As many are open as calls are under way: how
many that may be, is the front-end's business. Proxies are not: where the environment names one for
upstream, upstream.py takes the SDK's own client. In the flow: the SDK -> here -> connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
from collections.abc import Coroutine, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from .connection import Body, Connection
from .http1 import Head

# Kept open for calls to come, each for so long at the most.
MAX_IDLE = 100
MAX_IDLE_S = 30.0
# The name of an answer's Body among a response's extensions: httpx2 wraps its stream.
BODY = "llmrelay_body"

_PORTS = {"http": 80, "https": 443}
_VALUE = re.compile(rb"[^\r\n\0]*")
# Of a host with several addresses, one that does not answer gets no more than this, that another
# may be tried (RFC 8305 would try them side by side).
_ADDRESS_S = 2.0

Origin = tuple[str, str, int]
Answered = tuple[Head, Body]


class Transport(httpx2.AsyncBaseTransport):
    """HTTP/1.1 over TCP and TLS."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None
        self._making_tls = asyncio.Lock()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
        head = line + encode_fields(request.headers.raw) + b"\r\n"
        try:
            content: bytes | httpx2.AsyncByteStream = request.content
        except httpx2.RequestNotRead:
            assert isinstance(request.stream, httpx2.AsyncByteStream), "an async client's request"
            content = request.stream
        limit_s = request.extensions.get("timeout", {}).get("connect")
        origin = origin_of(request.url)
        connection = self._waiting(origin) or await self._connected(origin, limit_s)
        chunked = "transfer-encoding" in request.headers
        return response_of(*await connection.ask(head, content, chunked=chunked), request)

    async def ask(self, origin: Origin, head: bytes, body: bytes, connect_s: float) -> Answered:
        """A request that has been made already.

        Raises:
            httpx2.TransportError: no answer came.
        """
        connection = self._waiting(origin) or await self._connected(origin, connect_s)
        return await connection.ask(head, body, chunked=False)

    async def aclose(self) -> None:
        """Closes all connections; what is under way on them breaks off."""
        self._idle.clear()
        for connection in list(self._open):
            await connection.abort()
        await asyncio.sleep(0)  # the loop lets go of them in its next turn

    def _waiting(self, origin: Origin) -> Connection | None:
        """A connection that can be used again."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            now_s = asyncio.get_running_loop().time()
            if connection.quiet() and not _too_old(connection, now_s):
                return connection
            connection.close()
        return None

    async def _connected(self, origin: Origin, limit_s: float | None) -> Connection:
        try:
            return await _within(limit_s, self._connect(origin))
        except _TooSlow as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError(str(error) or type(error).__name__) from error

    async def _connect(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        if scheme == "https" and self._tls is None:
            await self._make_tls()
        addresses = await _addresses(host, port)
        while True:
            connecting = self._connect_to(addresses.pop(0), origin)
            try:
                return await _within(_ADDRESS_S if addresses else None, connecting)
            except OSError:
                if not addresses:
                    raise

    async def _make_tls(self) -> None:
        """Reads the host's certificates: a third of a second, which many first calls share."""
        async with self._making_tls:
            if self._tls is None:
                loop = asyncio.get_running_loop()
                self._tls = await loop.run_in_executor(None, _tls_context)

    async def _connect_to(self, address: str, origin: Origin) -> Connection:
        scheme, host, port = origin
        tls: dict[str, Any] = (
            {"ssl": self._tls, "server_hostname": host} if scheme == "https" else {}
        )
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(lambda idle: self._keep(origin, idle), self._lost),
            address,
            port,
            **tls,
        )
        if not connection.closing:  # or it has been lost meanwhile, which is told but once
            self._open.add(connection)
        return connection

    def _keep(self, origin: Origin, connection: Connection) -> None:
        """It may be used again; those that have waited too long or longest go."""
        idle = self._idle.setdefault(origin, [])
        while idle and (len(idle) >= MAX_IDLE or _too_old(idle[0], connection.idle_since_s)):
            idle.pop(0).close()
        idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        for idle in self._idle.values():
            if connection in idle:
                idle.remove(connection)


class _TooSlow(OSError):
    """No connection within the limit."""


async def _within(limit_s: float | None, connecting: Coroutine[Any, Any, Connection]) -> Connection:
    """What `connecting` returns.

    As asyncio.wait_for(), which before Python 3.12 may swallow a cancellation.

    Raises:
        _TooSlow: not within the limit.
    """
    if limit_s is None:
        return await connecting
    task = asyncio.get_running_loop().create_task(connecting)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise _TooSlow(f"no connection within {limit_s:g} s")
    except BaseException:
        task.add_done_callback(_let_go)
        task.cancel()
        raise
    return task.result()


def _let_go(task: asyncio.Task[Connection]) -> None:
    """Closes a connection that nobody waits for any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _too_old(idle: Connection, now_s: float) -> bool:
    return now_s - idle.idle_since_s >= MAX_IDLE_S


def _tls_context() -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])  # as the SDK's own client does
    return context


@functools.lru_cache(maxsize=16)
def _as_address(host: str) -> str | None:
    with contextlib.suppress(ValueError):
        return str(ip_address(host))
    return None


async def _addresses(host: str, port: int) -> list[str]:
    """A host's addresses, in the system's order."""
    if (address := _as_address(host)) is not None:
        return [address]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def proxied(base_url: str) -> bool:
    """Whether the host's environment has a proxy for upstream, as curl reads it."""
    url = urlsplit(base_url)
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    return bool(named) and not proxy_bypass(url.hostname or "")


def origin_of(url: httpx2.URL) -> Origin:
    """Where a URL leads.

    Raises:
        httpx2.UnsupportedProtocol: it is not http or https.
    """
    if url.scheme not in _PORTS:
        raise httpx2.UnsupportedProtocol(f"no http or https in {url}")
    # Not url.host, which has another spelling for names that are not ASCII.
    return url.scheme, url.raw_host.decode(), url.port or _PORTS[url.scheme]


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines.

    Raises:
        httpx2.LocalProtocolError: one that cannot be sent.
    """
    lines = []
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise httpx2.LocalProtocolError(f"{name.decode()} cannot be sent")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def response_of(head: Head, body: Body, request: httpx2.Request) -> httpx2.Response:
    """An answer, as httpx2 has it."""
    extensions = {"http_version": b"HTTP/1.1", "reason_phrase": head.reason, BODY: body}
    return httpx2.Response(
        head.status, headers=list(head.fields), stream=body, request=request, extensions=extensions
    )
