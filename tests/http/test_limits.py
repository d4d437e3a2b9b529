"""Each limit on what a client sends, at it and one above; and that nothing outlasts one.

Limits on connections are in test_connection_limits.py, those on calls in tests/runners and
tests/test_life.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from itertools import cycle
from pathlib import Path

import pytest

from llmrelay.http import incoming
from llmrelay.http.exchange import Exchange
from llmrelay.values import ListenAddress, UnixAddress

from .conftest import Run
from .live import GET, Client, echo, get, post, serving, until


def sized(head: bytes, size: int) -> bytes:
    """A request's head, made `size` bytes long by one more header."""
    return head[:-2] + b"X: " + b"x" * (size - len(head) - 5) + b"\r\n\r\n"


def chunked(*sizes: int) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes)
    return get("/", "Transfer-Encoding: chunked", method="POST") + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("limits", "at", "above", "status"),
    [
        ({"max_head_bytes": 1024}, sized(GET, 1024), sized(GET, 1025), 431),
        ({"max_head_bytes": 1024}, get("/" + "a" * 974), get("/" + "a" * 1024), 414),
        ({"max_headers": 3}, get("/", "A: a", "B: b"), get("/", "A: a", "B: b", "C: c"), 431),
        ({"max_body_bytes": 9}, post(b"x" * 9), post(b"x" * 10), 413),
        ({"max_body_bytes": 9}, chunked(4, 5), chunked(4, 5, 1), 413),
    ],
    ids=["head", "target", "headers", "body", "chunked body"],
)
def test_a_request_at_a_limit_is_answered_and_one_above_is_refused(
    run: Run, limits: dict[str, int], at: bytes, above: bytes, status: int
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], await exchange.read_body())

    async def subject() -> None:
        async with serving(handler, **limits) as server:
            async with Client(server) as client:
                assert (await client.ask(at)).status == 200
                assert (await client.ask(at)).status == 200
            async with Client(server) as client:
                assert (await client.ask(above)).status == status
                assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize(("rate", "status"), [(10, 200), (10_000, 408)])
def test_a_body_has_the_time_that_it_takes_at_the_least_rate(
    run: Run, rate: int, status: int
) -> None:
    async def subject() -> None:
        request = post(b"x" * 30)
        async with (
            serving(body_timeout_s=0.1, body_rate_bytes=rate) as server,
            Client(server) as client,
            dripping(client, request[:-30], request[-30:], pause_s=0.01),
        ):
            assert (await client.response()).status == status

    run(subject())


# --- Nothing outlasts its limit -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def dripping(
    client: Client, head: bytes, rest: Iterable[int], pause_s: float = 0.005
) -> AsyncIterator[None]:
    """Sends the head, and behind it the rest byte by byte."""

    async def drip() -> None:
        for byte in rest:
            await asyncio.sleep(pause_s)
            client.send(bytes([byte]))

    client.send(head)
    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (b"GET /", b"a"),
        (GET[:-2] + b"X: ", b"a"),
        (GET[:-2], b"A: a\r\n"),
        (b"\r\n\r\nGET / ", b"a"),
        (CHUNKED + b"1", b";a=b"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"0\r\n", b"A: a\r\n"),
        (post(b"x" * 1000)[:-1000], b"x"),
    ],
    ids=["target", "header", "headers", "behind CRLF", "extensions", "chunks", "trailers", "body"],
)
def test_no_byte_moves_a_deadline(run: Run, head: bytes, again: bytes) -> None:
    limits = {"head_timeout_s": 0.1, "body_timeout_s": 0.1, "keep_alive_s": 5.0}

    async def subject() -> None:
        async with (
            serving(echo, **limits) as server,
            Client(server) as client,
            dripping(client, GET + head, cycle(again)),
        ):
            assert (await client.response()).status == 200
            assert (await client.response()).status == 408

    run(subject())


def test_empty_lines_are_no_request_and_do_not_keep_a_connection(run: Run) -> None:
    async def subject() -> None:
        async with serving(keep_alive_s=0.4) as server, Client(server) as client:
            assert (await client.ask(GET)).status == 200
            for _ in range(4):
                await asyncio.sleep(0.01)
                client.send(b"\r\n")
            assert await client.closed() == b""

    run(subject())


