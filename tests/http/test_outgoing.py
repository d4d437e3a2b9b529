from __future__ import annotations

import asyncio
import logging

import pytest

from llmrelay.http.outgoing import Outbox


class Sent:
    """What has been written, in order; what is named in `broken` cannot be."""

    def __init__(self, *broken: str) -> None:
        self.names: list[str] = []
        self._broken = broken

    def by(self, name: str) -> One:
        return One(name, self)

    def note(self, name: str) -> None:
        if name in self._broken:
            raise ValueError(name)
        self.names.append(name)


class One:
    def __init__(self, name: str, sent: Sent) -> None:
        self._name, self._sent = name, sent

    def send(self) -> None:
        self._sent.note(self._name)


def test_what_a_turn_brings_is_written_at_its_end_and_in_order() -> None:
    async def subject() -> None:
        outbox, sent = Outbox(), Sent()
        outbox.add(sent.by("a"))
        asyncio.get_running_loop().call_soon(outbox.add, sent.by("c"))
        outbox.add(sent.by("b"))
        assert sent.names == []
        await asyncio.sleep(0)
        assert sent.names == ["a", "b"]
        await asyncio.sleep(0)
        assert sent.names == ["a", "b", "c"]

    asyncio.run(subject())


def test_an_answer_that_cannot_be_written_keeps_no_other_from_going_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def subject() -> None:
        outbox, sent = Outbox(), Sent("a")
        outbox.add(sent.by("a"))
        outbox.add(sent.by("b"))
        await asyncio.sleep(0)
        assert sent.names == ["b"]

    asyncio.run(subject())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
