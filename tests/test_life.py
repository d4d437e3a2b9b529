"""A front-end's life beside its answers: many calls, slow clients, drain, sudden death.

Over OpenSSH, from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_chunked
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import (
    Delta,
    Done,
    Finish,
    Recorded,
    ScriptedUpstream,
    Silence,
    Step,
    WaitFor,
    answer,
)

CALLS = 200


async def post(
    host: str, port: int, prompt: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(prompt)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n{prompt}".encode())
    return reader, writer


async def read_answer(reader: asyncio.StreamReader) -> str:
    """The text of an answer that has to be whole."""
    _, body = await read_chunked(reader)
    return body.decode()


def numbered(recorded: Recorded, deltas: int) -> list[str]:
    """What upstream answers to a prompt that is a name: pieces that no other call has."""
    name = recorded.json["messages"][-1]["content"]
    return [f"{name}:{i} " for i in range(deltas)]


def test_many_calls_share_a_channel_and_none_is_mixed_with_another(stage: Stage) -> None:
    stage.script.script = lambda recorded: answer(*numbered(recorded, 50))

    async def call(name: str) -> None:
        reader, writer = await post(stage.front_end.host, stage.front_end.port, name)
        body = await read_answer(reader)
        assert body == "".join(f"{name}:{i} " for i in range(50))
        writer.close()

    async def run() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for i in range(CALLS):
                group.create_task(call(f"call{i}"))

    asyncio.run(run())


def test_a_client_that_does_not_read_holds_up_its_own_call_alone(stage: Stage) -> None:
    """And what is kept for it is bounded: upstream is no longer read."""
    megabyte = "x" * 1_000_000

    def script(recorded: Recorded) -> list[object]:
        if recorded.json["messages"][-1]["content"] == "unread":
            return [*(Delta(megabyte) for _ in range(40)), Finish(), Done()]
        return list(answer(*numbered(recorded, 50)))

    stage.script.script = script  # type: ignore[assignment]

    async def run() -> None:
        host, port = stage.front_end.host, stage.front_end.port
        unread, writer = await post(host, port, "unread")
        # StreamReader reads ahead up to a limit of its own, and then no more.
        await unread.readuntil(b"\r\n\r\n")
        recorded = stage.upstream.requests[0]
        sent = -1
        # It has stalled when a whole round of other calls did not move it.
        while sent != recorded.sent_bytes:
            sent = recorded.sent_bytes
            for i in range(20):
                reader, other = await post(host, port, f"call{i}")
                assert len((await read_answer(reader)).split()) == 50
                other.close()
        assert not recorded.completed
        # Buffers of four sockets, a window and a high-water mark; not the answer.
        assert sent < 20_000_000
        # It is held up, not broken: once read, it arrives whole.
        size = 0
        while line := int(await unread.readline(), 16):
            size += len(await unread.readexactly(line + 2)) - 2
        assert size == 40 * len(megabyte)
        writer.close()

    async def limited() -> None:
        async with asyncio.timeout(30):
            await run()

    asyncio.run(limited())


def test_a_client_that_never_reads_again_is_cut(sshd: OpenSSHServer) -> None:
    with staging(sshd, [Delta("x" * 1_000_000) for _ in range(40)], "--send-timeout", "0.3") as own:
        with asking(own, until=b"xxx"):
            own.upstream.wait_for(own.upstream.requests[0].client_closed)
        own.front_end.wait_for_log("cut req_")
        assert "error=client_too_slow" in own.front_end.log


def test_calls_beyond_the_limit_wait_and_leave_the_queue_with_their_client(
    sshd: OpenSSHServer,
) -> None:
    limits = ["--max-calls", "1", "--queue", "2", "--queue-timeout", "10"]

    async def run(own: Stage) -> None:
        host, port = own.front_end.host, own.front_end.port
        first, first_writer = await post(host, port, "first")
        await asyncio.to_thread(own.upstream.wait_for_requests, 1)
        _, gone_writer = await post(host, port, "gone")
        await _until_queued(own.front_end, 1)
        last, last_writer = await post(host, port, "last")
        await _until_queued(own.front_end, 2)
        response, body = await asyncio.to_thread(own.front_end.chat, "one too many")
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert b"queue" in body
        gone_writer.transport.abort()
        await _until_queued(own.front_end, 1)
        own.upstream.open("go")
        assert await read_answer(first) == "done"
        assert await read_answer(last) == "done"
        for writer in (first_writer, gone_writer, last_writer):
            writer.close()

    with staging(sshd, [WaitFor("go"), *answer("done")], *limits) as own:
        asyncio.run(run(own))
        prompts = [r.json["messages"][-1]["content"] for r in own.upstream.requests]
        assert prompts == ["first", "last"]


async def _until_queued(front_end: FrontEndProcess, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            _, body = await asyncio.to_thread(front_end.request, "GET", "/healthz")
            if json.loads(body)["queued"] == count:
                return


def test_waiting_too_long_in_the_queue_is_503(sshd: OpenSSHServer) -> None:
    limits = ["--max-calls", "1", "--queue-timeout", "0.2", "--drain", "0"]
    with staging(sshd, [Silence()], *limits) as own:
        with asking(own):
            own.upstream.wait_for_requests(1)
            response, body = own.front_end.chat()
        assert response.status == 503
        assert b"within 0.2 s" in body


# --- The end ------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging(server: OpenSSHServer, steps: list[Step], *options: str) -> Iterator[Stage]:
    """A stage of the test's own, for what a shared one would not survive."""
    script = ScriptedUpstream(steps)
    with script.in_thread() as upstream:
        arguments = [*runner_options(server), "--base-url", upstream.base_url, *options]
        with FrontEndProcess(arguments) as front_end:
            yield Stage(front_end, server, script, upstream)


