from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self, cast

import pytest

from llmrelay.errors import UnusableConfig
from llmrelay.http import connection_limits, tls
from llmrelay.http.exchange import Exchange
from llmrelay.http.server import Server
from llmrelay.http.wire import Wire
from tests.helpers.certificates import Authority, Certificate

from .conftest import Run
from .live import GET, Client, echo, get, post, serving, until
from .out_of_descriptors import all_descriptors_taken
from .test_connection import Held


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue("server")


def trusting(authority: Authority, own: Certificate | None = None) -> ssl.SSLContext:
    """A client's context."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


class TLSClient(Client):
    """`async with TLSClient(server, context) as client` is past the handshake."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        super().__init__(server)
        self._context = context

    async def __aenter__(self) -> Self:
        address = self._server.address
        self.reader, self.writer = await asyncio.open_connection(
            address.host, address.port, ssl=self._context
        )
        return self

    @property
    def serial(self) -> int:
        """Of the server's certificate."""
        return int(self.writer.get_extra_info("peercert")["serialNumber"], 16)


@contextlib.asynccontextmanager
async def serving_tls(
    handler: Any, certificate: Certificate, client_ca: Path | None = None, **limits: Any
) -> AsyncIterator[Server]:
    async with serving(handler, **limits) as server:
        server.encryption = tls.make_context(certificate.cert, certificate.key, client_ca)
        yield server


# --- Serving ------------------------------------------------------------------------------------


