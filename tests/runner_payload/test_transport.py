"""How connections to upstream come about and which are used again: addresses, TLS, idle ones."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from runner_payload import transport as subject
from runner_payload.connection import HELD_BYTES, Body
from runner_payload.transport import BODY, Transport
from tests.helpers.certificates import Authority, Certificate
from tests.helpers.exact_server import ExactServer, Peer
from tests.helpers.loops import LOOPS, play_on

LIMIT_S = 5.0
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
# What a loop's TLS reads at once, twice: in its buffer and in ours.
READ_BYTES = 2 * 256 * 1024


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder).issue("upstream")


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's environment names the authority, as its administrator does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert.parent / "authority.pem"))


def tls_of(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


Scene = Callable[[Transport], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Play:
    """Plays a scene on each loop; nothing may be left of it, nor be said by the loop."""
    return lambda scene: play_on(request.param, scene, LIMIT_S)


async def ask(
    transport: Transport,
    url: str,
    content: bytes | AsyncIterator[bytes] = b"",
    connect_s: float | None = LIMIT_S,
) -> Body:
    extensions = {"timeout": {"connect": connect_s}}
    request = httpx2.Request("POST", url, content=content, extensions=extensions)
    body = (await transport.handle_async_request(request)).extensions[BODY]
    assert isinstance(body, Body)
    return body


async def text_of(body: Body) -> bytes:
    return b"".join([piece async for piece in body])


async def hello(transport: Transport, server: ExactServer, peer: Peer | None = None) -> Peer:
    """A whole exchange over `peer`, or else a new connection; that."""
    asking = asyncio.create_task(ask(transport, server.url))
    peer = peer or await server.accept()
    await peer.answer(HELLO)
    assert await text_of(await asking) == b"hello"
    return peer


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- Which connections are used again -----------------------------------------------------------


def test_as_many_are_open_as_calls_are_under_way_and_the_last_is_used_first(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            asking = [asyncio.create_task(ask(transport, server.url)) for _ in range(3)]
            peers = [await server.accept() for _ in asking]
            for peer in peers:
                await peer.answer(HELLO)
                await turns(5)
            for call in asking:
                assert await text_of(await call) == b"hello"
            for _ in range(2):
                await hello(transport, server, peers[2])
            assert len(transport._open) == 3

    play(scene)


def test_no_more_are_kept_than_the_limit_and_the_oldest_goes(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MAX_IDLE", 2)

    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            asking = [asyncio.create_task(ask(transport, server.url)) for _ in range(3)]
            peers = [await server.accept() for _ in asking]
            for peer in peers:
                await peer.answer(HELLO)
                await turns(5)
            await asyncio.wait(asking)
            await peers[0].gone()
            assert len(transport._open) == 2

    play(scene)


def test_an_idle_connection_is_kept_for_so_long_and_no_longer(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            old = await hello(transport, server)
            await hello(transport, server, old)
            monkeypatch.setattr(subject, "MAX_IDLE_S", 0.0)
            new = await hello(transport, server)
            await old.gone()
            # And without being asked for again, when another becomes idle.
            monkeypatch.setattr(subject, "MAX_IDLE_S", 30.0)
            first, second = (asyncio.create_task(ask(transport, server.url)) for _ in range(2))
            await new.answer(HELLO)
            await turns(5)
            assert first.done()
            monkeypatch.setattr(subject, "MAX_IDLE_S", 0.0)
            await (await server.accept()).answer(HELLO)
            await second
            await new.gone()
            assert len(transport._open) == 1

    play(scene)


def test_a_connection_is_not_used_for_another_origin(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as one, ExactServer() as other:
            peers = [await hello(transport, one), await hello(transport, other)]
            await hello(transport, one, peers[0])
            await hello(transport, other, peers[1])

    play(scene)


# --- What is sent -------------------------------------------------------------------------------


def test_a_request_goes_out_as_it_was_built(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            request = httpx2.Request(
                "DELETE",
                f"{server.url}/v1/a%2Fb?q=ä b&q#fragment",
                headers=[
                    (b"X-Twice", b"1"),
                    (b"x-twice", b"\xe9 2"),
                    (b"Authorization", b"Bearer k"),
                ],
            )
            asking = asyncio.create_task(transport.handle_async_request(request))
            peer = await server.accept()
            head = await peer.answer(b"HTTP/1.1 404 Nicht da\r\nX: 1\r\nx: 2\r\n\r\n")
            first, *fields = head.decode("latin-1").split("\r\n")
            assert first == "DELETE /v1/a%2Fb?q=%C3%A4%20b&q HTTP/1.1"
            assert fields == [
                f"Host: 127.0.0.1:{server.port}",
                "X-Twice: 1",
                "x-twice: \xe9 2",
                "Authorization: Bearer k",
                "",
                "",
            ]
            response = await asking
            assert (response.status_code, response.reason_phrase) == (404, "Nicht da")
            assert response.headers.get_list("x") == ["1", "2"]
            peer.close()
            assert await response.aread() == b""

    play(scene)


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nb", b"a\0"])
def test_a_header_that_would_be_two_is_not_sent(play: Play, value: bytes) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            headers = [(b"X", value)]
            request = httpx2.Request("GET", server.url, headers=headers)
            with pytest.raises(httpx2.LocalProtocolError):
                await transport.handle_async_request(request)
            assert server.peers == []

    play(scene)


# --- How they come about ------------------------------------------------------------------------


async def no_connection(asking: Awaitable[object], match: str) -> httpx2.TransportError:
    with pytest.raises((httpx2.ConnectError, httpx2.ConnectTimeout), match=match) as caught:
        await asking
    return caught.value


def test_a_port_where_nobody_listens_refuses(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            await no_connection(ask(transport, url), "Errno 111|refused")

    play(scene)


def test_a_name_that_does_not_resolve_is_an_error(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(transport: Transport) -> None:
        await no_connection(ask(transport, f"http://{'a' * 70}.test/"), "label")

        async def unknown(host: str, port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(subject, "_addresses", unknown)
        await no_connection(ask(transport, "http://no.such.test/"), "not known")

    play(scene)


def test_a_name_is_looked_up_as_it_is_sent(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(transport: Transport) -> None:
        asked: list[str] = []

        async def addresses(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"]

        monkeypatch.setattr(subject, "_addresses", addresses)
        async with ExactServer() as server:
            asking = asyncio.create_task(ask(transport, f"http://straße.test:{server.port}/"))
            head = await (await server.accept()).answer(HELLO)
            await asking
            assert asked == ["xn--strae-oqa.test"]
            assert b"\r\nHost: xn--strae-oqa.test:" in head

    play(scene)


def test_localhost_is_found_and_numbers_are_not_looked_up() -> None:
    async def scene() -> None:
        assert "127.0.0.1" in await subject._addresses("localhost", 80)
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = None  # type: ignore[assignment,method-assign]
        assert await subject._addresses("127.0.0.1", 80) == ["127.0.0.1"]
        assert await subject._addresses("::1", 80) == ["::1"]

    asyncio.run(scene())


def at_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's, of which the first is of no use: on Linux all of 127.0.0.0/8 is this machine."""

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(subject, "_addresses", addresses)