def test_who_neither_reads_nor_closes_after_an_error_is_waited_for_no_longer_than_to_linger(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "LINGER_S", 0.05)

    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with dripping(client, b"bad\r\n", cycle(b"x")):
                await until(lambda: server.connections == 1)
                await until(lambda: server.connections == 0)

    run(subject())


@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_reads_too_slowly_is_ended_however_much_it_reads(
    run: Run, reads: bool
) -> None:
    """What is left of an answer when its handler is done has one deadline for all of it."""

    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], b"x" * 8_000_000)

    async def subject() -> None:
        async with serving(handler, send_timeout_s=0.2, keep_alive_s=60) as server:
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(sock, (server.address.host, server.address.port))
                await loop.sock_sendall(sock, GET)
                await until(lambda: server.connections == 1)
                while server.connections:
                    await asyncio.sleep(0.01)
                    if reads:
                        await loop.sock_recv(sock, 1)

    run(subject())


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_client_that_leaves_while_its_answer_waits_for_it_is_no_error_of_the_server(
    run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path, family: str
) -> None:
    listen = ListenAddress("127.0.0.1", 0) if family == "tcp" else UnixAddress(str(tmp_path / "s"))

    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], b"x" * 8_000_000)

    async def subject() -> None:
        async with serving(handler, listen=(listen,)) as server:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX) as sock:
                sock.setblocking(False)
                if isinstance(listen, UnixAddress):
                    await loop.sock_connect(sock, listen.path)
                else:
                    await loop.sock_connect(sock, (server.address.host, server.address.port))
                await loop.sock_sendall(sock, GET)
                await until(lambda: "complete" in caplog.text)
            await until(lambda: server.connections == 0)

    run(subject())
    assert "A connection failed" not in caplog.text


def test_a_client_that_does_not_read_a_small_answer_is_idle_once_the_kernel_has_it(
    run: Run,
) -> None:
    async def subject() -> None:
        async with serving(keep_alive_s=0.1, send_timeout_s=60) as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(GET)
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)

    run(subject())


def test_one_that_has_not_taken_its_answer_yet_does_not_make_room(run: Run) -> None:
    async def subject() -> None:
        sent = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            exchange.respond(200, [], b"x" * 8_000_000)
            sent.set()

        async with serving(handler, max_connections=1) as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(GET)
            await sent.wait()
            async with Client(server):
                await until(lambda: server._limits.crowded)
                assert not server._limits._idle
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert len((await client.response()).body) == 8_000_000

    run(subject())


def test_all_bodies_together_have_a_limit_and_one_that_is_forgotten_does_not_count(
    run: Run,
) -> None:
    async def subject() -> None:
        held, let_go = asyncio.Event(), asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            body = await exchange.read_body()
            if exchange.request.path == "/held":
                held.set()
                await let_go.wait()
            elif exchange.request.path == "/forgotten":
                exchange.forget_body()
                let_go.set()
                await asyncio.Event().wait()
            exchange.respond(200, [], body)

        def sent(path: str, size: int) -> bytes:
            return get(path, f"Content-Length: {size}", method="POST") + b"x" * size

        async with (
            serving(handler, body_memory_bytes=10) as server,
            Client(server) as first,
            Client(server) as second,
        ):
            first.send(sent("/held", 6))
            await held.wait()
            assert (await second.ask(sent("/", 4))).status == 200
            above = await second.ask(sent("/", 5))
            assert (above.status, above.body) == (503, b"/ bodies_too_large")
            assert above.headers["retry-after"] == "1"
            async with Client(server) as third:
                third.send(sent("/forgotten", 4))
                assert (await first.response()).body == b"x" * 6
                await until(lambda: server._memory.taken_bytes == 0)
                assert (await second.ask(sent("/", 10))).status == 200
            assert (await second.ask(sent("/", 11))).status == 503
        assert server._memory.taken_bytes == 0

    run(subject())