@contextlib.contextmanager
def asking(stage: Stage, until: bytes = b"") -> Iterator[tuple[socket.socket, bytes]]:
    """A client that has sent a prompt and read its answer up to `until`; and what it has read."""
    address = stage.front_end.host, stage.front_end.port
    with socket.create_connection(address, 30) as client:
        client.sendall(b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        data = b""
        while until not in data:
            piece = client.recv(1000)
            assert piece, data
            data += piece
        yield client, data


def runners_of(stage: Stage) -> set[int]:
    """Processes on the host that are a runner of this front-end."""
    log = stage.front_end.wait_for_log(" pid ")
    return {int(pid) for pid in re.findall(r" pid (\d+),", log)}


def read_to_the_end(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1000), b""))


def until_gone(pids: set[int], limit_s: float) -> None:
    """Waits until the processes have ended; the machine's init may reap them later."""
    deadline = time.monotonic() + limit_s
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        select.select([], [], [], 0.02)


def is_running(pid: int) -> bool:
    try:
        # The state follows the name, which stands in parentheses (proc(5)).
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_the_runner(sshd: OpenSSHServer, number: signal.Signals) -> None:
    with staging(sshd, [Delta("first, "), WaitFor("go"), *answer("last")]) as own:
        runners = runners_of(own)
        address = own.front_end.host, own.front_end.port
        with (
            asking(own, until=b"first, ") as (client, _),
            socket.create_connection(address) as idle,
        ):
            own.front_end.signal(number)
            # Idle connections end at once, and no new ones are taken.
            idle.settimeout(20)
            assert idle.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            assert own.front_end.process.poll() is None
            own.upstream.open("go")
            rest = read_to_the_end(client)
        assert rest.endswith(b"4\r\nlast\r\n0\r\nX-Finish-Reason: stop\r\n\r\n")
        assert own.front_end.wait() == 0
        assert "Traceback" not in own.front_end.log
        until_gone(runners, 15)


def test_listening_for_other_machines_is_warned_of(stage: Stage) -> None:
    with staging(stage.server, [], "--listen", "0.0.0.0:0", "--allow-anonymous") as own:
        assert "whoever reaches 0.0.0.0:" in own.front_end.log
        assert own.front_end.host == "0.0.0.0"
    assert "whoever reaches" not in stage.front_end.log


