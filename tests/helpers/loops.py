"""Scenes for the runner's connections on both loops, of which nothing may be left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from runner_payload.transport import Transport

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
# In which a loop lets go of what was closed.
_TURNS = 5


def play_on(loop: str, scene: Callable[[Transport], Awaitable[None]], limit_s: float) -> None:
    """Plays a scene within the limit; no task, connection or word of the loop may be left."""
    said: list[dict[str, Any]] = []

    async def limited() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        transport = Transport()
        async with asyncio.timeout(limit_s):
            await scene(transport)
            await transport.aclose()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not transport._open

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(limited())
    assert said == []
