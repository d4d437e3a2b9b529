"""`run`: runs a test's coroutine on asyncio's own loop and on uvloop, and checks what it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

# For a test that hangs: the longest take two seconds of CPU, on a machine that is busy with others.
LIMIT_S = 40.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Run]:
    """Run to the end within LIMIT_S; no task may be left, and asyncio may not have complained."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    complaints: list[dict[str, Any]] = []

    async def limited(subject: Coroutine[Any, Any, None]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
        async with asyncio.timeout(LIMIT_S):
            await subject
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def run_it(subject: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited(subject))

    with caplog.at_level(logging.INFO):
        yield run_it
    assert complaints == []
    assert [record for record in caplog.records if record.name == "asyncio"] == []