def test_a_second_signal_ends_at_once(sshd: OpenSSHServer) -> None:
    with staging(sshd, [Delta("x"), Silence()]) as own:
        runners = runners_of(own)
        with asking(own, until=b"x\r\n"):
            own.front_end.signal(signal.SIGTERM)
            own.front_end.wait_for_log("draining")
            own.front_end.signal(signal.SIGTERM)
            assert own.front_end.wait() == 128 + signal.SIGTERM
        assert "ended at once by SIGTERM" in own.front_end.log
        assert "Traceback" not in own.front_end.log
        own.upstream.wait_for(own.upstream.requests[0].client_closed)
        until_gone(runners, 15)


def test_a_signal_before_anything_is_served_ends_at_once(sshd: OpenSSHServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = runner_options(sshd)
        options[1] = f"127.0.0.1:{silent.getsockname()[1]}"
        front_end = FrontEndProcess(options)
        front_end.start()
        connection, _ = silent.accept()
        try:
            with connection:
                front_end.signal(signal.SIGHUP)  # reads files again, as at any time
                front_end.wait_for_log("reloaded: ")
                front_end.signal(signal.SIGINT)
                assert front_end.wait() == 128 + signal.SIGINT
            assert "Traceback" not in front_end.log
        finally:
            front_end.end()


def test_the_drain_limit_cuts_what_is_still_running(sshd: OpenSSHServer) -> None:
    with staging(sshd, [Delta("x"), Silence()], "--drain", "0.2") as own:
        with asking(own, until=b"x\r\n") as (client, _):
            own.front_end.signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionResetError):
                assert read_to_the_end(client) == b""
        assert own.front_end.wait() == 0


def test_after_a_kill_no_process_of_ours_is_left_on_the_host(sshd: OpenSSHServer) -> None:
    with staging(sshd, [Silence()]) as own:
        runners = runners_of(own)
        with asking(own):
            recorded = own.upstream.wait_for_requests(1)[0]
            os.kill(own.front_end.pid, signal.SIGKILL)
            own.front_end.process.wait()
        until_gone(runners, 10)
        own.upstream.wait_for(recorded.client_closed)


def test_a_killed_runner_fails_its_calls_and_comes_back(sshd: OpenSSHServer) -> None:
    with staging(sshd, [Silence()]) as own:
        (pid,) = runners_of(own)
        with asking(own) as (client, _):
            own.upstream.wait_for_requests(1)
            os.kill(pid, signal.SIGKILL)
            assert b"502 Bad Gateway" in client.recv(1000)
        response, body = own.front_end.chat()
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        response, _ = own.front_end.request("GET", "/healthz")
        assert response.status == 503
        own.script.script = answer("back again")
        own.front_end.wait_for_log("next attempt")
        own.front_end.wait_for_log("is ready: ", count=2)
        response, body = own.front_end.chat()
        assert (response.status, body) == (200, b"back again")


@pytest.mark.parametrize("stdout", ["closed", "unread"])
def test_it_serves_and_drains_though_nobody_reads_where_it_listens(
    sshd: OpenSSHServer, tmp_path: Path, stdout: str
) -> None:
    path = tmp_path / "llmrelay.sock"
    front_end = FrontEndProcess(runner_options(sshd), listen=["--listen", f"unix:{path}"])
    if stdout == "closed":
        front_end.command = ["bash", "-c", 'exec "$@" >&-', "bash", *front_end.command]
    front_end.start()
    try:
        assert front_end.process.stdout is not None
        front_end.process.stdout.close()
        deadline = time.monotonic() + 40
        while not path.exists():
            assert time.monotonic() < deadline, front_end.log
            select.select([], [], [], 0.01)
        assert front_end.stop() == 0, front_end.log
        assert front_end.log.endswith("drained\n")
    finally:
        front_end.end()
