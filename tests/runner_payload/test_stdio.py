"""The channel's two descriptors: claimed, written once per loop turn, bounded, ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runner_payload import stdio
from runner_payload.stdio import HIGH_WATER_BYTES, Stdio

LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]


class Channel:
    """A Stdio and its other end: `to` feeds its stdin, `back` reads its stdout."""

    def __init__(self, descriptors: tuple[int, int], to: int, back: int) -> None:
        self.to, self.back = to, back
        self.received = bytearray()
        self.losses = 0
        self.changed = asyncio.Event()
        self.stdio = Stdio(descriptors, self._on_data, self._on_lost)

    def _on_data(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def _on_lost(self) -> None:
        self.losses += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def read_now(self, limit: int = 1 << 24) -> bytes:
        """Everything that has reached the other end."""
        data = b""
        while len(data) < limit:
            try:
                piece = os.read(self.back, limit - len(data))
            except BlockingIOError:
                break
            if not piece:
                break
            data += piece
        return data

    async def read(self, count: int) -> bytes:
        """`count` bytes as they come."""
        data = b""
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.back, ready.set)
        try:
            while len(data) < count:
                await ready.wait()
                ready.clear()
                data += self.read_now(count - len(data))
        finally:
            loop.remove_reader(self.back)
        return data


@contextmanager
def pipes() -> Iterator[tuple[tuple[int, int], int, int]]:
    (stdin, to), (back, stdout) = os.pipe(), os.pipe()
    os.set_blocking(back, False)
    yield (stdin, stdout), to, back
    for descriptor in (stdin, stdout, to, back):
        with suppress(OSError):  # the test has closed it
            os.close(descriptor)


@contextmanager
def one_socket() -> Iterator[tuple[tuple[int, int], int, int]]:
    """As some sshds have it: one socket is stdin and stdout."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        second = os.dup(theirs.fileno())
        yield (theirs.fileno(), second), ours.fileno(), ours.fileno()
        os.close(second)


KINDS = pytest.mark.parametrize("kind", [pipes, one_socket])


