"""A link without SSH: the front-end's Link on one side, a runner that the test plays on the other.

For what no real runner does on demand: frames out of turn, a HELLO of another version, silence.
"""

from __future__ import annotations

import asyncio

from llmrelay.errors import RelayError
from llmrelay.runners.link import Link
from runner_payload.messages import End, Hello, Message, Ready, Response, Start
from runner_payload.protocol import (
    MARKER,
    PROTOCOL_VERSION,
    FrameType,
    encode_frame,
)
from tests.helpers.frames import Frame, Frames


def a_hello(**changes: object) -> Hello:
    """What a healthy runner says, but for `changes`."""
    fields: dict[str, object] = {
        "protocol": PROTOCOL_VERSION,
        "digest": "0" * 64,
        "python": "3.11.7",
        "executable": "/usr/bin/python3",
        "openai": "3.54.0",
        "uvloop": "0.23.0",
        "pid": 4242,
        "max_calls": 1024,
    }
    return Hello(**(fields | changes))  # type: ignore[arg-type]


def a_start(**changes: object) -> Start:
    """Settings with small windows and long times, but for `changes`."""
    fields: dict[str, object] = {
        "api_key": "sk-secret",
        "base_url": "http://127.0.0.1:1/v1",
        "max_body_bytes": 1024 * 1024,
        "window_bytes": 1024,
        "timeout_s": 60.0,
        "delta_timeout_s": 60.0,
        "ping_interval_s": 60.0,
        "ping_timeout_s": 120.0,
    }
    return Start(**(fields | changes))  # type: ignore[arg-type]


class PlayedRunner:
    """The channel that a Link writes to, and the runner behind it."""

    def __init__(self) -> None:
        self.congested = False
        self.closed = False
        self.received: list[Frame] = []
        self.writes = 0
        self.lost: list[str] = []
        self._decoder = Frames()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self.link = Link("gpu01", lambda link, reason: self.lost.append(reason))
        self.link.channel = self

    # The ByteChannel.

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.received += self._decoder.feed(data)
        self._arrived.set()

    async def writable(self) -> None:
        self._room.clear()
        await self._room.wait()

    def close(self) -> None:
        self.closed = True

    # What the test does.

    def make_room(self) -> None:
        """The channel's backlog has gone."""
        self.congested = False
        self._room.set()

    def send(self, frame_type: FrameType, call_id: int = 0, payload: bytes = b"") -> None:
        """A frame from the runner."""
        self.link.feed(encode_frame(frame_type, call_id, payload))

    def say(self, frame_type: FrameType, message: Message, call_id: int = 0) -> None:
        """A message from the runner."""
        self.send(frame_type, call_id, message.encode())

    async def get_ready(self, start: Start | None = None) -> None:
        """The whole handshake."""
        self.link.feed(b"Welcome to gpu01\n" + MARKER)
        self.say(FrameType.HELLO, a_hello())
        await self.link.hello()
        starting = asyncio.ensure_future(self.link.start(start or a_start()))
        await self.frame(FrameType.START)
        self.say(FrameType.READY, Ready())
        await starting

    async def frame(self, frame_type: FrameType, limit_s: float = 2.0) -> Frame:
        """The next frame of that type from the front-end; it and those before it are taken off."""
        async with asyncio.timeout(limit_s):
            while True:
                for at, frame in enumerate(self.received):
                    if frame.type == frame_type:
                        del self.received[: at + 1]
                        return frame
                self._arrived.clear()
                await self._arrived.wait()


class RecordingSink:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.head: Response | None = None
        self.texts: list[bytes] = []
        self.dues = 0
        self.result: End | RelayError | None = None
        self.over = asyncio.Event()

    def response(self, response: Response) -> None:
        self.head = response

    def data(self, text: bytes) -> None:
        self.texts.append(text)

    def credit_due(self) -> None:
        self.dues += 1

    def end(self, end: End) -> None:
        assert self.result is None
        self.result = end
        self.over.set()

    def error(self, error: RelayError) -> None:
        assert self.result is None
        self.result = error
        self.over.set()
