"""The channel's two descriptors: claimed, written once per loop turn, bounded, ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runner_payload import stdio
from runner_payload.stdio import HIGH_WATER_BYTES, PACE_S, Pace, Stdio

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


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What each write to a channel's stdout has in it."""
    pieces: list[bytes] = []
    writev = os.writev

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def writev(self, descriptor: int, buffers: list[bytes]) -> int:
            sent = writev(descriptor, buffers)
            pieces.append(b"".join(buffers)[:sent])
            return sent

    monkeypatch.setattr(stdio, "os", Os())
    return pieces


def test_what_is_written_in_one_loop_turn_leaves_in_one_write(written: list[bytes]) -> None:
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


# --- Pace ---------------------------------------------------------------------------------------


def dense(*flushes: tuple[float, int]) -> list[bool]:
    """Whether it is worth collecting after each of these: milliseconds since the last, writes."""
    pace, now_s, said = Pace(), 1000.0, []
    pace.rest_s(0, now_s)
    for after_ms, writes in flushes:
        now_s += after_ms / 1000
        pace.rest_s(writes, now_s)
        said.append(pace.dense)
    return said


def test_nothing_is_collected_before_there_is_much() -> None:
    assert not Pace().dense
    assert dense((1.0, 1), (1.0, 100), (1.0, 100)) == [False] * 3
    assert not any(dense(*[(1.0, 1)] * 100))
    assert not any(dense((10.1, 15), (100.0, 150), (1000.0, 1500)))


def test_much_is_collected_from_ten_milliseconds_on_until_it_is_little_again() -> None:
    assert dense(*[(1.001, 3)] * 10) == [False] * 9 + [True]
    assert dense(*[(1.001, 3)] * 20, *[(1.001, 1)] * 10)[-11:] == [True] * 10 + [False]
    assert dense((10.1, 30), (10.1, 30), (10.1, 5), (10.1, 30)) == [True, True, False, True]


def test_after_a_long_silence_there_is_nothing_to_collect() -> None:
    assert dense((10.1, 100), (60_000.0, 1)) == [True, False]


def test_the_loop_rests_until_a_millisecond_after_the_write_before() -> None:
    pace = Pace()
    pace.rest_s(0, 1.0)
    pace.rest_s(100, 1.0101)
    assert pace.dense
    assert pace.rest_s(5, 1.0105) == pytest.approx(PACE_S - 0.0004)
    # From the end of that rest on; and a turn that has taken long is followed by none.
    assert pace.rest_s(5, 1.0113) == pytest.approx(PACE_S - 0.0002)
    assert pace.rest_s(5, 1.02) == 0.0


@pytest.mark.parametrize("much", [True, False])
def test_what_a_turn_writes_leaves_at_once_and_the_loop_rests_while_it_is_much(
    written: list[bytes], monkeypatch: pytest.MonkeyPatch, much: bool
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)

    async def scene(channel: Channel) -> None:
        out = channel.stdio
        out._pace.dense, out._pace._counted_from_s = much, time.monotonic()
        for number in range(3):
            out.write(b"%d" % number)
            out.write(b"+")
            await asyncio.sleep(0)
        assert await channel.read(6) == b"0+1+2+"

    on(pipes, scene)
    assert written[:3] == [b"0+", b"1+", b"2+"]
    assert (len(rests) >= 2) if much else not rests
    assert all(0 < rest_s <= 3 * PACE_S for rest_s in rests)


def test_a_full_channel_loses_and_reorders_nothing_while_much_is_written(
    written: list[bytes],
) -> None:
    async def scene(channel: Channel) -> None:
        out, sent = channel.stdio, bytearray()
        out._pace.dense = True
        reading = asyncio.create_task(channel.read(5000 * 200))
        for number in range(5000):
            piece = b"%08d" % number * 25
            sent += piece
            out.write(piece)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await out.flushed()
        assert await reading == sent
        assert b"".join(written) == sent

    on(pipes, scene)


@pytest.mark.parametrize("ends", ["stdin", "close"])
def test_what_was_written_in_the_last_turn_is_sent_before_the_end(ends: str) -> None:
    async def scene(channel: Channel) -> None:
        channel.stdio.write(b"last words")
        if ends == "close":
            channel.stdio.close()
        else:
            os.close(channel.to)
            channel.stdio._read()
        assert channel.read_now() == b"last words"
        assert channel.losses == 1

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