def test_the_second_address_is_tried_when_the_first_refuses(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_two_addresses(monkeypatch)

    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            await hello(transport, server)
            url = server.url
        await no_connection(ask(transport, url), "Errno 111|refused")

    play(scene)


@pytest.mark.usefixtures("trusted")
def test_the_second_address_is_tried_when_the_first_does_not_answer(
    play: Play, monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    at_two_addresses(monkeypatch)
    monkeypatch.setattr(subject, "_ADDRESS_S", 0.02)

    async def scene(transport: Transport) -> None:
        async with (
            ExactServer(tls_of(certificate)) as server,
            ExactServer(host="127.0.0.2", port=server.port) as silent,
        ):
            url = f"https://localhost:{server.port}"
            asking = asyncio.create_task(ask(transport, url))
            await (await server.accept()).answer(HELLO)
            assert await text_of(await asking) == b"hello"
            await (await silent.accept()).gone()

    play(scene)


@pytest.mark.usefixtures("trusted")
def test_a_connection_has_its_time_limit_with_tls_and_is_not_left_behind(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:  # and says nothing
            url = server.url.replace("http", "https")
            raised = await no_connection(
                ask(transport, url, connect_s=0.05), r"no connection within 0\.05 s"
            )
            assert isinstance(raised, httpx2.ConnectTimeout)
            await (await server.accept()).gone()

    play(scene)
    gc.collect()


@pytest.mark.usefixtures("trusted")
def test_cancelling_while_it_connects_leaves_nothing(play: Play) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            asking = asyncio.create_task(ask(transport, server.url.replace("http", "https")))
            peer = await server.accept()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await peer.gone()

    play(scene)
    gc.collect()


def test_cancelling_in_any_turn_of_the_loop_is_heard_and_leaves_nothing(play: Play) -> None:
    """Also in the one in which the connection has just come about."""

    async def scene(transport: Transport) -> None:
        async with ExactServer() as server:
            for count in range(12):
                asking = asyncio.create_task(ask(transport, server.url))
                await turns(count)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            await turns(20)
            assert not transport._open
            for peer in server.peers:
                await peer.gone()

    play(scene)
    gc.collect()


@pytest.mark.usefixtures("trusted")
def test_many_first_calls_read_the_hosts_certificates_once(
    play: Play, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = subject._tls_context
    readings = 0

    def counted() -> ssl.SSLContext:
        nonlocal readings
        readings += 1
        return read()

    monkeypatch.setattr(subject, "_tls_context", counted)

    async def scene(transport: Transport) -> None:
        nonlocal readings
        async with ExactServer(tls_of(certificate)) as server:
            asking = [asyncio.create_task(ask(transport, server.url)) for _ in range(5)]
            for _ in asking:
                await (await server.accept()).answer(HELLO)
            await asyncio.wait(asking)
            assert {await text_of(call.result()) for call in asking} == {b"hello"}
        assert readings == 1

    play(scene)


# --- TLS ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_the_host_trusts_is_trusted_and_http_1_1_is_agreed_on(
    play: Play, certificate: Certificate
) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer(tls_of(certificate)) as server:
            peer = await hello(transport, server)
            chosen = peer.writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert chosen == "http/1.1"
            await hello(transport, server, peer)

    play(scene)


def test_a_certificate_that_nobody_trusts_is_an_error_that_says_so(
    play: Play, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "another").cert))

    async def scene(transport: Transport) -> None:
        async with ExactServer(tls_of(certificate)) as server:
            await no_connection(ask(transport, server.url), "certificate verify failed")

    play(scene)


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_an_error_that_says_so(
    play: Play, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer(tls_of(certificate)) as server:
            monkeypatch.setattr(subject, "_addresses", here)
            await no_connection(
                ask(transport, f"https://other.test:{server.port}"), "not valid for 'other.test'"
            )

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    play(scene)


@pytest.mark.usefixtures("trusted")
def test_big_bodies_go_both_ways_over_tls_and_wait_for_whoever_is_slow(
    play: Play, certificate: Certificate
) -> None:
    piece = bytes(range(256)) * 1024
    count = 48
    whole = piece * 16

    async def scene(transport: Transport) -> None:
        async with ExactServer(tls_of(certificate)) as server:
            taken = 0

            async def source() -> AsyncIterator[bytes]:
                nonlocal taken
                for _ in range(count):
                    taken += 1
                    yield piece

            asking = asyncio.create_task(ask(transport, server.url, source()))
            peer = await server.accept()
            await turns(200)
            assert taken < count
            await peer.head()
            chunk = b"40000\r\n" + piece + b"\r\n"
            for _ in range(count):
                assert await peer.reader.readexactly(len(chunk)) == chunk
            assert await peer.reader.readexactly(5) == b"0\r\n\r\n"
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole)
            peer.close()
            body = await asking
            await turns(100)
            assert len(body._held) <= HELD_BYTES + READ_BYTES
            assert await text_of(body) == whole

    play(scene)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("ending", ["close", "cut"])
def test_a_tls_connection_that_ends_is_told_as_any_other(
    play: Play, certificate: Certificate, ending: str
) -> None:
    async def scene(transport: Transport) -> None:
        async with ExactServer(tls_of(certificate)) as server:
            for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"):

                async def whole() -> bytes:
                    return await text_of(await ask(transport, server.url))

                asking = asyncio.create_task(whole())
                peer = await server.accept()
                await peer.answer(answer)
                await turns(10)
                (peer.close if ending == "close" else peer.writer.transport.abort)()
                with pytest.raises(httpx2.TransportError):
                    await asking
            # An idle one is not asked again.
            peer = await hello(transport, server)
            (peer.close if ending == "close" else peer.writer.transport.abort)()
            await peer.gone()
            await turns(20)
            await hello(transport, server)

    play(scene)
