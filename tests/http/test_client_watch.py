from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llmrelay.config import Config
from llmrelay.http.bodies import BodyMemory
from llmrelay.http.client_watch import ClientWatch
from llmrelay.http.exchange import Exchange
from llmrelay.http.incoming import Incoming

from .conftest import Run


class PlayedExchange:
    def __init__(self) -> None:
        self.client_gone = False

    def probe(self) -> bool:
        return False


class Watched:
    """A task that waits for ever, as a handler does, and what becomes of it."""

    def __init__(self) -> None:
        self.incoming = Incoming(Config(), BodyMemory(1))
        self.exchange = PlayedExchange()
        self.went_on = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        exchange = cast(Exchange, self.exchange)
        with ClientWatch(exchange, self.incoming, self.task):
            await asyncio.get_running_loop().create_future()
        self.went_on = True
        await asyncio.sleep(0)


def test_a_client_that_goes_ends_its_handler_and_not_the_task(run: Run) -> None:
    async def subject() -> None:
        watched = Watched()
        await asyncio.sleep(0)
        watched.incoming.lost(ConnectionResetError())
        await watched.task
        assert watched.went_on
        assert watched.exchange.client_gone
        assert watched.task.cancelling() == 0

    run(subject())


def test_a_client_that_had_gone_before_ends_its_handler_too(run: Run) -> None:
    async def subject() -> None:
        watched = Watched()
        watched.incoming.lost(None)
        await watched.task
        assert watched.went_on

    run(subject())


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_task_that_the_server_cancels_as_well_does_not_go_on(run: Run, first: str) -> None:
    async def subject() -> None:
        watched = Watched()
        await asyncio.sleep(0)
        if first == "server":
            watched.task.cancel()
        watched.incoming.lost(ConnectionResetError())
        if first == "client":
            watched.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watched.task
        assert not watched.went_on

    run(subject())
