from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llmrelay.config import Config
from llmrelay.errors import CannotListen
from llmrelay.http.exchange import Exchange
from llmrelay.http.listeners import Listener
from llmrelay.http.server import Server
from llmrelay.values import ListenAddress, UnixAddress

from .conftest import Run
from .live import GET, Client, echo, get, post, render_error, serving, until
from .test_connection import Held


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


async def _refused(server_address: ListenAddress) -> bool:
    try:
        await asyncio.open_connection(server_address.host, server_address.port)
    except ConnectionRefusedError:
        return True
    return False


# --- Listening ----------------------------------------------------------------------------------


def test_port_0_takes_a_free_one_and_the_address_tells(run: Run) -> None:
    async def subject() -> None:
        async with serving() as one, serving() as two:
            assert one.address.host == two.address.host == "127.0.0.1"
            assert 0 != one.address.port != two.address.port != 0

    run(subject())


def test_a_server_listens_on_ipv6(run: Run) -> None:
    async def subject() -> None:
        server = Server(Config(listen=(ListenAddress("::1", 0),)), echo, render_error)
        await server.start()
        async with Client(server) as client:
            host = f"Host: {server.address}\r\n".encode()
            assert (await client.ask(b"GET / HTTP/1.1\r\n" + host + b"\r\n")).status == 200
        await server.drain(0)

    run(subject())


def test_a_server_listens_on_several_addresses_unix_sockets_among_them(
    run: Run, tmp_path: Path
) -> None:
    path = str(tmp_path / "llmrelay.sock")
    listen = (ListenAddress("127.0.0.1", 0), ListenAddress("::1", 0), UnixAddress(path))

    async def subject() -> None:
        async with serving(listen=listen) as server:
            four, six, unix = (listener.address for listener in server.listening)
            assert unix == UnixAddress(path)
            for address in (four, six):
                assert isinstance(address, ListenAddress)
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(get("/tcp", "Connection: close"))
                assert (await reader.read()).endswith(b"/tcp ")
                writer.close()
            reader, writer = await asyncio.open_unix_connection(path)
            # Whatever a client calls it: no page of another site reaches a unix socket.
            writer.write(b"GET /unix HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"/unix ")
            writer.close()

    run(subject())
    assert not Path(path).exists()


def test_a_taken_port_is_an_error_that_says_what_to_do(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server:
            with pytest.raises(CannotListen) as caught:
                await Server(Config(listen=(server.address,)), echo, render_error).start()
            assert str(server.address) in caught.value.message
            assert "it is in use" in caught.value.message
            assert "--listen" in caught.value.message

    run(subject())


def test_of_two_that_have_bound_a_port_before_either_listened_one_says_that_it_is_taken(
    run: Run,
) -> None:
    async def subject() -> None:
        one = Server(Config(listen=(ListenAddress("127.0.0.1", 0),)), echo, render_error)
        one.bind()
        two = Server(Config(listen=(one.address,)), echo, render_error)
        two.bind()
        await one.start()
        with pytest.raises(CannotListen, match="it is in use"):
            await two.start()
        for server in (one, two):
            await server.drain(0)

    run(subject())


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "no such address"),
        ("no.invalid", "does not resolve"),
        ("a..b", "does not resolve"),
        ("a" * 64, "does not resolve"),
    ],
)
def test_an_address_of_no_own_is_an_error_that_says_what_to_do(
    run: Run, host: str, reason: str
) -> None:
    async def subject() -> None:
        server = Server(Config(listen=(ListenAddress(host, 0),)), echo, render_error)
        with pytest.raises(CannotListen, match=reason):
            await server.start()
        await server.drain(0)

    run(subject())


