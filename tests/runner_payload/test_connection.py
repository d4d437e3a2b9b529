"""One connection to upstream, over real sockets: what is read, when it waits, how it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest

from runner_payload.connection import HELD_BYTES, Body, Connection
from runner_payload.transport import BODY, Transport
from tests.helpers.exact_server import ExactServer, Peer
from tests.helpers.loops import LOOPS, play_on

LIMIT_S = 5.0
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
LAST = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNKED = OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
# What one read of a loop brings at the most.
READ_BYTES = 256 * 1024


class Stage:
    """A server, and our connections to it."""

    def __init__(self, server: ExactServer, transport: Transport) -> None:
        self.server = server
        self.transport = transport

    async def ask(self, content: bytes | AsyncIterator[bytes] = b"", **headers: str) -> Body:
        """The body of an answer whose head has come."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = httpx2.Request("POST", self.server.url, content=content, headers=names)
        response = await self.transport.handle_async_request(request)
        body = response.extensions[BODY]
        assert isinstance(body, Body)
        return body

    def asking(
        self, content: bytes | AsyncIterator[bytes] = b"", **headers: str
    ) -> asyncio.Task[Body]:
        return asyncio.create_task(self.ask(content, **headers))

    async def answered(self, data: bytes) -> tuple[Body, Peer]:
        """A request on a new connection, and an answer that begins with `data`."""
        asking = self.asking()
        peer = await self.server.accept()
        await peer.answer(data)
        return await asking, peer


