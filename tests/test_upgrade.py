"""Nothing is lost when a front-end is replaced, drained or reloaded while it is asked.

Over OpenSSH, from outside: clients that ask all the time, and count what failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_chunked
from tests.helpers.certificates import Authority
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.upstream import Delta, Pause, WaitFor, answer

CLIENTS = 8
HEAD = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"


@dataclass
class Load:
    """Clients that ask without a pause until they are told to stop.

    Attributes:
        answered: requests whose answer was whole.
        failed: what happened to the others.
        reconnected: how often an idle connection was closed before its next request, which is no
            failure: its client connects again (RFC 9112, section 9.5).
    """

    connect: Callable[[], object]
    answered: int = 0
    reconnected: int = 0
    failed: list[str] = field(default_factory=list)
    stopping: bool = False

    async def ask(self, *, keep: bool) -> None:
        """One client; `keep` keeps its connection for as long as it may."""
        while not self.stopping:
            reader, writer = await self.connect()  # type: ignore[misc]
            try:
                while await self._exchange(reader, writer, keep) and not self.stopping:
                    pass
            except (OSError, EOFError, AssertionError) as error:
                self.failed.append(repr(error))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool
    ) -> bool:
        """Whether the connection is good for another one."""
        if reader.at_eof():
            self.reconnected += 1
            return False
        writer.write(HEAD + (b"" if keep else b"Connection: close\r\n") + b"\r\nhi")
        head, body = await read_chunked(reader)
        assert body == b"Hello, world", body
        self.answered += 1
        return keep and b"\r\nConnection: close\r\n" not in head

    async def answers(self, more: int) -> None:
        """Returns when so many more requests were answered."""
        wanted = self.answered + more
        async with asyncio.timeout(30):
            while self.answered < wanted:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def load(connect: Callable[[], object]) -> AsyncIterator[Load]:
    """CLIENTS clients, half of them with a connection for each request."""
    running = Load(connect)
    async with asyncio.timeout(45), asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(running.ask(keep=number % 2 == 0))
        await running.answers(2 * CLIENTS)
        yield running
        running.stopping = True
    assert running.failed == []


@pytest.fixture
def options(stage: Stage) -> list[str]:
    """What leads to a runner whose upstream takes its time, as models do."""
    stage.script.script = [Delta("Hello"), Pause(0.1), *answer(", world")]
    return [*runner_options(stage.server), "--base-url", stage.upstream.base_url]


_running: list[FrontEndProcess] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Ends what a test that failed has left running."""
    yield
    while _running:
        _running.pop().end()


async def start(options: list[str], *listen: str) -> FrontEndProcess:
    return await until_ready(FrontEndProcess(options, listen=listen))


async def until_ready(front_end: FrontEndProcess, pass_fds: Sequence[int] = ()) -> FrontEndProcess:
    front_end.start(pass_fds)
    _running.append(front_end)
    await asyncio.to_thread(front_end.wait_until_ready)
    return front_end


async def drained(front_end: FrontEndProcess) -> None:
    front_end.signal(signal.SIGTERM)
    assert await asyncio.to_thread(front_end.wait, 15) == 0, front_end.log
    _running.remove(front_end)
    front_end.end()


# --- Two front-ends, one after the other --------------------------------------------------------


def test_an_upgrade_on_a_shared_port_loses_no_request(options: list[str]) -> None:
    """Nor one that is taken back, where the newer one ends."""

    async def subject() -> None:
        one = await start(options, "--listen", "127.0.0.1:0", "--reuse-port")
        where = f"127.0.0.1:{one.port}"
        async with load(lambda: asyncio.open_connection("127.0.0.1", one.port)) as running:
            current = one
            for taken_back in (True, False):
                successor = await start(options, "--listen", where, "--reuse-port")
                await running.answers(CLIENTS)
                ends, current = (successor, current) if taken_back else (current, successor)
                await drained(ends)
                await running.answers(CLIENTS)
        await drained(current)

    asyncio.run(subject())


def test_an_upgrade_on_a_unix_socket_loses_no_request(options: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "llmrelay.sock")
    listen = ["--listen", "127.0.0.1:0", "--listen", f"unix:{path}", "--reuse-port"]

    async def subject() -> None:
        one = await start(options, *listen)
        async with load(lambda: asyncio.open_unix_connection(path)) as running:
            two = await start(options, *listen)
            await running.answers(CLIENTS)
            await drained(one)
            await running.answers(2 * CLIENTS)
        await drained(two)
        assert not os.path.exists(path)  # noqa: ASYNC240

    asyncio.run(subject())


