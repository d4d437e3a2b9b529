"""Bodies that are read as they come: how much, for how long, and what is left of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from llmrelay.errors import Unauthorized
from llmrelay.http.exchange import Exchange
from llmrelay.http.server import Server

from .conftest import Run
from .live import Client, get, post, serving, until

KIB = 1024
LIMITS = {"max_body_bytes": 4 * KIB, "max_upload_bytes": 64 * KIB}

Handler = Callable[[Exchange], Awaitable[None]]


async def count(exchange: Exchange) -> None:
    """Takes an upload, and answers with its length and how much of it was held at first."""
    begun, whole = await exchange.begin_upload(LIMITS["max_upload_bytes"], 4 * KIB)
    size = len(begun)
    exchange.forget_body()
    while not whole and (part := await exchange.read_part()):
        size += len(part)
    exchange.respond(200, [], f"{size} {'whole' if whole else 'in parts'}".encode())


async def either(exchange: Exchange) -> None:
    """An upload at /, a body that is held elsewhere."""
    if exchange.request.path == "/":
        await count(exchange)
    else:
        exchange.respond(200, [], str(len(await exchange.read_body())).encode())


def chunked(*chunks: bytes, path: str = "/") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return get(path, "Transfer-Encoding: chunked", method="POST") + body + b"0\r\n\r\n"


def memory_of(server: Server) -> int:
    return server._memory.taken_bytes


@pytest.mark.parametrize("size", [1, 4 * KIB, 4 * KIB + 1, 64 * KIB])
def test_an_upload_is_whole_if_it_may_be_held_and_else_comes_in_parts(run: Run, size: int) -> None:
    async def subject() -> None:
        async with serving(count, **LIMITS) as server, Client(server) as client:
            response = await client.ask(post(b"x" * size))
            # A read brings up to 64 KiB at once.
            assert response.body.startswith(b"%d " % size)
            assert (response.body == b"%d whole" % size) >= (size <= 4 * KIB)
            assert memory_of(server) == 0

    run(subject())


@pytest.mark.parametrize("path", ["/", "/held"])
def test_only_what_is_begun_as_an_upload_may_be_so_long(run: Run, path: str) -> None:
    async def subject() -> None:
        for size, request in (
            (8 * KIB, post(b"x" * 8 * KIB)),
            (8 * KIB, chunked(b"x" * 5 * KIB, b"x" * 3 * KIB)),
        ):
            async with serving(either, **LIMITS) as server, Client(server) as client:
                response = await client.ask(request.replace(b" / ", f" {path} ".encode(), 1))
                if path == "/":
                    assert response.body.startswith(b"%d" % size)
                else:
                    assert response.status == 413

    run(subject())


def test_the_request_after_an_upload_has_the_limit_of_its_own(run: Run) -> None:
    async def subject() -> None:
        async with serving(either, **LIMITS) as server, Client(server) as client:
            # All at once: none of them reads into the next.
            client.send(
                post(b"x" * 60 * KIB)
                + chunked(b"x" * 60 * KIB)
                + chunked(b"x" * 4 * KIB, path="/held")
                + chunked(b"x" * 5 * KIB, path="/held")
            )
            bodies = [(await client.response()).body for _ in range(3)]
            assert [body.split()[0] for body in bodies] == [b"61440", b"61440", b"4096"]
            assert (await client.response()).status == 413
            assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize("held_bytes", [1, 4 * KIB])
def test_an_upload_over_its_limit_is_413_as_soon_as_that_is_known(
    run: Run, held_bytes: int
) -> None:
    """By its length before a byte has come, and midway if that is unsaid."""

    async def subject() -> None:
        async with serving(count, **LIMITS) as server:
            async with Client(server) as client:
                client.send(get("/", f"Content-Length: {64 * KIB + 1}", method="POST"))
                assert (await client.response()).status == 413
            async with Client(server) as client:
                response = await client.ask(chunked(b"x" * 40 * KIB, b"x" * 40 * KIB))
                assert (response.status, response.headers["connection"]) == (413, "close")
            assert memory_of(server) == 0

    run(subject())


def test_an_upload_that_is_refused_unread_hears_why_and_not_that_it_is_long(run: Run) -> None:
    """Such as one without a token: that it is longer than a prompt may be is not what is wrong."""

    async def refuses(exchange: Exchange) -> None:
        raise Unauthorized("Who is it?")

    async def subject() -> None:
        for size in (5 * KIB, 60 * KIB):
            for framing in (f"Content-Length: {size}", "Transfer-Encoding: chunked"):
                async with serving(refuses, **LIMITS) as server, Client(server) as client:
                    request = get("/", framing, method="POST")
                    client.send(request + (b"1fff\r\n" if "chunked" in framing else b"x"))
                    assert (await client.response()).status == 401

    run(subject())


def test_a_client_that_waits_to_be_asked_for_its_upload_is(run: Run) -> None:
    async def subject() -> None:
        async with serving(count, **LIMITS) as server, Client(server) as client:
            head = get("/", "Content-Length: 9", "Expect: 100-continue", method="POST")
            client.send(head)
            assert (await client.head()).status == 100
            response = await client.ask(b"x" * 9)
            assert (response.body, response.interim) == (b"9 whole", [])
            # And one whose upload is refused is not.
            client.send(head.replace(b": 9", b": 99999"))
            response = await client.response()
            assert (response.status, response.interim) == (413, [])

    run(subject())


def test_the_time_that_the_reader_takes_is_not_the_clients(run: Run) -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        begun, _ = await exchange.begin_upload(64 * KIB, 1)
        await go_on.wait()
        size = len(begun)
        while part := await exchange.read_part():
            size += len(part)
        exchange.respond(200, [], str(size).encode())

    async def subject() -> None:
        limits = {"body_timeout_s": 0.4, "body_rate_bytes": 1 << 30}
        async with serving(slow, **limits) as server, Client(server) as client:
            request = post(b"x" * 100)
            client.send(request[:-50])
            asyncio.get_running_loop().call_later(0.6, go_on.set)
            await go_on.wait()
            client.send(request[-50:])
            assert (await client.response()).body == b"100"
            # What the client itself takes still counts.
            client.send(request[:-50])
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (408, "close")

    run(subject())


def test_an_answer_that_begins_in_the_middle_of_an_upload_takes_nothing_of_it(run: Run) -> None:
    """What has come and waits is the reader's, whatever else is dropped as an answer begins."""
    taken = bytearray()

    async def both_ways(exchange: Exchange) -> None:
        begun, _ = await exchange.begin_upload(64 * KIB, 1)
        taken.extend(begun)
        exchange.start(200, [])
        exchange.write(b"begun")
        while part := await exchange.read_part():
            taken.extend(part)
        exchange.finish()

    async def subject() -> None:
        sent = bytes(range(256)) * 16
        for request in (
            post(sent),
            chunked(*(sent[at : at + 64] for at in range(0, len(sent), 64))),
        ):
            taken.clear()
            async with serving(both_ways, **LIMITS) as server, Client(server) as client:
                assert (await client.ask(request)).body == b"begun"
                assert taken == sent
                # The connection is as good as before.
                assert (await client.ask(post(b"x"))).body == b"begun"

    run(subject())