Scene = Callable[[Stage], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Play:
    """Plays a scene on each loop; nothing may be left of it, nor be said by the loop."""

    def played(scene: Scene) -> None:
        async def staged(transport: Transport) -> None:
            async with ExactServer() as server:
                await scene(Stage(server, transport))
                await transport.aclose()

        play_on(request.param, staged, LIMIT_S)

    return played


class Bin:
    """A sink that is full after each `room` bytes, until there is room again.

    Attributes:
        full: it is.
    """

    def __init__(self, room: int | None = None, done_after: int | None = None) -> None:
        self.taken = bytearray()
        self.done = False
        self.full = asyncio.Event()
        self._room = room
        self._until = room
        self._done_after = done_after
        self._emptied = asyncio.Event()

    def take(self, piece: bytes) -> bool:
        assert not self.done
        assert not self.full.is_set(), "nobody has waited"
        self.taken += piece
        self.done = self._done_after is not None and len(self.taken) >= self._done_after
        if self._until is not None and len(self.taken) >= self._until:
            self.full.set()
        return not (self.done or self.full.is_set())

    async def ready(self) -> None:
        while self.full.is_set():
            self._emptied.clear()
            await self._emptied.wait()

    def empty(self, *, for_good: bool = False) -> None:
        """There is room again."""
        self._until = None if for_good or self._room is None else len(self.taken) + self._room
        self.full.clear()
        self._emptied.set()


async def text_of(body: Body) -> bytes:
    return b"".join([piece async for piece in body])


async def poured(body: Body) -> bytes:
    await body.pour(sink := Bin())
    return bytes(sink.taken)


async def turns(count: int = 20) -> None:
    """So many of the loop's; what was sent on loopback before has arrived."""
    for _ in range(count):
        await asyncio.sleep(0)


async def broken_off(reading: Awaitable[Any]) -> httpx2.TransportError:
    with pytest.raises(httpx2.TransportError) as caught:
        await reading
    assert str(caught.value)
    return caught.value


READERS = (text_of, poured)

# --- What is read -------------------------------------------------------------------------------

BODY_BYTES = bytes(range(256)) * 1200
FRAMED = {
    "a length": (OK + b"Content-Length: %d\r\n\r\n" % len(BODY_BYTES), BODY_BYTES),
    "chunks": (
        CHUNKED,
        b"".join(
            b"%x\r\n%b\r\n" % (len(piece), piece)
            for at in range(0, len(BODY_BYTES), 5000)
            for piece in [BODY_BYTES[at : at + 5000]]
        )
        + b"0\r\nA: trailer\r\n\r\n",
    ),
    "the connection's end": (OK + b"\r\n", BODY_BYTES),
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("portion", [7, 4096, 1 << 20])
def test_an_answer_that_is_poured_or_iterated_is_what_was_sent(
    play: Play, framing: str, portion: int
) -> None:
    head, framed = FRAMED[framing]
    # Byte by byte would take long; the beginning and the end in small portions do.
    small = 700 if portion < 100 else 0

    async def scene(stage: Stage) -> None:
        for reader in READERS:
            body, peer = await stage.answered(head)
            reading = asyncio.ensure_future(reader(body))
            at = 0
            while at < len(framed):
                near_an_end = at < small or at >= len(framed) - small
                size = portion if portion > 100 or near_an_end else len(framed) - small - at
                peer.send(framed[at : at + size])
                at += size
                await asyncio.sleep(0)
            if framing == "the connection's end":
                peer.close()
                assert await reading == BODY_BYTES
                continue
            assert await reading == BODY_BYTES
            again = stage.asking()
            await peer.answer(LAST)
            assert await reader(await again) == b"hello"

    play(scene)


@pytest.mark.parametrize("reader", READERS)
def test_an_answer_that_came_whole_before_it_is_read_leaves_its_connection_to_the_next(
    play: Play, reader: Callable[[Body], Awaitable[bytes]]
) -> None:
    async def scene(stage: Stage) -> None:
        # More than is read ahead, at once: but for its end, reading would stop here.
        whole = b"x" * 2 * HELD_BYTES
        first, peer = await stage.answered(OK + b"Content-Length: %d\r\n\r\n" % len(whole) + whole)
        while not first._over:
            first._connection.resume()
            await asyncio.sleep(0)
        again = stage.asking()
        await peer.answer(OK + b"Content-Length: 3\r\n\r\nbye")
        second = await again
        assert (await reader(second), await reader(first)) == (b"bye", whole)

    play(scene)


def test_a_sink_that_is_full_stops_the_reading_and_goes_on_when_it_is_ready(play: Play) -> None:
    whole = 4 * 1024 * 1024

    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(OK + b"Content-Length: %d\r\n\r\n" % whole)
        peer.send(b"x" * whole)
        pouring = asyncio.create_task(body.pour(sink := Bin(room=100_000)))
        for _ in range(3):
            await sink.full.wait()
            await turns(50)
            assert len(body._held) <= HELD_BYTES + READ_BYTES
            assert peer.writer.transport.get_write_buffer_size() > whole // 4
            sink.empty()
        sink.empty(for_good=True)
        await pouring
        assert sink.taken == b"x" * whole

    play(scene)


def test_a_read_that_comes_before_anybody_waits_for_a_full_sink_is_held(play: Play) -> None:
    """TLS may have several pieces ready in one turn of the loop."""

    async def scene(stage: Stage) -> None:
        body, _peer = await stage.answered(CHUNKED)
        pouring = asyncio.create_task(body.pour(sink := Bin(room=1)))
        await turns(2)
        assert body._connection._transport.is_reading()
        body.receive(b"1\r\na\r\n")
        assert not body._connection._transport.is_reading()
        body.receive(b"1\r\nb\r\n")
        body.receive(b"0\r\n\r\n")
        assert sink.taken == b"a"
        sink.empty(for_good=True)
        await pouring
        assert sink.taken == b"ab"

    play(scene)


def test_what_nobody_reads_stays_with_upstream(play: Play) -> None:
    whole = 4 * 1024 * 1024

    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(OK + b"Content-Length: %d\r\n\r\n" % whole)
        peer.send(b"x" * whole)
        await turns(100)
        assert HELD_BYTES < len(body._held) <= HELD_BYTES + READ_BYTES
        assert peer.writer.transport.get_write_buffer_size() > whole // 4
        assert len(await text_of(body)) == whole

    play(scene)


def test_a_full_sink_gets_the_end_of_an_answer_that_came_meanwhile(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(CHUNKED + b"1\r\na\r\n")
        pouring = asyncio.create_task(body.pour(sink := Bin(room=1)))
        await sink.full.wait()
        peer.send(b"1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
        await turns()
        assert sink.taken == b"a"
        assert not pouring.done()
        sink.empty(for_good=True)
        await pouring
        assert sink.taken == b"abc"

    play(scene)


def test_a_sink_that_wants_no_more_gets_no_more_and_its_connection_closes(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for begun in (b"", b"1\r\na\r\n", b"3\r\nabc\r\n1\r\nd\r\n"):
            body, peer = await stage.answered(CHUNKED + begun)
            pouring = asyncio.create_task(body.pour(sink := Bin(done_after=3)))
            await turns(2)
            peer.send(b"2\r\nbc\r\n1\r\nd\r\n")
            await pouring
            assert len(sink.taken) in (3, 4)
            await body.aclose()
            assert await peer.gone() == b""

    play(scene)


class Refusing(Bin):
    """A sink that cannot take anything beginning with a b."""

    def take(self, piece: bytes) -> bool:
        if piece.startswith(b"b"):
            raise ValueError("no b")
        return super().take(piece)


@pytest.mark.parametrize("ends", [b"", b"0\r\n\r\n"])
def test_what_a_sink_raises_is_raised_by_whoever_pours(play: Play, ends: bytes) -> None:
    async def scene(stage: Stage) -> None:
        for early in (b"", b"1\r\na\r\n", b"1\r\na\r\n1\r\nb\r\n"):
            body, peer = await stage.answered(LAST_CHUNKED + early)
            pouring = asyncio.create_task(body.pour(Refusing()))
            await turns(2)
            peer.send(b"1\r\nb\r\n" + ends)
            with pytest.raises(ValueError, match="no b"):
                await pouring
            await body.aclose()
            await peer.gone()

    play(scene)


# --- How it breaks off --------------------------------------------------------------------------

FAULTS: dict[str, tuple[bytes, type[httpx2.TransportError]]] = {
    "no answer": (b"", httpx2.RemoteProtocolError),
    "half a head": (OK + b"Content-", httpx2.RemoteProtocolError),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", httpx2.RemoteProtocolError),
    "no body": (OK + b"Content-Length: 5\r\n\r\n", httpx2.RemoteProtocolError),
    "half a body": (OK + b"Content-Length: 5\r\n\r\nhe", httpx2.RemoteProtocolError),
    "half a chunk": (CHUNKED + b"5\r\nhe", httpx2.RemoteProtocolError),
    "no last chunk": (CHUNKED + b"2\r\nhe\r\n", httpx2.RemoteProtocolError),
    "no size": (CHUNKED + b"2\r\nhe\r\nxyz\r\n", httpx2.RemoteProtocolError),
}


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_not_whole_breaks_off(play: Play, fault: str, ending: str) -> None:
    data, error = FAULTS[fault]
    if ending == "reset" and fault not in ("no HTTP", "no size"):
        error = httpx2.ReadError

    async def whole(stage: Stage, reader: Callable[[Body], Awaitable[bytes]]) -> bytes:
        return await reader(await stage.ask())

    async def scene(stage: Stage) -> None:
        for reader in READERS:
            asking = asyncio.create_task(whole(stage, reader))
            peer = await stage.server.accept()
            await peer.answer(data)
            await turns()
            (peer.close if ending == "close" else peer.reset)()
            assert isinstance(await broken_off(asking), error)

    play(scene)


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_connection_that_is_lost_while_a_sink_is_full_is_told_when_it_has_room(
    play: Play, ending: str
) -> None:
    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(CHUNKED + b"1\r\na\r\n")
        pouring = asyncio.create_task(body.pour(sink := Bin(room=1)))
        await sink.full.wait()
        (peer.close if ending == "close" else peer.reset)()
        await turns()
        assert not pouring.done()
        sink.empty(for_good=True)
        await broken_off(pouring)

    play(scene)


def test_a_connection_that_is_lost_before_it_is_asked_says_so_at_once(play: Play) -> None:
    """Some proxies accept whatever comes, and close it when they find nobody behind them."""

    async def scene(stage: Stage) -> None:
        lost = asyncio.Event()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(lambda _: None, lambda _: lost.set()), "127.0.0.1", stage.server.port
        )
        (await stage.server.accept()).close()
        await lost.wait()
        raised = await broken_off(connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"", chunked=False))
        assert isinstance(raised, httpx2.RemoteProtocolError)

    play(scene)


@pytest.mark.parametrize("late", [False, True])
def test_a_server_that_closes_whatever_it_accepts_is_an_error_each_time(
    play: Play, late: bool
) -> None:
    async def scene(stage: Stage) -> None:
        loop: Any = asyncio.get_running_loop()
        connect = loop.create_connection

        async def connect_late(*where: Any, **how: Any) -> Any:
            made = await connect(*where, **how)
            while not made[0].is_closing():
                await turns(1)
            await turns(3)
            return made

        if late:  # as a busy loop does
            loop.create_connection = connect_late

        async def close_all() -> None:
            while True:
                (await stage.server.accept()).close()

        closing = asyncio.create_task(close_all())
        for _ in range(20):
            await broken_off(stage.ask())
        assert not stage.transport._open
        closing.cancel()
        await asyncio.wait([closing])

    play(scene)


# --- Uploads ------------------------------------------------------------------------------------


class Source:
    """A body that comes bit by bit, as the test says; then it waits for good, ends or raises."""

    def __init__(self, *pieces: bytes, then: str = "wait", error: Exception | None = None) -> None:
        self.waiting = asyncio.Event()
        self.ended = asyncio.Event()
        self._pieces = pieces
        self._then = then
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self._pieces:
                yield piece
            if self._error is not None:
                raise self._error
            if self._then == "wait":
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            self.ended.set()


def test_an_upload_goes_out_as_its_source_has_it(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        pieces = b"one", b"", b"x" * 300_000, b"three"
        body = b"".join(pieces)
        asking = stage.asking(aiter(Source(*pieces, then="end")), content_length=str(len(body)))
        peer = await stage.server.accept()
        assert b"transfer-encoding" not in (await peer.head()).lower()
        assert await peer.reader.readexactly(len(body)) == body
        peer.send(HELLO)
        assert await text_of(await asking) == b"hello"

        asking = stage.asking(aiter(Source(*pieces, then="end")))
        assert b"transfer-encoding: chunked\r\n" in (await peer.head()).lower()
        chunks = b"3\r\none\r\n493e0\r\n" + pieces[2] + b"\r\n5\r\nthree\r\n0\r\n\r\n"
        assert await peer.reader.readexactly(len(chunks)) == chunks
        peer.send(HELLO)
        assert await text_of(await asking) == b"hello"

    play(scene)


def test_an_upload_waits_for_a_server_that_does_not_read(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        taken = 0

        async def source() -> AsyncIterator[bytes]:
            nonlocal taken
            piece = b"x" * (256 * 1024)
            for _ in range(48):
                taken += 1
                yield piece

        asking = stage.asking(source())
        peer = await stage.server.accept()
        await turns(300)
        assert 0 < taken < 32
        await peer.head()
        while not (await peer.reader.read(1 << 16)).endswith(b"\r\n0\r\n\r\n"):
            pass
        peer.send(HELLO)
        assert await text_of(await asking) == b"hello"
        assert taken == 48

    play(scene)


def test_an_answer_may_come_while_its_request_still_goes_out(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        go_on = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            yield b"one"
            await go_on.wait()
            yield b"two"

        asking = stage.asking(source())
        peer = await stage.server.accept()
        await peer.head()
        peer.send(CHUNKED + b"5\r\nearly\r\n")
        body = await asking
        pouring = asyncio.create_task(body.pour(sink := Bin(room=5)))
        await sink.full.wait()
        go_on.set()
        await peer.reader.readuntil(b"two\r\n0\r\n\r\n")
        peer.send(b"0\r\n\r\n")
        sink.empty()
        await pouring
        asking = stage.asking()
        await peer.answer(HELLO)
        assert await text_of(await asking) == b"hello"

    play(scene)


def test_an_answer_that_ends_before_its_request_ends_the_upload_and_its_connection(
    play: Play,
) -> None:
    async def scene(stage: Stage) -> None:
        source = Source(b"x" * 1000)
        asking = stage.asking(aiter(source))
        peer = await stage.server.accept()
        await peer.head()
        await source.waiting.wait()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nhello")
        body = await asking
        assert await text_of(body) == b"hello"
        await body.aclose()
        await source.ended.wait()
        await peer.gone()

    play(scene)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_was_answered_unread_does_not_hold_its_connection(
    play: Play, streamed: bool
) -> None:
    async def scene(stage: Stage) -> None:
        big = b"x" * (4 * 1024 * 1024)
        source = Source(big, then="end")
        asking = stage.asking(aiter(source) if streamed else big)
        peer = await stage.server.accept()
        await peer.answer(HELLO)
        assert await text_of(await asking) == b"hello"
        # Unread still, and yet another connection is asked.
        other, _ = await stage.answered(HELLO)
        assert await text_of(other) == b"hello"
        assert len(await peer.gone()) < len(big)
        assert not streamed or source.ended.is_set()

    play(scene)


def test_an_answer_that_ends_with_its_half_of_the_connection_is_whole_though_nobody_reads(
    play: Play,
) -> None:
    async def scene(stage: Stage) -> None:
        asking = stage.asking(b"x" * (4 * 1024 * 1024))
        peer = await stage.server.accept()
        await peer.answer(OK + b"\r\nhello")
        peer.writer.write_eof()
        assert await text_of(await asking) == b"hello"
        await turns()
        assert not stage.transport._open

    play(scene)


def test_what_a_source_raises_is_raised_by_whoever_asks_or_reads(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        asking = stage.asking(aiter(Source(b"one", error=KeyError("early"))))
        peer = await stage.server.accept()
        with pytest.raises(KeyError, match="early"):
            await asking
        assert not (await peer.gone()).endswith(b"0\r\n\r\n")

        head_sent = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            yield b"one"
            await head_sent.wait()
            raise KeyError("late")

        asking = stage.asking(source())
        peer = await stage.server.accept()
        await peer.answer(CHUNKED + b"1\r\na\r\n")
        body = await asking
        pouring = asyncio.create_task(body.pour(Bin()))
        head_sent.set()
        with pytest.raises(KeyError, match="late"):
            await pouring
        assert not (await peer.gone()).endswith(b"0\r\n\r\n")

    play(scene)


@pytest.mark.parametrize("answer", [b"", CHUNKED + b"1\r\na\r\n"], ids=["before", "midway"])
def test_a_connection_that_is_lost_ends_an_upload_that_waits_for_its_source(
    play: Play, answer: bytes
) -> None:
    async def scene(stage: Stage) -> None:
        source = Source(b"one")

        async def whole() -> bytes:
            return await text_of(await stage.ask(aiter(source)))

        asking = asyncio.create_task(whole())
        peer = await stage.server.accept()
        await peer.answer(answer)
        await source.waiting.wait()
        await turns()
        peer.close()
        await broken_off(asking)
        await source.ended.wait()

    play(scene)


# --- Cancelled, closed --------------------------------------------------------------------------


async def _reading(stage: Stage, source: Source | None, sink: Bin | None) -> None:
    body = await stage.ask(aiter(source) if source else b"")
    try:
        await (text_of(body) if sink is None else body.pour(sink))
    finally:
        await body.aclose()


@pytest.mark.parametrize("uploads", [False, True])
@pytest.mark.parametrize("phase", ["head", "body", "pour", "ready"])
def test_cancelling_in_any_phase_closes_the_connection_and_leaves_nothing(
    play: Play, phase: str, uploads: bool
) -> None:
    async def scene(stage: Stage) -> None:
        source = Source(b"one") if uploads else None
        sink = {"pour": Bin(), "ready": Bin(room=1)}.get(phase)
        call = asyncio.create_task(_reading(stage, source, sink))
        peer = await stage.server.accept()
        await peer.answer(b"" if phase == "head" else CHUNKED + b"1\r\na\r\n")
        await turns()
        if source:
            await source.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert source is None or source.ended.is_set()
        await peer.gone()
        await turns(3)
        assert not stage.transport._open
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(scene)
    # Where a transport that was not closed says so.
    gc.collect()


def test_closing_the_transport_breaks_off_what_is_under_way(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        body, _peer = await stage.answered(CHUNKED + b"1\r\na\r\n")
        pouring = asyncio.create_task(body.pour(Bin()))
        source = Source(b"one")
        asking = stage.asking(aiter(source))
        await source.waiting.wait()
        await stage.transport.aclose()
        await broken_off(pouring)
        await broken_off(asking)
        assert source.ended.is_set()

    play(scene)


# --- Between two answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "close",
        "reset",
        "a byte",
        "an answer",
    ],
)
def test_an_idle_connection_that_ends_or_says_something_unasked_is_not_asked_again(
    play: Play, ending: str
) -> None:
    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(HELLO)
        assert await text_of(body) == b"hello"
        if ending in ("close", "reset"):
            (peer.close if ending == "close" else peer.reset)()
        else:
            peer.send(b"x" if ending == "a byte" else HELLO)
            await peer.gone()
        await turns()
        assert not stage.transport._open
        assert not any(stage.transport._idle.values())
        body, _ = await stage.answered(OK + b"Content-Length: 3\r\n\r\nnew")
        assert await text_of(body) == b"new"

    play(scene)


@pytest.mark.parametrize("ending", ["close", "reset", "a byte"])
def test_what_has_arrived_on_an_idle_connection_is_seen_before_the_loop_tells(
    play: Play, ending: str
) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            body, peer = await stage.answered(HELLO)
            assert await text_of(body) == b"hello"
            if ending == "reset":
                peer.reset()
            elif ending == "close":
                peer.close()
            else:
                peer.send(b"x")
            await asyncio.sleep(0)  # it is the server's turn, and not yet ours

    play(scene)


@pytest.mark.parametrize("behind", [b"x", b"\r\n", HELLO])
@pytest.mark.parametrize("framing", [HELLO, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
def test_what_stands_behind_an_answer_is_never_taken_for_the_next(
    play: Play, framing: bytes, behind: bytes
) -> None:
    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(framing + behind)
        assert await text_of(body) == b"hello"
        await peer.gone()
        body, _ = await stage.answered(OK + b"Content-Length: 3\r\n\r\nnew")
        assert await text_of(body) == b"new"

    play(scene)


@pytest.mark.parametrize(
    "head", [OK + b"Connection: close\r\n", b"HTTP/1.0 200 OK\r\n"], ids=["close", "1.0"]
)
def test_an_answer_that_is_its_connections_last_closes_it(play: Play, head: bytes) -> None:
    async def scene(stage: Stage) -> None:
        body, peer = await stage.answered(head + b"Content-Length: 5\r\n\r\nhello")
        assert await text_of(body) == b"hello"
        await peer.gone()

    play(scene)


def test_interim_answers_are_skipped(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        asking = stage.asking()
        peer = await stage.server.accept()
        await peer.answer(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")
        await turns()
        peer.send(HELLO)
        assert await text_of(await asking) == b"hello"

    play(scene)