def test_a_restart_behind_systemds_socket_loses_no_request(options: list[str]) -> None:
    """systemd holds the socket: who connects while nobody is there waits in the kernel's queue."""
    script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&"$FD"'

    async def activated(sock: socket.socket) -> FrontEndProcess:
        front_end = FrontEndProcess(options, {"FD": str(sock.fileno())}, listen=())
        front_end.command = ["bash", "-c", script, *front_end.command]
        return await until_ready(front_end, (sock.fileno(),))

    async def subject() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
            one = await activated(sock)
            assert one.port == sock.getsockname()[1]
            async with load(lambda: asyncio.open_connection("127.0.0.1", one.port)) as running:
                await drained(one)
                two = await activated(sock)
                await running.answers(2 * CLIENTS)
            await drained(two)

    asyncio.run(subject())


# --- SIGHUP -------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_without_a_lost_request(
    options: list[str], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.cert))
    files = authority.issue("server")
    tls = ["--tls-cert", str(files.cert), "--tls-key", str(files.key)]

    async def shown(port: int) -> int:
        """The serial number of the certificate that the next connection is shown."""
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate = writer.get_extra_info("peercert")
        writer.close()
        await writer.wait_closed()
        return int(certificate["serialNumber"], 16)

    async def subject() -> None:
        front_end = await start([*options, *tls], "--port", "0")
        port = front_end.port
        assert front_end.url == f"https://127.0.0.1:{port}"

        async def reload(said: str) -> None:
            before = front_end.log.count(said)
            front_end.signal(signal.SIGHUP)
            await asyncio.to_thread(front_end.wait_for_log, said, count=before + 1)

        async with load(lambda: asyncio.open_connection("127.0.0.1", port, ssl=context)) as running:
            assert await shown(port) == files.serial
            for _ in range(3):
                renewed = authority.issue("server")
                await reload("reloaded: ")
                assert await shown(port) == renewed.serial
                await running.answers(CLIENTS)
            # What cannot be used changes nothing.
            files.key.write_text("no key")
            await reload("nothing is reloaded: --tls-cert")
            assert await shown(port) == renewed.serial
            await running.answers(CLIENTS)
            assert running.reconnected == 0
        await drained(front_end)

    asyncio.run(subject())


# --- Draining -----------------------------------------------------------------------------------


def test_a_drain_ends_each_connection_as_its_state_asks(stage: Stage, options: list[str]) -> None:
    """Whoever has begun to send a request gets its answer; nobody else is waited for."""
    stage.script.script = [Delta("Hello"), WaitFor("go on"), *answer(", world")]
    post = HEAD + b"\r\nhi"

    async def subject() -> None:
        front_end = await start(options, "--port", "0")
        async with asyncio.TaskGroup() as group, asyncio.timeout(20):
            states = {
                "fresh": b"",
                "empty line": b"\r\n",
                "half a head": post[:30],
                "half a body": post[:-1],
                "waits for 100 Continue": HEAD + b"Expect: 100-continue\r\n\r\n",
                "waits for an answer": post,
                "pipelined": post + post,
            }
            streams = {}
            for state, sent in states.items():
                streams[state] = await asyncio.open_connection("127.0.0.1", front_end.port)
                streams[state][1].write(sent)
            # The upstream has all that can have come to it, and the front-end all that was sent.
            reader, _ = streams["waits for 100 Continue"]
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            for state in ("waits for an answer", "pipelined"):
                await streams[state][0].readuntil(b"Hello\r\n")
            draining = group.create_task(drained(front_end))
            await asyncio.to_thread(front_end.wait_for_log, "draining")
            for state in ("fresh", "empty line"):
                assert await streams[state][0].read() == b"", state
            streams["half a head"][1].write(post[30:])
            streams["half a body"][1].write(post[-1:])
            streams["waits for 100 Continue"][1].write(b"hi")
            stage.upstream.open("go on")
            for state, answers in (
                ("half a head", 1),
                ("half a body", 1),
                ("waits for 100 Continue", 1),
                ("waits for an answer", 1),
                ("pipelined", 2),
            ):
                text = await streams[state][0].read()
                assert text.count(b"X-Finish-Reason: stop\r\n\r\n") == answers, (state, text)
                assert text.endswith(b"\r\n0\r\nX-Finish-Reason: stop\r\n\r\n")
            await draining
            for _, writer in streams.values():
                writer.close()

    asyncio.run(subject())
