"""scripts/chaos: that its script of faults is a seed's, and that its load sees what is wrong.

The scenarios themselves take root, namespaces and minutes: they are run by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from scripts.faults.load import Load, Result
from scripts.faults.plan import (
    BEHIND_BASTION,
    BROKEN_AT_ONCE,
    ON_A_RUNNER,
    ON_THE_BASTION,
    REST_S,
    plan,
)
from scripts.faults.upstream import DELTAS

HEAD = b"HTTP/1.1 200 OK\r\nX-Request-Id: r1\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nX-Error-Code: queue_full\r\n\r\nno"


@pytest.mark.parametrize("seed", range(20))
def test_a_script_is_its_seeds_and_has_every_kind_of_fault_about_as_often(seed: int) -> None:
    script = plan(600, seed)
    assert script == plan(600, seed)
    assert script != plan(600, seed + 1)
    counts = Counter(planned.kind for planned in script)
    assert set(counts) == {*ON_A_RUNNER, *ON_THE_BASTION}
    assert max(counts.values()) - min(counts.values()) <= 1
    for number, planned in enumerate(script):
        assert planned.kind not in ON_THE_BASTION or planned.runner == BEHIND_BASTION
        broken = [
            before.runner
            for before in script[:number]
            if before.at_s + before.lasts_s + REST_S > planned.at_s
        ]
        assert planned.runner not in broken
        assert len(broken) < BROKEN_AT_ONCE


def chunked(*texts: str) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(text), text.encode()) for text in texts)


def deltas(name: str, *numbers: int) -> list[str]:
    return [f"{name}:{number} " for number in numbers]


ALL = range(DELTAS)
END = b"0\r\nX-Finish-Reason: stop\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (HEAD + chunked(*deltas("call1", *ALL)) + END, "whole"),
        (HEAD + chunked(*deltas("call1", *ALL)), "cut"),
        (HEAD + chunked(*deltas("call1", 0, 1)), "cut"),
        (HEAD + chunked(*deltas("call1", 0, 1))[:-5], "cut"),
        (HEAD + chunked(*deltas("call1", 0, 1)) + END, "wrong"),
        (HEAD + chunked(*deltas("call1", 0, 0)), "wrong"),
        (HEAD + chunked(*deltas("call1", 0, 2)), "wrong"),
        (HEAD + chunked(*deltas("call1", *ALL), "more") + END, "wrong"),
        (HEAD + chunked(*deltas("call2", *ALL)) + END, "wrong"),
        (REFUSAL, "failed"),
        (b"", "lost"),
    ],
)
def test_the_load_tells_how_a_call_ended(answer: bytes, ended: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"call1")
        writer.write(answer)
        writer.close()

    async def scene() -> Result:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await Load(server.sockets[0].getsockname()[1], 1).call("call1")

    result = asyncio.run(scene())
    assert result.ended == ended
    assert result.request_id == ("r1" if answer.startswith(HEAD) else "")
