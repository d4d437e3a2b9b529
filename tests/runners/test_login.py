"""What a login does with sessions that nobody waits for, and with packets that nobody needs.

Over connections that are made up; tests/test_instances.py has one to an sshd that refuses sessions.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from llmrelay.runners.ssh.login import Login, _send_no_empty_packets


class LateConnection:
    """A connection to a host that takes its time to open a session."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[LateSession, None]] = asyncio.Future()
        self.asked = asyncio.Event()

    async def create_session(self, *_: object, **__: object) -> tuple[LateSession, None]:
        self.asked.set()
        return await self.answer


class LateSession:
    def __init__(self) -> None:
        self.aborted = asyncio.Event()

    def abort(self) -> None:
        self.aborted.set()


@pytest.mark.parametrize("opened", [True, False])
def test_a_session_that_is_opened_too_late_is_closed(opened: bool) -> None:
    """Over a connection of its own it would end with that; one that is shared stays."""

    async def scene() -> None:
        connection = LateConnection()
        login = Login(cast(Any, None), None)
        login._connection = cast(Any, connection)
        opening = asyncio.ensure_future(login.open("true", cast(Any, None)))
        await connection.asked.wait()
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        if opened:
            session = LateSession()
            connection.answer.set_result((session, None))
            await session.aborted.wait()
        else:
            connection.answer.set_exception(OSError("SSH connection closed"))
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def limited() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(limited())


MSG_IGNORE, MSG_CHANNEL_DATA = 2, 94


class Sending:
    """Of a connection, what sends packets as asyncssh's does: an empty one before each."""

    def __init__(self, cipher: str) -> None:
        self.sent: list[int] = []
        self._cipher = cipher

    def get_extra_info(self, name: str) -> str:
        assert name == "send_cipher"
        return self._cipher

    def send_packet(self, kind: int, *args: bytes, handler: object = None) -> None:
        if kind != MSG_IGNORE:
            self.send_packet(MSG_IGNORE)
        self.sent.append(kind)


@pytest.mark.parametrize(
    ("cipher", "sent"),
    [
        ("aes128-gcm@openssh.com", [MSG_CHANNEL_DATA]),
        ("aes256-ctr", [MSG_CHANNEL_DATA]),
        ("aes128-cbc", [MSG_IGNORE, MSG_CHANNEL_DATA]),
    ],
)
def test_only_with_cbc_there_is_an_empty_packet_before_each(cipher: str, sent: list[int]) -> None:
    connection = Sending(cipher)
    _send_no_empty_packets(cast(Any, connection))
    connection.send_packet(MSG_CHANNEL_DATA, b"data", handler=None)
    assert connection.sent == sent