def on(kind: Any, scene: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
    async def limited(ends: tuple[tuple[int, int], int, int]) -> None:
        channel = Channel(*ends)
        try:
            async with asyncio.timeout(LIMIT_S):
                await scene(channel)
        finally:
            channel.stdio.close()

    with kind() as ends:
        asyncio.run(limited(ends))


@KINDS
def test_both_directions_carry_bytes(kind: object) -> None:
    async def scene(channel: Channel) -> None:
        os.write(channel.to, b"prompt")
        await channel.until(lambda: bool(channel.received))
        channel.stdio.write(b"answer")
        assert await channel.read(6) == b"answer"
        assert channel.received == b"prompt"
        assert channel.losses == 0

    on(kind, scene)


def test_what_is_written_in_one_loop_turn_leaves_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []
    writev = os.writev

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def writev(self, descriptor: int, buffers: list[bytes]) -> int:
            written.append(b"".join(buffers))
            return writev(descriptor, buffers)

    monkeypatch.setattr(stdio, "os", Os())

    async def scene(channel: Channel) -> None:
        for letter in (b"a", b"b", b"c"):
            channel.stdio.write(letter)
        assert written == []
        assert await channel.read(3) == b"abc"
        channel.stdio.write(b"d")
        assert await channel.read(1) == b"d"
        assert written == [b"abc", b"d"]

    on(pipes, scene)


@KINDS
def test_a_full_channel_loses_nothing_and_says_when_it_is_congested_and_writable(
    kind: object,
) -> None:
    async def scene(channel: Channel) -> None:
        out, sent = channel.stdio, bytearray()
        assert not out.congested
        number = 0
        while not out.congested:
            piece = b"%06d" % number * 1000
            number += 1
            sent += piece
            out.write(piece)
            await asyncio.sleep(0)
        assert len(sent) > HIGH_WATER_BYTES
        waiting = asyncio.create_task(out.writable())
        await asyncio.sleep(0)
        out.write(b"behind")
        sent += b"behind"
        assert not waiting.done()
        received = await channel.read(len(sent))
        await waiting
        assert not out.congested
        assert received == sent
        out.write(b"again")
        assert await channel.read(5) == b"again"

    on(kind, scene)


def test_a_backlog_below_the_high_water_mark_is_not_congested() -> None:
    async def scene(channel: Channel) -> None:
        channel.stdio.write(b"x" * HIGH_WATER_BYTES)
        assert not channel.stdio.congested
        channel.stdio.write(b"x")
        assert channel.stdio.congested
        await channel.read(HIGH_WATER_BYTES + 1)

    on(pipes, scene)


def test_flushed_returns_when_everything_has_left() -> None:
    async def scene(channel: Channel) -> None:
        await channel.stdio.flushed()
        channel.stdio.write(b"x" * (HIGH_WATER_BYTES // 2))
        waiting = asyncio.create_task(channel.stdio.flushed())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        await channel.read(HIGH_WATER_BYTES // 2)
        await waiting

    on(pipes, scene)


@KINDS
def test_the_end_of_stdin_is_told_once(kind: object) -> None:
    async def scene(channel: Channel) -> None:
        os.write(channel.to, b"last")
        if kind is pipes:
            os.close(channel.to)
        else:
            with socket.socket(fileno=os.dup(channel.to)) as end:
                end.shutdown(socket.SHUT_WR)
        await channel.until(lambda: channel.losses > 0)
        assert channel.received == b"last"
        channel.stdio.write(b"into the void")
        await channel.stdio.writable()
        channel.stdio.close()
        assert channel.losses == 1
        assert channel.read_now() == b""

    on(kind, scene)


def test_a_broken_stdout_is_a_loss_too_and_wakes_whoever_waits() -> None:
    async def scene(channel: Channel) -> None:
        channel.stdio.write(b"x" * 2 * HIGH_WATER_BYTES)
        waiting = [
            asyncio.create_task(channel.stdio.writable()),
            asyncio.create_task(channel.stdio.flushed()),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        os.close(channel.back)
        await asyncio.gather(*waiting)
        assert channel.losses == 1
        assert not channel.stdio.congested

    on(pipes, scene)


def test_close_sends_what_is_waiting_and_reads_no_more() -> None:
    async def scene(channel: Channel) -> None:
        channel.stdio.write(b"last words")
        channel.stdio.close()
        assert await channel.read(10) == b"last words"
        os.write(channel.to, b"too late")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert channel.received == b""

    on(pipes, scene)


def test_the_shared_open_file_blocks_again_after_close() -> None:
    async def scene(channel: Channel) -> None:
        descriptor = channel.stdio._out
        assert not os.get_blocking(descriptor)
        channel.stdio.close()
        assert os.get_blocking(descriptor)

    on(pipes, scene)


CLAIMING = """
import os, sys
from runner_payload import stdio
stdin, stdout = stdio.claim()
print("stray print")
os.write(1, b"stray write")
os.system("echo stray child")
sys.stdout.write("stray " * 10000)
sys.stdout.flush()
assert sys.stdin.read() == "", "the channel's bytes went to a stray reader"
os.write(stdout, b"frame:" + os.read(stdin, 100))
print("at the end")
"""


def test_after_claim_prints_reads_and_children_touch_neither_stdin_nor_stdout() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", CLAIMING],
        input=b"prompt",
        capture_output=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"frame:prompt", b"")


INHERITING = """
import subprocess, sys
from runner_payload import stdio
stdio.claim()
with open(sys.argv[1], "w") as listing:
    subprocess.run(["ls", "-l", "/proc/self/fd"], stdout=listing, close_fds=False, check=True)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_a_child_does_not_inherit_the_claimed_descriptors(tmp_path: Path) -> None:
    """Otherwise a child that outlives the runner would hold the channel open."""
    listing = tmp_path / "descriptors"
    done = subprocess.run(
        [sys.executable, "-B", "-c", INHERITING, listing],
        input=b"",
        capture_output=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = listing.read_text().splitlines()
    assert any("/dev/null" in line for line in lines)
    pipes_left = [line for line in lines if "pipe:" in line]
    assert len(pipes_left) == 1, "besides stderr"