def test_requests_over_tls_are_answered_like_any_other(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with (
            serving_tls(echo, certificate) as server,
            TLSClient(server, trusting(authority)) as client,
        ):
            assert (await client.ask(GET)).body == b"/ "
            assert (await client.ask(post(b"x" * 1_000_000))).body == b"/ " + b"x" * 1_000_000
            assert (await client.ask(get("https://localhost/a"))).body == b"/a "
            last = await client.ask(get("/last", "Connection: close"))
            assert last.body == b"/last "
            # close_notify: a cut would be an ssl.SSLError here
            assert await client.closed() == b""

    run(subject())


def test_a_stream_over_tls_is_a_chunk_at_once_and_large_ones_arrive_whole(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"one")
        await more.wait()
        for _ in range(50):
            exchange.write(b"x" * 100_000)
            await exchange.drained()
        exchange.finish()

    async def subject() -> None:
        async with (
            serving_tls(handler, certificate) as server,
            TLSClient(server, trusting(authority)) as client,
        ):
            client.send(get("/", "Connection: close"))
            assert (await client.head()).status == 200
            assert await client.chunk() == b"one"
            more.set()
            size = 0
            while chunk := await client.chunk():
                size += len(chunk)
            assert size == 5_000_000
            assert await client.closed() == b"\r\n"

    run(subject())


def test_a_close_delimited_answer_over_tls_ends_with_close_notify_and_a_cut_one_does_not(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"x" * 300_000)
        exchange.cut() if exchange.request.path == "/cut" else exchange.finish()

    async def subject() -> None:
        async with serving_tls(handler, certificate) as server:
            async with TLSClient(server, trusting(authority)) as client:
                async with asyncio.timeout(1):
                    whole = await client.ask(get("/whole", version="1.0"))
                assert len(whole.body) == 300_000
            async with TLSClient(server, trusting(authority)) as client:
                with pytest.raises(OSError):  # noqa: PT011 - a reset, or TLS that was cut short
                    await client.ask(get("/cut", version="1.0"))

    run(subject())


def test_an_error_is_read_by_a_client_that_is_still_sending(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with (
            serving_tls(echo, certificate, max_body_bytes=1000) as server,
            TLSClient(server, trusting(authority)) as client,
        ):
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(post(b"x" * 3_000_000))
            await client.writer.drain()
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await client.response()).status == 413

    run(subject())


def test_a_client_that_leaves_over_tls_cancels_its_handler(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    async def subject() -> None:
        for leave in (TLSClient.reset, TLSClient.close):
            held = Held()
            async with (
                serving_tls(held, certificate) as server,
                TLSClient(server, trusting(authority)) as client,
            ):
                client.send(GET)
                await held.entered.wait()
                leave(client)
                async with asyncio.timeout(1):
                    await held.cancelled.wait()

    run(subject())


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_drain_ends_connections_over_tls(
    run: Run, authority: Authority, certificate: Certificate, state: str
) -> None:
    async def subject() -> None:
        held = Held()
        async with (
            serving_tls(held, certificate) as server,
            TLSClient(server, trusting(authority)) as client,
        ):
            if state == "busy":
                client.send(GET)
                await held.entered.wait()
            draining = asyncio.create_task(server.drain(30))
            if state == "busy":
                held.let_go.set()
                response = await client.response()
                assert (response.body, response.headers["connection"]) == (b"done", "close")
            async with asyncio.timeout(1):
                assert await client.closed() == b""
                await draining

    run(subject())


@pytest.mark.parametrize("end", ["idle", "drain"])
def test_a_client_that_does_not_read_over_tls_holds_nothing_up(
    run: Run, authority: Authority, certificate: Certificate, end: str
) -> None:
    async def subject() -> None:
        answered = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            exchange.respond(200, [], b"x" * 16_000_000)  # more than the kernel takes
            answered.set()

        async with (
            serving_tls(handler, certificate, keep_alive_s=0.2) as server,
            TLSClient(server, trusting(authority)) as client,
        ):
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(GET)
            await answered.wait()
            async with asyncio.timeout(5):
                if end == "drain":
                    await server.drain(0.3)
                await until(lambda: server.connections == 0)

    run(subject())


def test_a_unix_socket_beside_tls_is_plain(
    run: Run, certificate: Certificate, tmp_path: Path
) -> None:
    from llmrelay.values import UnixAddress

    async def subject() -> None:
        path = str(tmp_path / "llmrelay.sock")
        async with serving_tls(echo, certificate, listen=(UnixAddress(path),)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(get("/", "Connection: close"))
            assert (await reader.read()).endswith(b"/ ")
            writer.close()

    run(subject())


# --- Handshakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01" + bytes(100), b"\0"])
def test_a_handshake_that_stalls_or_fails_ends_within_its_limit(
    run: Run, certificate: Certificate, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async def subject() -> None:
        async with (
            serving_tls(echo, certificate, head_timeout_s=0.1) as server,
            Client(server) as client,
        ):
            client.send(sent)
            with contextlib.suppress(ConnectionResetError):
                await client.closed()
            await until(lambda: server.connections == 0)

    run(subject())
    [record] = [record for record in caplog.records if record.name == "llmrelay.http"]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert "no TLS handshake" in record.getMessage()


def test_who_speaks_plain_http_where_tls_is_spoken_reads_so(
    run: Run, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with serving_tls(echo, certificate) as server:
            for request in (GET, post(b"x" * 1_000_000)):
                async with Client(server) as client:
                    response = await client.ask(request)
                    assert (response.status, response.body) == (400, b"unread bad_request")
                    assert response.headers["connection"] == "close"
                    assert await client.closed() == b""
            # One that ends at once has said nothing to answer.
            async with Client(server) as client:
                client.end()
                with contextlib.suppress(ConnectionResetError):
                    assert await client.closed() == b""

    run(subject())


def test_a_connection_that_is_not_even_refused_over_tls_is_closed(
    run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit of refusals a connection ends before its handshake, and its socket with it."""
    monkeypatch.setattr(connection_limits, "MAX_TURNED_AWAY", 0)
    kept: list[tls.Handshake] = []  # so that it is not the collector that closes

    class Kept(tls.Handshake):
        def __init__(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
            super().__init__(transport, context)
            kept.append(self)

    monkeypatch.setattr(tls, "Handshake", Kept)

    async def subject() -> None:
        async with (
            serving_tls(echo, certificate, max_connections_per_address=1) as server,
            Client(server) as first,
            Client(server) as second,
        ):
            with contextlib.suppress(ConnectionResetError):
                assert await second.closed() == b""
            await until(lambda: server.connections == 1)
            first.close()

    run(subject())


def test_a_stalled_handshake_counts_as_idle_and_drain_does_not_wait_for_it(
    run: Run, authority: Authority, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with (
            serving_tls(echo, certificate, max_connections=1) as server,
            Client(server) as stalled,
        ):
            await until(lambda: server.connections == 1)
            async with TLSClient(server, trusting(authority)) as client:
                assert (await client.ask(GET)).status == 200
            async with Client(server) as another:
                await until(lambda: server.connections == 1)
                async with asyncio.timeout(2):
                    await server.drain(0.1)
                for ended in (stalled, another):
                    with contextlib.suppress(ConnectionResetError):
                        assert await ended.closed() == b""

    run(subject())


@contextlib.asynccontextmanager
async def to_begin(
    certificate: Certificate, *, descriptors: bool = True
) -> AsyncIterator[tuple[tls.Handshake, socket.socket]]:
    """A handshake that was not begun yet, and its client, who says nothing."""
    ours, client = socket.socketpair()
    with client:
        _, writer = await asyncio.open_connection(sock=ours)
        context = tls.make_context(certificate.cert, certificate.key, None)
        with contextlib.nullcontext() if descriptors else all_descriptors_taken(but=0):
            handshake = tls.Handshake(cast("asyncio.Transport", writer.transport), context)
        yield handshake, client
        handshake.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_a_limit_holds_for_a_handshake_before_its_begin_and_is_too_late_after_its_end(
    run: Run, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with to_begin(certificate) as (handshake, _):
            handshake.limit(0)
            with pytest.raises(TimeoutError):
                await handshake.run(30, Wire())
        async with to_begin(certificate) as (handshake, _):
            running = asyncio.create_task(handshake.run(30, Wire()))
            await asyncio.sleep(0.01)
            handshake.limit(0)
            await asyncio.sleep(0)  # it has expired, and has not ended
            handshake.limit(0)
            with pytest.raises(TimeoutError):
                await running

    run(subject())


def test_without_a_descriptor_for_its_handshake_a_connection_ends(
    run: Run, certificate: Certificate
) -> None:
    async def subject() -> None:
        async with to_begin(certificate, descriptors=False) as (handshake, client):
            with pytest.raises(OSError, match="Too many open files"):
                await handshake.run(30, Wire())
            client.settimeout(1)
            assert await asyncio.to_thread(client.recv, 1) == b""

    run(subject())


def test_tls_1_1_is_not_spoken(
    run: Run, authority: Authority, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    context = trusting(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def subject() -> None:
        async with serving_tls(echo, certificate) as server:
            with pytest.raises(OSError):  # noqa: PT011 - asyncio resets where OpenSSL would tell
                await TLSClient(server, context).__aenter__()

    run(subject())
    assert "no TLS handshake: unsupported protocol" in caplog.text


def test_a_renewed_certificate_is_shown_to_the_next_connection_and_keeps_the_others(
    run: Run, authority: Authority
) -> None:
    async def subject() -> None:
        old, new = authority.issue("old"), authority.issue("new")
        async with (
            serving_tls(echo, old) as server,
            TLSClient(server, trusting(authority)) as before,
        ):
            server.encryption = tls.make_context(new.cert, new.key, None)
            async with TLSClient(server, trusting(authority)) as after:
                assert (before.serial, after.serial) == (old.serial, new.serial)
                for client in (before, after):
                    assert (await client.ask(GET)).status == 200

    run(subject())


# --- Mutual TLS ---------------------------------------------------------------------------------


def test_with_a_client_ca_only_those_it_has_signed_get_in_and_the_log_names_them(
    run: Run,
    authority: Authority,
    certificate: Certificate,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strangers = Authority(tmp_path, "strangers")
    alice, mallory = authority.issue("alice"), strangers.issue("mallory")

    async def subject() -> None:
        async with serving_tls(echo, certificate, authority.cert) as server:
            async with TLSClient(server, trusting(authority, alice)) as client:
                assert (await client.ask(GET)).status == 200
            for context in (trusting(authority), trusting(authority, mallory)):
                # In TLS 1.3 a client hears of the refusal when it first reads.
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    async with TLSClient(server, context) as client:
                        await client.ask(GET)

    run(subject())
    [record] = [record for record in caplog.records if record.name == "llmrelay.access"]
    assert record.__dict__["fields"]["certificate"] == "alice"


# --- Files --------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named_with_the_reason(
    authority: Authority, certificate: Certificate, tmp_path: Path
) -> None:
    other = authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    cases: list[tuple[Path, Path | None, Path | None, str]] = [
        (tmp_path / "none.pem", None, None, r"--tls-cert .*none.pem .*No such file"),
        (certificate.cert, other.key, None, "--tls-key .*other.* the key is not the certificate's"),
        (empty, None, None, "--tls-cert .*empty.pem cannot be used: "),
        (certificate.cert, None, None, "--tls-cert .*cannot be used: "),
        (certificate.cert, certificate.key, empty, "--tls-client-ca .*empty.pem cannot be used: "),
        (certificate.cert, certificate.key, tmp_path / "no", "--tls-client-ca .*No such file"),
    ]
    for cert, key, client_ca, said in cases:
        with pytest.raises(UnusableConfig, match=said) as caught:
            tls.make_context(cert, key, client_ca)
        assert "[" not in caught.value.message, caught.value.message
