"""A runner that the test plays, as a command on the SSH server of ssh_server.py.

Its frames are real, and it calls no upstream: for what no real runner does on demand, and for many
of them, which cost nothing to start.
"""

from __future__ import annotations

from typing import Any

from llmrelay.runners import payload
from runner_payload.messages import Message, Ready
from runner_payload.protocol import MARKER, FrameType, encode_frame
from tests.helpers.frames import Frame, Frames
from tests.helpers.link_pair import a_hello
from tests.helpers.ssh_server import Process


class Played:
    """The runner's side of a channel, in the server's process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._decoder = Frames()

    def say(self, frame_type: FrameType, message: Message) -> None:
        self.process.stdout.write(encode_frame(frame_type, 0, message.encode()))

    async def hello(self, **changes: Any) -> None:
        """Takes the payload and says HELLO."""
        shipped = payload.load()
        await self.process.stdin.readexactly(len(shipped.blob))
        self.process.stdout.write(MARKER)
        self.say(FrameType.HELLO, a_hello(**({"digest": shipped.digest} | changes)))

    async def frame(self, frame_type: FrameType) -> Frame:
        """The next frame of that type."""
        while True:
            data = await self.process.stdin.read(65536)
            assert data, "the front-end has gone"
            for frame in self._decoder.feed(data):
                if frame.type == frame_type:
                    return frame

    async def get_ready(self) -> None:
        await self.hello()
        await self.frame(FrameType.START)
        self.say(FrameType.READY, Ready())


async def get_ready(process: Process) -> None:
    """A runner that gets ready and stays."""
    await Played(process).get_ready()
    await process.stdin.read()