def test_the_guard_takes_any_host_where_others_may_connect(run: Run) -> None:
    async def subject() -> None:
        server = Server(Config(listen=(ListenAddress("0.0.0.0", 0),)), echo, render_error)
        await server.start()
        async with Client(server) as client:
            assert (await client.ask(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")).status == 200
        await server.drain(0)

    run(subject())


# --- Ending -------------------------------------------------------------------------------------


def test_drain_closes_idle_connections_at_once(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as fresh, Client(server) as used:
            await used.ask(GET)
            await asyncio.sleep(0.01)  # until the exchange is over on the server's side too
            async with asyncio.timeout(1):
                await server.drain(30)
            assert await fresh.closed() == await used.closed() == b""
            assert server.connections == 0

    run(subject())


def test_abort_closes_a_connection_whose_task_has_not_run_yet(run: Run) -> None:
    class Early(Server):
        def _connected(
            self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            super()._connected(listener, reader, writer)
            self.abort()

    async def subject() -> None:
        server = Early(Config(listen=(ListenAddress("127.0.0.1", 0),)), echo, render_error)
        await server.start()
        async with Client(server) as client:
            with contextlib.suppress(ConnectionResetError):
                assert await client.closed() == b""
        await server.drain(0)

    run(subject())


def test_drain_closes_a_connection_whose_task_has_not_run_yet(run: Run) -> None:
    class Early(Server):
        def _connected(
            self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            super()._connected(listener, reader, writer)
            for connection in self._connections.values():
                connection.drain(0)

    async def subject() -> None:
        server = Early(Config(listen=(ListenAddress("127.0.0.1", 0),)), echo, render_error)
        await server.start()
        async with Client(server) as client:
            assert await client.closed() == b""
        await server.drain(30)

    run(subject())


@pytest.mark.parametrize("start", [False, True])
def test_drain_waits_for_a_running_exchange_and_the_last_answer_says_so(
    run: Run, start: bool
) -> None:
    async def subject() -> None:
        held = Held(start=start)
        async with serving(held) as server, Client(server) as client:
            address = server.address
            client.send(GET + GET)
            await held.entered.wait()
            draining = asyncio.create_task(server.drain(30))
            await asyncio.sleep(0)
            assert await _refused(address)
            assert not draining.done()
            held.let_go.set()
            response = await client.response()
            assert response.body == (b"begun" if start else b"done")
            if start:  # its head went out before the drain; so the next one is the last
                response = await client.response()
            assert response.headers["connection"] == "close"
            assert await client.closed() == b""
            client.close()
            await draining

    run(subject())


def test_drain_waits_for_a_request_that_has_begun_to_arrive(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            assert (await client.ask(post(b"x") + GET[:10])).status == 200
            draining = asyncio.create_task(server.drain(30))
            await asyncio.sleep(0.02)
            assert not draining.done()
            response = await client.ask(GET[10:])
            assert (response.status, response.headers["connection"]) == (200, "close")
            client.close()
            await draining

    run(subject())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_drain_cuts_what_is_left_after_its_limit(run: Run, version: str) -> None:
    async def subject() -> None:
        held = Held(start=True)
        async with serving(held) as server, Client(server) as client:
            client.send(get(version=version))
            await held.entered.wait()
            await client.head()
            await server.drain(0.05)
            assert held.cancelled.is_set()
            if version == "1.0":  # a FIN would look like the answer's end
                with pytest.raises(ConnectionResetError):
                    await client.closed()
            else:
                assert await client.chunk() == b"begun"
                assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize("how", ["abort", "second drain"])
def test_a_drain_is_ended_at_once_by_abort_or_a_second_one(run: Run, how: str) -> None:
    async def subject() -> None:
        held = Held()
        async with serving(held) as server, Client(server) as client:
            client.send(GET)
            await held.entered.wait()
            draining = asyncio.create_task(server.drain(30))
            await asyncio.sleep(0)
            async with asyncio.timeout(1):
                if how == "abort":
                    server.abort()
                else:
                    await server.drain(30)
                await draining
            assert held.cancelled.is_set()

    run(subject())


def test_nothing_is_left_behind_in_whatever_state_a_connection_is(run: Run) -> None:
    """Tasks are checked by `run`; here: descriptors."""

    async def handler(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.start(200, [])
        if exchange.request.path == "/congested":
            while not exchange.congested:
                exchange.write(b"x" * 100_000)
            await exchange.drained()
        await asyncio.Event().wait()

    states = [b"", b"GET", GET, post(b"xyz")[:-1], get("/congested"), b"bad\r\n", GET * 2]

    async def subject() -> None:
        async with serving(), serving():  # a loop opens descriptors of its own when first used
            before = _open_files() - 2
        async with serving(handler) as server, AsyncExitStack() as stack:
            for sent in states:
                client = await stack.enter_async_context(Client(server))
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.send(sent)
            await until(lambda: server.connections == len(states))
            await asyncio.sleep(0.05)
            await server.drain(0.05)
            assert server.connections == 0
        await until(lambda: _open_files() <= before)  # uvloop closes them some turns later

    run(subject())


def test_a_bug_in_the_rendering_of_errors_ends_one_connection_and_is_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def render_badly(*_: object) -> tuple[int, list[tuple[str, str]], bytes]:
        raise KeyError("x")

    async def subject() -> None:
        config = Config(listen=(ListenAddress("127.0.0.1", 0),))
        server = Server(config, echo, render_badly)
        await server.start()
        async with Client(server) as client:
            client.send(b"bad\r\n\r\n")
            with pytest.raises((asyncio.IncompleteReadError, OSError)):
                await client.head()
        async with Client(server) as client:
            assert (await client.ask(GET)).status == 200
        await server.drain(0)

    run(subject())
    [record] = [record for record in caplog.records if record.name == "llmrelay.http"]
    assert record.levelno == logging.ERROR


def test_a_restarted_server_takes_the_same_port(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            address = server.address
            await client.ask(GET)
            await server.drain(0)
            again = Server(Config(listen=(address,)), echo, render_error)
            await again.start()
            assert again.address == address
            await again.drain(0)

    run(subject())


def test_ipv4_sockets_are_not_left_when_a_listener_fails(run: Run) -> None:
    async def subject() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            before = _open_files()
            config = Config(listen=(ListenAddress("127.0.0.1", taken.getsockname()[1]),))
            with pytest.raises(CannotListen):
                await Server(config, echo, render_error).start()
            assert _open_files() == before

    run(subject())
