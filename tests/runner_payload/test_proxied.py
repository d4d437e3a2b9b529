"""Upstream behind a proxy that the host's environment names, and TLS to it with and without one."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import pytest

from runner_payload.failures import UpstreamFailure
from runner_payload.messages import Call, End
from runner_payload.upstream import Upstream
from tests.helpers.bare_runner import a_start
from tests.helpers.certificates import Authority, Certificate
from tests.helpers.exact_server import HOST, ExactServer, Peer

LIMIT_S = 5.0
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "fine"}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    % len(EVENTS)
) + EVENTS


class Proxy:
    """A forward proxy: `GET http://...` and CONNECT.

    Attributes:
        asked: its requests' first lines.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
        self.asked.append(line.decode())
        method, target, _ = line.decode().split()
        connects = method == "CONNECT"
        url = urlsplit(f"//{target}" if connects else target)
        there, away = await asyncio.open_connection(url.hostname, url.port)
        if connects:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            away.write(f"{method} {url.path} HTTP/1.1\r\n".encode() + fields)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, away))
                both.create_task(_copy(there, writer))
        finally:
            for end in (away, writer):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class Texts:
    """A destination that keeps what it gets."""

    def __init__(self) -> None:
        self.text = b""

    def emit(self, data: bytes) -> bool:
        self.text += data
        return True

    async def ready(self) -> None:
        """Always."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Authority(tmp_path_factory.mktemp("certificates")).issue("upstream")


@pytest.fixture(autouse=True)
def clean_environment(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a host which names no proxy and trusts our authority, and no other."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert.parent / "authority.pem"))


async def ask(server: ExactServer) -> bytes:
    """A prompt's answer."""
    client = Upstream(a_start(f"{server.url}/v1"), max_connections=10)
    try:
        end = await client.stream(Call("m", retries=0), "hi", texts := Texts())
        assert end == End("stop")
        return texts.text
    finally:
        await client.close()


async def answer_all(server: ExactServer) -> None:
    async def answer(peer: Peer) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await peer.answer(ANSWER)

    async with asyncio.TaskGroup() as answering:
        while True:
            answering.create_task(answer(await server.accept()))


def asked_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext | None, **environment: str
) -> list[str]:
    """What a proxy was asked for a call: its requests' first lines, UPSTREAM for its address."""

    async def scene() -> list[str]:
        async with asyncio.timeout(LIMIT_S), ExactServer(tls) as server, Proxy() as proxy:
            for name, value in environment.items():
                monkeypatch.setenv(name, proxy.url if value == "PROXY" else value)
            answering = asyncio.create_task(answer_all(server))
            try:
                assert await ask(server) == b"fine"
            finally:
                answering.cancel()
                await asyncio.wait([answering])
            assert len(server.peers) == 1
            return [line.replace(f"{HOST}:{server.port}", "UPSTREAM") for line in proxy.asked]

    return asyncio.run(scene())


FORWARDED = ["POST http://UPSTREAM/v1/chat/completions HTTP/1.1"]
CONNECTED = ["CONNECT UPSTREAM HTTP/1.1"]


@pytest.mark.parametrize(
    ("environment", "plain", "tls"),
    [
        ({}, [], []),
        ({"HTTP_PROXY": "PROXY"}, FORWARDED, []),
        ({"http_proxy": "PROXY"}, FORWARDED, []),
        ({"HTTPS_PROXY": "PROXY"}, [], CONNECTED),
        ({"https_proxy": "PROXY"}, [], CONNECTED),
        ({"ALL_PROXY": "PROXY"}, FORWARDED, CONNECTED),
        ({"HTTP_PROXY": "", "ALL_PROXY": "PROXY"}, FORWARDED, CONNECTED),
        ({"ALL_PROXY": "PROXY", "NO_PROXY": "other.test, 127.0.0.1"}, [], []),
        ({"ALL_PROXY": "PROXY", "no_proxy": "*"}, [], []),
        ({"ALL_PROXY": "PROXY", "NO_PROXY": "other.test,27.0.0.1"}, FORWARDED, CONNECTED),
    ],
    ids=str,
)
def test_upstream_is_asked_through_the_proxy_that_is_named_for_it(
    monkeypatch: pytest.MonkeyPatch,
    certificate: Certificate,
    environment: dict[str, str],
    plain: list[str],
    tls: list[str],
) -> None:
    assert asked_of_the_proxy(monkeypatch, None, **environment) == plain
    assert asked_of_the_proxy(monkeypatch, tls_of(certificate), **environment) == tls


def tls_of(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


@pytest.mark.parametrize("proxied", [False, True])
def test_a_certificate_that_the_host_does_not_trust_is_named_as_the_cause(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, tmp_path: Path, proxied: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "another").cert))

    async def scene() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            ExactServer(tls_of(certificate)) as server,
            Proxy() as proxy,
        ):
            if proxied:
                monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with pytest.raises(UpstreamFailure, match="certificate verify failed"):
                await ask(server)
            assert proxy.asked == ([f"CONNECT {HOST}:{server.port} HTTP/1.1"] if proxied else [])

    asyncio.run(scene())


def test_a_proxy_that_is_not_there_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), ExactServer() as server:
            async with Proxy() as proxy:
                monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with pytest.raises(UpstreamFailure, match="cannot be reached"):
                await ask(server)
            assert server.peers == []

    asyncio.run(scene())
