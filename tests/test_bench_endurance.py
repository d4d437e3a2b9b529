"""The benchmark's endurance: what counts as growth, and whether calls in a row are checked."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

import pytest

from scripts.benchmark.endurance import Growth, Held, Sample, judgement
from scripts.benchmark.in_a_row import Generator
from scripts.benchmark.records import RECORD_FORMAT, Plan

SAMPLES = 20
EVERY = 5_000


def judged(memory_kib: Sequence[float]) -> Growth:
    """What is said of memory in samples that are alike otherwise."""
    samples = [
        Sample(at * EVERY, {"runner": Held(int(kib), 0, 9, 1)})
        for at, kib in enumerate(memory_kib, start=1)
    ]
    return judgement(samples, "runner")["memory"]


def test_memory_that_only_wavers_does_not_grow() -> None:
    waver = random.Random(1)
    found = judged([50_000 + waver.uniform(-400, 400) for _ in range(SAMPLES)])
    assert not found.grows
    assert abs(found.slope) < 100


def test_memory_that_fills_up_at_first_does_not_grow() -> None:
    assert not judged([40_000, 45_000, 48_000, 49_000] + [50_000] * 16).grows


def test_a_leak_of_a_hundred_bytes_per_call_is_found() -> None:
    found = judged([50_000 + 100 * EVERY * at / 1024 for at in range(SAMPLES)])
    assert found.grows
    assert found.slope == pytest.approx(100 * 10_000 / 1024, rel=0.01)


@pytest.mark.parametrize(
    ("before_kib", "grown_kib", "grows"),
    [
        (20_000, 1_000, False),  # 5 %, but less than 1 MiB
        (20_000, 1_100, True),
        (80_000, 1_500, False),  # more than 1 MiB, but less than 2 %
        (80_000, 1_700, True),
    ],
)
def test_growth_takes_a_mebibyte_and_two_percent(
    before_kib: int, grown_kib: int, grows: bool
) -> None:
    found = judged([before_kib] * 12 + [before_kib + grown_kib] * 8)
    assert found.grows == grows


def test_one_descriptor_more_is_growth() -> None:
    samples = [
        Sample(at * EVERY, {"runner": Held(50_000, 0, 9 + (at > 10), 1)})
        for at in range(1, SAMPLES + 1)
    ]
    found = judgement(samples, "runner")
    assert found["descriptors"].grows
    assert not found["threads"].grows
    assert not found["memory"].grows


# --- Calls in a row -----------------------------------------------------------------------------


class Server:
    """Answers as asked, but for the third answer if there is a wrong one to be given."""

    def __init__(self, wrong: bytes) -> None:
        self.connections: list[asyncio.Task[None]] = []
        self._wrong = wrong
        self._answers = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.append(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.partition(b"Content-Length:")[2].partition(b"\r\n")[0])
                writer.write(self._answer(await reader.readexactly(size)))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _answer(self, request: bytes) -> bytes:
        self._answers += 1
        if self._wrong and self._answers == 3:
            return self._wrong
        plan = Plan.find(request)
        assert plan is not None
        text = b"".join(RECORD_FORMAT % (plan.call, at, 0) for at in range(plan.deltas))
        body = b"%x\r\n%b\r\n0\r\nX-Finish-Reason: stop\r\n\r\n" % (len(text), text)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


async def leg(calls: int, *, wrong: bytes = b"") -> tuple[dict[str, Any], int]:
    """Makes so many calls; what was found, and how many connections it took."""
    server = Server(wrong)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        asked = argparse.Namespace(port=port, framing="chat", deltas=2, at_once=2)
        generator = Generator(asked)
        found = await generator.leg(calls)
        generator.close()
        await asyncio.gather(*server.connections)
    return found, len(server.connections)


def test_calls_are_made_one_after_the_other_on_the_same_connections() -> None:
    found, connections = asyncio.run(leg(10))
    assert (found["calls"], found["deltas"], found["errors"]) == (10, 20, {})
    assert connections == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 502 Bad Gateway"),
        (b"HTTP/1.1 200 OK\r\n\r\n0\r\n\r\n", "lost"),
        (b"HTTP/1.1 200 OK\r\n\r\n1\r\nx\r\n0\r\n\r\n", "garbled"),
    ],
)
def test_a_wrong_answer_is_told_and_the_other_calls_go_on(wrong: bytes, told: str) -> None:
    found, _ = asyncio.run(leg(10, wrong=wrong))
    assert found["calls"] == 9
    assert told in str(found["errors"])
