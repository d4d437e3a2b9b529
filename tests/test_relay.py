"""The middle, between an exchange and a call that are played: what meets in one turn."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from llmrelay.api.answers import Text
from llmrelay.config import Config
from llmrelay.errors import BadRequest, RelayError, RunnerLost
from llmrelay.http.exchange import Exchange
from llmrelay.relay import Answer, Body
from llmrelay.runners.call import LinkCall
from runner_payload.messages import End


class Played:
    """An exchange whose client sends one part and then breaks its upload off; and its call."""

    started = finished = congested = False

    def __init__(self) -> None:
        self.log_fields: dict[str, object] = {}
        self.sent: list[bytes] = []
        self.parts = iter([b"sound"])
        self.waits = asyncio.Event()
        self.breaks_off = asyncio.Event()

    # As an exchange.

    def start(self, *_: object) -> None:
        self.started = True

    def write(self, data: bytes) -> None:
        pass

    def finish(self, *_: object) -> None:
        self.finished = True

    def forget_body(self) -> None:
        pass

    async def read_part(self) -> bytes:
        for part in self.parts:
            return part
        self.waits.set()
        await self.breaks_off.wait()
        raise BadRequest("The connection ended before the request was whole.")

    # As a call.

    async def send(self, data: bytes) -> None:
        self.sent.append(data)


async def uploading(played: Played) -> tuple[Answer, asyncio.Task[None]]:
    body = Body(b"begun", whole=False, repeatable=False)
    answer = Answer(cast(Exchange, played), body, Text, Config())
    coming = asyncio.create_task(answer.come(cast(LinkCall, cast(Any, played))))
    await played.waits.wait()
    assert played.sent == [b"begun", b"sound"]
    return answer, coming


def test_an_upload_that_breaks_off_ends_its_call() -> None:
    async def subject() -> None:
        played = Played()
        _, coming = await uploading(played)
        played.breaks_off.set()
        with pytest.raises(BadRequest):
            await coming

    asyncio.run(subject())


def test_what_becomes_of_an_upload_behind_a_whole_answer_is_no_error() -> None:
    async def subject() -> None:
        played = Played()
        answer, coming = await uploading(played)
        played.breaks_off.set()
        answer.end(End("stop"))
        await coming
        assert played.finished

    asyncio.run(subject())


def test_of_two_errors_the_first_one_counts() -> None:
    async def subject() -> None:
        played = Played()
        answer, coming = await uploading(played)
        played.breaks_off.set()
        answer.error(RunnerLost("It is gone."))
        with pytest.raises(RelayError, match="gone"):
            await coming

    asyncio.run(subject())
