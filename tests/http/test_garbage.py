"""What a connection leaves is freed at once: serve.py lets the garbage collector come rarely."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from llmrelay.http.connection import Connection
from llmrelay.http.wire import Wire

from .conftest import Run
from .live import GET, Client, post, serving, until


@pytest.fixture(scope="module", autouse=True)
def _what_was_there_before_is_not_looked_through() -> Iterator[None]:
    """All of the other tests, for the most part: a second of CPU for each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left() -> int:
    of_one = (Connection, Wire, asyncio.StreamWriter)
    return sum(isinstance(each, of_one) for each in gc.get_objects())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [b"", GET, GET[:-1], post(b"body")[:-1], b"bad\r\n"])
def test_a_connection_that_is_over_is_freed_without_the_garbage_collector(
    run: Run, sent: bytes, reset: bool
) -> None:
    async def subject() -> None:
        async with (
            serving(head_timeout_s=0.05, body_timeout_s=0.05) as server,
            Client(server) as client,
        ):
            client.send(sent)
            if sent:
                await client.response()
            client.reset() if reset else client.close()
            await until(lambda: server.connections == 0)
        await asyncio.sleep(0)

    gc.disable()
    try:
        run(subject())
        assert left() == 0
    finally:
        gc.enable()