@pytest.mark.parametrize(("left", "kept"), [(1 * KIB, True), (60 * KIB + 5 * KIB, False)])
def test_after_an_early_answer_the_connection_is_kept_if_little_of_the_upload_is_left(
    run: Run, left: int, kept: bool
) -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.begin_upload(1024 * KIB, 1)
        exchange.start(200, [])
        exchange.finish()

    async def subject() -> None:
        async with serving(early) as server, Client(server) as client:
            request = post(b"x" * (left + 1))
            client.send(request[:-left])
            response = await client.response()
            assert (response.headers.get("connection") != "close") is kept
            client.send(request[-left:])
            if kept:
                assert (await client.ask(post(b"x"))).status == 200
            else:
                assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize("how", ["reset", "close", "end"])
def test_a_client_that_leaves_in_its_upload_ends_its_handler(run: Run, how: str) -> None:
    ended: list[str] = []

    async def handler(exchange: Exchange) -> None:
        await exchange.begin_upload(64 * KIB, 1)
        try:
            while await exchange.read_part():
                pass
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    async def subject() -> None:
        async with serving(handler, **LIMITS) as server, Client(server) as client:
            client.send(post(b"x" * 100)[:-50])
            await until(lambda: memory_of(server) > 0)
            getattr(client, how)()
            await until(lambda: bool(ended))
            # Its end in the midst of a body says for certain that the rest will not come.
            assert ended == ["CancelledError" if how == "reset" else "BadRequest"]
            await until(lambda: memory_of(server) == 0)

    run(subject())


def test_what_is_held_of_uploads_counts_and_is_given_back(run: Run) -> None:
    go_on = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        begun, _ = await exchange.begin_upload(64 * KIB, 4 * KIB)
        await go_on.wait()
        exchange.forget_body()
        exchange.respond(200, [], str(len(begun)).encode())

    async def subject() -> None:
        async with (
            serving(held, **LIMITS, body_memory_bytes=6 * KIB) as server,
            Client(server) as one,
            Client(server) as two,
        ):
            one.send(post(b"x" * 4 * KIB))
            await until(lambda: memory_of(server) == 4 * KIB)
            assert (await two.ask(post(b"x" * 4 * KIB))).status == 503
            go_on.set()
            assert (await one.response()).body == b"4096"
            assert (await two.ask(post(b"x" * 4 * KIB))).body == b"4096"
            assert memory_of(server) == 0

    run(subject())
