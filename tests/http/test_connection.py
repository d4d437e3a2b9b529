from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from llmrelay.errors import MethodNotAllowed, NotFound, QueueFull, RelayError
from llmrelay.http.exchange import Exchange
from llmrelay.http.forwarded import Origin
from llmrelay.http.incoming import READ_AHEAD_BYTES
from llmrelay.values import UnixAddress, parse_trusted_proxy

from .conftest import Run
from .live import GET, Client, echo, get, post, serving, until

ONE_READ_BYTES = 256 * 1024  # what a loop reads of a socket at once


class Held:
    """A handler that waits to be let go, and says how far it came."""

    def __init__(self, *, start: bool = False) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._start = start

    async def __call__(self, exchange: Exchange) -> None:
        if self._start:
            exchange.start(200, [])
            exchange.write(b"begun")
        self.entered.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self._start:
            exchange.finish()
        else:
            exchange.respond(200, [], b"done")


def access_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    [record] = [record for record in caplog.records if record.name == "llmrelay.access"]
    fields = record.__dict__["fields"]
    assert isinstance(fields, dict)
    return fields


# --- Whole and streamed responses ---------------------------------------------------------------


def test_a_response_has_length_date_and_request_id_and_keeps_the_connection(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            first = await client.ask(post(b"hello"))
            second = await client.ask(get("/b"))
            assert (first.status, first.body) == (200, b"/ hello")
            assert (second.status, second.body) == (200, b"/b ")
            assert first.headers["x-request-id"].startswith("req_")
            assert first.headers["x-request-id"] != second.headers["x-request-id"]
            assert first.headers["date"].endswith(" GMT")
            assert "connection" not in first.headers

    run(subject())


def test_a_streamed_response_is_chunked_and_each_write_is_a_chunk_at_once(run: Run) -> None:
    async def subject() -> None:
        more = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            exchange.start(200, [("Content-Type", "text/plain"), ("Trailer", "X-End")])
            exchange.write(b"one")
            exchange.write(b"")
            await more.wait()
            exchange.write(b"0123456789abcdef")
            exchange.finish([("X-End", "yes")])
            assert exchange.bytes_written == 19

        async with serving(handler) as server, Client(server) as client:
            client.send(GET)
            head = await client.head()
            assert head.headers["transfer-encoding"] == "chunked"
            assert await client.chunk() == b"one"
            more.set()
            assert await client.chunk() == b"0123456789abcdef"
            assert await client.chunk() == b""
            assert await client.reader.readuntil(b"\r\n\r\n") == b"X-End: yes\r\n\r\n"
            assert (await client.ask(GET)).body == b"one0123456789abcdef"

    run(subject())


@pytest.mark.parametrize("whole", [True, False])
def test_head_gets_the_headers_of_get_and_no_body(run: Run, whole: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        if whole:
            exchange.respond(200, [("X-A", "b")], b"hello")
        else:
            exchange.start(200, [("X-A", "b")])
            exchange.write(b"hello")
            exchange.finish([("X-T", "y")])

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            head = await client.ask(get(method="HEAD"))
            full = await client.ask(GET)
            names = {"date", "x-request-id"}
            assert {n: v for n, v in head.headers.items() if n not in names} == {
                n: v for n, v in full.headers.items() if n not in names
            }
            assert full.body == b"hello"

    run(subject())


@pytest.mark.parametrize("status", [204, 304])
def test_no_content_has_neither_body_nor_framing(run: Run, status: int) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/whole":
            exchange.respond(status, [], b"")
        else:
            exchange.start(status, [])
            exchange.write(b"no")
            exchange.finish()

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            for path in ("/whole", "/streamed"):
                response = await client.ask(get(path))
                assert response.status == status
                assert not {"content-length", "transfer-encoding"} & response.headers.keys()

    run(subject())


def test_http_1_0_gets_a_close_delimited_stream(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"one")
        exchange.write(b"two")
        exchange.finish([("X-T", "y")])

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(get("/", "Connection: keep-alive", version="1.0"))
            assert "transfer-encoding" not in response.headers
            assert response.body == b"onetwo"

    run(subject())


def test_http_1_0_keeps_the_connection_only_if_asked(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            kept = await client.ask(get("/", "Connection: keep-alive", version="1.0"))
            assert kept.headers["connection"] == "keep-alive"
            closed = await client.ask(get("/", version="1.0"))
            assert closed.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


def test_connection_close_is_honoured(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            response = await client.ask(get("/", "Connection: close") + GET)
            assert response.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


def test_pipelined_requests_are_answered_in_order_and_a_bad_one_last(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            client.send(post(b"x" * 500) + get("/2") + get("/3") + b"bad\r\n" + get("/4"))
            assert (await client.response()).body == b"/ " + b"x" * 500
            assert (await client.response()).body == b"/2 "
            assert (await client.response()).body == b"/3 "
            bad = await client.response()
            assert (bad.status, bad.body) == (400, b"unread bad_request")
            assert bad.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


def test_the_application_cannot_break_the_framing(run: Run) -> None:
    raised: list[type[Exception]] = []

    def attempt(what: Any, *arguments: Any) -> None:
        try:
            what(*arguments)
        except (ValueError, RuntimeError) as error:
            raised.append(type(error))

    async def handler(exchange: Exchange) -> None:
        attempt(exchange.write, b"early")
        attempt(exchange.finish)
        attempt(exchange.respond, 200, [("Content-Length", "3")], b"")
        attempt(exchange.start, 200, [("transfer-encoding", "gzip")])
        attempt(exchange.start, 200, [("X-A", "b\r\nX-B: c")])
        attempt(exchange.start, 103, [])
        exchange.start(200, [])
        attempt(exchange.start, 200, [])
        attempt(exchange.respond, 200, [], b"")
        exchange.finish()
        attempt(exchange.finish)
        attempt(exchange.write, b"late")

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            assert (await client.ask(GET)).body == b""

    run(subject())
    runtime, value = RuntimeError, ValueError
    assert raised == [runtime] * 2 + [value] * 4 + [runtime] * 4


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (NotFound("x"), 404, None),
        (MethodNotAllowed("x", allow=("GET", "POST")), 405, ("allow", "GET, POST")),
        (QueueFull("x", retry_after_s=0.1), 503, ("retry-after", "1")),
        (QueueFull("x", retry_after_s=1.2), 503, ("retry-after", "2")),
    ],
)
def test_a_relay_error_before_the_first_byte_is_a_whole_answer(
    run: Run, error: RelayError, status: int, header: tuple[str, str] | None
) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/bad":
            raise error
        await echo(exchange)

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(get("/bad"))
            assert (response.status, response.body) == (status, f"/bad {error.code}".encode())
            assert response.headers["content-type"] == "text/plain"
            assert response.headers["cache-control"] == "no-store"
            assert "x-request-id" in response.headers
            assert header is None or header in response.headers.items()
            assert header is not None or not {"allow", "retry-after"} & response.headers.keys()
            assert (await client.ask(get("/next"))).body == b"/next "

    run(subject())


def test_a_bug_of_the_handler_is_logged_once_and_answered_with_500(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(exchange: Exchange) -> None:
        raise KeyError("secret detail")

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(GET)
            assert (response.status, response.body) == (500, b"/ internal_error")

    run(subject())
    [record] = [record for record in caplog.records if record.name == "llmrelay.http"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def test_a_handler_that_does_not_answer_is_a_bug(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/started":
            exchange.start(200, [])

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            assert (await client.ask(GET)).status == 500
            with pytest.raises(asyncio.IncompleteReadError):
                await client.ask(get("/started"))

    run(subject())


@pytest.mark.parametrize("how", ["cut", "RelayError", "KeyError"])
def test_an_answer_that_breaks_midway_ends_without_the_last_chunk(
    run: Run, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"part")
        if how == "cut":
            exchange.cut()
            exchange.write(b"what the runner still sent")
        else:
            raise NotFound("x") if how == "RelayError" else KeyError("x")

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            client.send(GET + GET)
            assert (await client.head()).status == 200
            assert await client.chunk() == b"part"
            assert await client.closed() == b""  # a FIN, no RST: what was written arrives

    run(subject())
    assert access_line(caplog)["ended"] == "cut"


def test_a_close_delimited_answer_that_breaks_midway_is_reset(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"part")
        exchange.cut()

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            client.send(get(version="1.0"))
            with pytest.raises(ConnectionResetError):
                await client.closed()

    run(subject())


# --- Bodies, limits, deadlines ------------------------------------------------------------------


def test_100_continue_is_sent_once_and_only_to_who_waits_for_it(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            request = post(b"hello", "Expect: 100-continue")
            client.send(request[:-5])
            assert (await client.head()).status == 100
            client.send(b"he")
            await asyncio.sleep(0.02)  # so that it is read by itself
            client.send(b"llo")
            response = await client.response()
            assert (response.body, response.interim) == (b"/ hello", [])
            # whose body is there needs no permission
            response = await client.ask(request)
            assert (response.interim, response.headers.get("connection")) == ([], None)

    run(subject())


def test_who_waits_for_100_continue_and_gets_an_error_is_not_waited_for(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        raise NotFound("x")

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(post(b"x", "Expect: 100-continue")[:-1])
            assert (response.status, response.interim) == (404, [])
            assert response.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


def test_a_body_over_the_limit_gets_413_in_the_form_of_its_path(run: Run) -> None:
    async def subject() -> None:
        async with serving(max_body_bytes=100_000) as server:
            async with Client(server) as client:
                assert (await client.ask(post(b"x" * 100_000))).status == 200
            async with Client(server) as client:
                # who sends all of it before reading can read the error nevertheless
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.send(post(b"x" * 10_000_000))
                await client.writer.drain()
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                response = await client.response()
                assert (response.status, response.body) == (413, b"/ content_too_large")
                assert response.headers["connection"] == "close"

    run(subject())


def test_a_body_larger_than_the_read_ahead_arrives_whole(run: Run) -> None:
    async def subject() -> None:
        go_on = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            await go_on.wait()
            body = await exchange.read_body()
            exchange.respond(200, [], b"%d" % len(body))

        async with serving(handler) as server, Client(server) as client:
            client.send(post(b"x" * 1_000_000))
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            assert (await client.response()).body == b"1000000"

    run(subject())


def test_what_is_read_ahead_of_a_handler_is_bounded(run: Run) -> None:
    async def subject() -> None:
        held = Held()
        buffered = 0

        async def handler(exchange: Exchange) -> None:
            nonlocal buffered
            parser = exchange._incoming._parser
            await until(lambda: parser.buffered >= READ_AHEAD_BYTES)
            for _ in range(20):
                await asyncio.sleep(0.002)
                buffered = max(buffered, parser.buffered)
            await held(exchange)

        async with serving(handler) as server, Client(server) as client:
            client.send(post(b"x" * 8_000_000))
            await held.entered.wait()
            assert READ_AHEAD_BYTES <= buffered < READ_AHEAD_BYTES + ONE_READ_BYTES
            held.let_go.set()
            assert (await client.response()).body == b"done"

    run(subject())


@pytest.mark.parametrize(("size", "kept"), [(60_000, True), (70_000, False)])
def test_a_small_body_that_nobody_read_costs_no_connection_and_a_large_one_does(
    run: Run, size: int, kept: bool
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], b"")

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(post(b"x" * size))
            assert ("connection" not in response.headers) is kept
            client.send(GET)
            if kept:
                assert (await client.response()).status == 200
            else:
                assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize(("proxies", "status"), [([], 421), (["127.0.0.1"], 200)])
def test_an_https_target_needs_tls_or_a_proxy_that_is_trusted_to_have_had_it(
    run: Run, proxies: list[str], status: int
) -> None:
    """RFC 9110, section 7.4."""
    trusted = tuple(map(parse_trusted_proxy, proxies))

    async def subject() -> None:
        async with serving(trusted_proxies=trusted) as server, Client(server) as client:
            assert (await client.ask(get("https://localhost/a"))).status == status
            assert (await client.ask(get("http://localhost/a"))).status == 200

    run(subject())


@pytest.mark.parametrize("answer", ["error", "whole", "streamed"])
@pytest.mark.parametrize(
    ("framing", "body", "error"),
    [
        ("Transfer-Encoding: chunked", b"x\r\n", "400 bad_request"),
        ("Transfer-Encoding: chunked", b"186a1\r\n", "413 content_too_large"),
        ("Content-Length: 100001", b"", "413 content_too_large"),
        ("Content-Length: 9223372036854775808", b"x", "413 content_too_large"),
    ],
)
def test_a_body_that_cannot_be_taken_is_refused_though_nobody_reads_it(
    run: Run, answer: str, framing: str, body: bytes, error: str
) -> None:
    async def handler(exchange: Exchange) -> None:
        if answer == "error":
            raise NotFound("x")
        if answer == "whole":
            exchange.respond(200, [], b"")
        exchange.start(200, [])

    async def subject() -> None:
        limits = {"max_body_bytes": 100_000, "max_upload_bytes": 100_000}
        async with serving(handler, **limits) as server, Client(server) as client:
            client.send(get("/", framing, method="POST") + body + GET)
            response = await client.response()
            assert f"{response.status}{response.body.decode().removeprefix('/')}" == error
            assert response.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize("drip", [b"", b"X", b"X: y\r\n"])
def test_a_head_that_is_not_whole_at_the_deadline_gets_408_whatever_drips(
    run: Run, drip: bytes
) -> None:
    async def subject() -> None:
        async with serving(head_timeout_s=0.15) as server, Client(server) as client:
            client.send(GET[:-4] if drip == b"X" else GET[:-2])

            async def keep_dripping() -> None:
                while True:
                    client.send(drip)
                    await asyncio.sleep(0.01)

            dripping = asyncio.create_task(keep_dripping())
            response = await client.response()
            dripping.cancel()
            assert (response.status, response.body) == (408, b"unread request_timeout")
            assert response.headers["connection"] == "close"

    run(subject())


def test_a_body_slower_than_its_least_rate_gets_408(run: Run) -> None:
    async def subject() -> None:
        loop = asyncio.get_running_loop()
        async with serving(body_timeout_s=0.1) as server, Client(server) as client:
            client.send(post(b"x" * 103)[:-1])  # 102 bytes are worth 0.1 s more
            begun_s = loop.time()
            response = await client.response()
            assert (response.status, response.body) == (408, b"/ request_timeout")
            assert 0.19 < loop.time() - begun_s < 1
            assert response.headers["connection"] == "close"
            assert await client.closed() == b""

    run(subject())


def test_an_idle_connection_is_closed_in_silence(run: Run) -> None:
    async def subject() -> None:
        async with (
            serving(keep_alive_s=0.1) as server,
            Client(server) as fresh,
            Client(server) as used,
        ):
            assert (await used.ask(GET)).status == 200
            used.send(b"\r")  # is no request yet
            await asyncio.sleep(0.02)  # so that it is read by itself
            used.send(b"\n")
            assert await fresh.closed() == b""
            assert await used.closed() == b""

    run(subject())


def test_an_unfinished_request_of_an_ended_client_gets_400(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server:
            for part in (GET[:20], post(b"hello")[:-1]):
                async with Client(server) as client:
                    client.send(part)
                    client.end()
                    assert (await client.response()).status == 400

    run(subject())


# --- Clients that leave -------------------------------------------------------------------------


def test_a_client_that_only_finished_sending_is_probed_and_gets_the_whole_answer(run: Run) -> None:
    async def subject() -> None:
        held = Held()
        async with serving(held) as server, Client(server) as client:
            client.send(GET)
            client.end()
            assert [(await client.head()).status for _ in range(2)] == [100, 100]
            held.let_go.set()
            assert (await client.response()).body == b"done"
            assert await client.closed() == b""

    run(subject())


def test_a_client_that_finished_sending_is_not_probed_before_an_answer_that_comes_at_once(
    run: Run,
) -> None:
    async def handler(exchange: Exchange) -> None:
        await until(lambda: exchange._incoming.ended)
        await asyncio.sleep(0)  # the watch has seen it, too
        await echo(exchange)

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            client.send(GET)
            client.end()
            response = await client.response()
            assert (response.body, response.interim) == (b"/ ", [])

    run(subject())


def test_within_a_chunked_answer_a_probe_is_a_leading_zero_of_the_next_chunk(run: Run) -> None:
    """RFC 9112, section 7.1: chunk-size = 1*HEXDIG."""

    async def subject() -> None:
        held = Held(start=True)
        async with serving(held) as server, Client(server) as client:
            client.send(GET)
            client.end()
            assert await client.reader.readuntil(b"begun\r\n00")
            held.let_go.set()
            # Not a third one, and the zeros are part of the last chunk's size.
            assert await client.reader.read() == b"0\r\n\r\n"

    run(subject())


def test_nothing_but_the_answer_goes_out_where_a_probe_cannot(run: Run) -> None:
    """HTTP/1.0 knows neither interim responses nor chunks."""

    async def subject() -> None:
        held = Held()
        async with serving(held) as server, Client(server) as client:
            client.send(get(version="1.0"))
            client.end()
            await held.entered.wait()
            asyncio.get_running_loop().call_later(0.05, held.let_go.set)
            response = await client.response()
            assert (response.body, response.interim) == (b"done", [])

    run(subject())


def test_an_answer_to_a_client_that_finished_sending_is_flushed_before_the_end(run: Run) -> None:
    async def subject() -> None:
        sent = 0

        async def handler(exchange: Exchange) -> None:
            nonlocal sent
            exchange.start(200, [])
            # until the kernel takes no more, and a little waits here: no congestion yet
            while not exchange._transport.get_write_buffer_size():
                exchange.write(b"x" * 16_000)
                sent += 16_000
                await asyncio.sleep(0)
            exchange.finish()

        async with serving(handler) as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(GET)
            client.end()
            await until(lambda: sent > 0 and server.connections == 1)
            asyncio.get_running_loop().call_later(
                0.05,
                client.writer.transport.resume_reading,  # type: ignore[attr-defined]
            )
            assert len((await client.response()).body) == sent
            assert await client.closed() == b""

    run(subject())


def test_pipelined_requests_of_a_client_that_finished_sending_are_all_answered(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            client.send(get("/1") + get("/2"))
            client.end()
            assert (await client.response()).body == b"/1 "
            assert (await client.response()).body == b"/2 "
            assert await client.closed() == b""

    run(subject())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("pipelined", [0, 20_000, 300_000])
def test_a_client_that_left_before_the_first_byte_cancels_the_handler_within_a_second(
    run: Run, caplog: pytest.LogCaptureFixture, how: str, pipelined: int
) -> None:
    async def subject() -> None:
        held = Held()
        async with serving(held) as server, Client(server) as client:
            client.send(GET + GET * (pipelined // len(GET)))
            await held.entered.wait()
            client.reset() if how == "reset" else client.close()
            async with asyncio.timeout(1):
                await held.cancelled.wait()

    run(subject())
    line = access_line(caplog)
    assert (line["ended"], line["status"], line["bytes"]) == ("client_gone", None, 0)


def test_a_client_that_left_midway_is_noticed_though_nothing_is_written(run: Run) -> None:
    async def subject() -> None:
        held = Held(start=True)
        async with serving(held) as server, Client(server) as client:
            client.send(GET)
            assert await client.reader.readuntil(b"begun\r\n")
            client.close()
            async with asyncio.timeout(1):
                await held.cancelled.wait()

    run(subject())


def test_a_client_that_left_midway_cancels_the_handler_at_the_next_writes(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def subject() -> None:
        over = asyncio.Event()
        started = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            exchange.start(200, [])
            exchange.log_fields["model"] = "m"
            started.set()
            try:
                while True:
                    for _ in range(10):  # past asyncio's limit for silent writes to a lost socket
                        exchange.write(b"delta")
                    await asyncio.sleep(0.01)
            finally:
                exchange.write(b"late")
                assert not exchange.congested
                await exchange.drained()
                over.set()

        async with serving(handler) as server, Client(server) as client:
            client.send(GET)
            await started.wait()
            client.close()
            async with asyncio.timeout(1):
                await over.wait()

    run(subject())
    line = access_line(caplog)
    assert (line["ended"], line["status"], line["model"]) == ("client_gone", 200, "m")


def test_a_response_to_a_client_that_is_gone_goes_nowhere_and_is_not_called_complete(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def subject() -> None:
        held = Held()

        async def handler(exchange: Exchange) -> None:
            try:
                await held(exchange)
            finally:
                exchange.respond(200, [], b"late")

        async with serving(handler) as server, Client(server) as client:
            client.send(GET)
            await held.entered.wait()
            client.reset()
            await held.cancelled.wait()

    run(subject())
    line = access_line(caplog)
    assert (line["ended"], line["bytes"]) == ("client_gone", 0)


# --- Pace ---------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_congests_its_exchange_until_it_does(run: Run) -> None:
    async def subject() -> None:
        states: list[bool] = []
        congested = asyncio.Event()
        sent = 0

        async def handler(exchange: Exchange) -> None:
            nonlocal sent
            exchange.start(200, [])
            states.append(exchange.congested)
            while not exchange.congested:
                exchange.write(b"x" * 50_000)
                sent += 50_000
                await asyncio.sleep(0)
            congested.set()
            await exchange.drained()
            states.append(exchange.congested)
            exchange.finish()

        async with serving(handler) as server, Client(server) as client:
            client.send(GET)
            await congested.wait()
            response = await client.response()
            assert len(response.body) == sent
            assert states == [False, False]

    run(subject())


def test_a_client_that_never_reads_its_answer_is_reset_after_the_send_timeout(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], b"x" * 30_000_000)

    async def subject() -> None:
        async with serving(handler, send_timeout_s=0.1) as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(get(version="1.0"))
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            with pytest.raises(ConnectionResetError):
                await client.closed()

    run(subject())


def test_who_pipelines_without_reading_is_answered_no_further_than_its_buffer(run: Run) -> None:
    async def subject() -> None:
        answered = 0

        async def handler(exchange: Exchange) -> None:
            nonlocal answered
            answered += 1
            exchange.respond(200, [], b"x" * 1_000_000)

        async with serving(handler, send_timeout_s=0.1) as server, Client(server) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(GET * 100)
            await until(lambda: answered > 0 and server.connections == 0)
            assert answered < 30  # the kernel holds some megabytes by itself

    run(subject())


def test_small_writes_are_not_held_back_by_nagle(run: Run) -> None:
    async def subject() -> None:
        no_delay: list[int] = []

        async def handler(exchange: Exchange) -> None:
            sock = exchange._transport.get_extra_info("socket")
            no_delay.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            exchange.respond(200, [], b"")

        async with serving(handler) as server, Client(server) as client:
            await client.ask(GET)
        assert no_delay == [1]

    run(subject())


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
def test_what_is_written_in_one_turn_leaves_in_one_packet(run: Run) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        for _ in range(20):
            exchange.write(b"delta")
        exchange.finish()

    async def subject() -> None:
        async with serving(handler) as server, Client(server) as client:
            assert (await client.ask(GET)).body == b"delta" * 20
            sock = client.writer.get_extra_info("socket")
            # tcpi_data_segs_in of <linux/tcp.h>
            known = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            assert struct.unpack_from("=I", known, 152) == (1,)

    run(subject())


# --- The guard and the access log ---------------------------------------------------------------


def test_the_guard_stands_before_the_handler(run: Run) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            rebound = await client.ask(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (rebound.status, rebound.body) == (421, b"/ misdirected_request")
            crossed = await client.ask(get("/", "Origin: http://evil.example"))
            assert (crossed.status, crossed.body) == (403, b"/ forbidden")
            assert (await client.ask(GET)).status == 200

    run(subject())


def test_the_access_log_has_one_line_per_exchange_and_no_query(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.log_fields["runner"] = "r1"
        exchange.respond(200, [], b"hello")

    request_id = ""

    async def subject() -> None:
        nonlocal request_id
        async with serving(handler) as server, Client(server) as client:
            response = await client.ask(get("/chat?prompt=secret"))
            request_id = response.headers["x-request-id"]

    run(subject())
    line = access_line(caplog)
    assert str(line.pop("peer")).startswith("127.0.0.1:")
    assert line.pop("duration_ms") >= line.pop("first_byte_ms") >= 0
    assert line == {
        "method": "GET", "path": "/chat", "status": 200, "bytes": 5, "ended": "complete",
        "request_id": request_id, "runner": "r1",
    }  # fmt: skip
    assert "secret" not in caplog.text
    assert "GET /chat 200 5 B" in caplog.text


def test_a_client_behind_a_local_proxy_is_a_stranger_whatever_address_it_is_said_to_have(
    run: Run,
) -> None:
    seen: list[bool] = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange.trusted)
        exchange.respond(200, [], b"")

    async def subject() -> None:
        proxies = (parse_trusted_proxy("127.0.0.1"),)
        async with serving(handler, trusted_proxies=proxies) as server, Client(server) as client:
            for fields in ([], ["Forwarded: for=127.0.0.1"], ["X-Forwarded-For: 127.0.0.1"]):
                await client.ask(get("/", *fields))

    run(subject())
    assert seen == [True, False, False]


@pytest.mark.parametrize("trusted", [True, False])
def test_the_access_log_names_the_client_behind_a_trusted_proxy_and_the_proxy(
    run: Run, caplog: pytest.LogCaptureFixture, trusted: bool
) -> None:
    caplog.set_level(logging.INFO, "llmrelay.access")
    proxies = (parse_trusted_proxy("127.0.0.0/8"),) if trusted else ()
    peer = ""
    seen: list[tuple[Origin, bool]] = []

    async def handler(exchange: Exchange) -> None:
        seen.append((exchange.client_address, exchange.trusted))
        exchange.respond(200, [], b"")

    async def subject() -> None:
        nonlocal peer
        async with (
            serving(handler, trusted_proxies=proxies) as server,
            Client(server) as client,
        ):
            peer = "{}:{}".format(*client.writer.get_extra_info("sockname"))
            await client.ask(get("/", "X-Forwarded-For: 1.1.1.1, 2001:db8::7"))

    run(subject())
    line = access_line(caplog)
    if trusted:
        assert (line["peer"], line["via"]) == ("2001:db8::7", peer)
        assert caplog.records[-1].getMessage().startswith("2001:db8::7 GET / 200 ")
        assert f" via={peer}" in caplog.records[-1].getMessage()
        assert seen == [(IPv6Address("2001:db8::7"), False)]  # no longer somebody of this machine
    else:
        assert line["peer"] == peer
        assert "via" not in line
        assert seen == [(IPv4Address("127.0.0.1"), True)]


def test_a_proxy_on_a_unix_socket_can_be_trusted_too(
    run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "llmrelay.access")
    path = str(tmp_path / "llmrelay.sock")

    async def subject() -> None:
        async with serving(listen=(UnixAddress(path),), trusted_proxies=("unix",)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(get("/", "Forwarded: for=198.51.100.7", "Connection: close"))
            await reader.read()
            writer.close()
            await writer.wait_closed()

    run(subject())
    line = access_line(caplog)
    assert (line["peer"], line["via"]) == ("198.51.100.7", "unix")


def test_an_unreadable_request_is_in_the_access_log_too(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def subject() -> None:
        async with serving() as server, Client(server) as client:
            assert (await client.ask(b"bad\r\n\r\n")).status == 400

    run(subject())
    line = access_line(caplog)
    assert (line["method"], line["status"], line["ended"]) == ("-", 400, "complete")
