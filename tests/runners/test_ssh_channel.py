"""A command's channel on OpenSSH's sshd, down to the TCP segments that it takes."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
import uvloop

from llmrelay.config import Config
from llmrelay.runners import reach
from llmrelay.runners.jump import Jumps
from llmrelay.runners.spec import HostSpec
from llmrelay.runners.ssh.channel import Channel
from llmrelay.values import HostAddress
from tests.helpers.openssh import OpenSSHServer

LIMIT_S = 20.0
# Where Linux's tcp_info (linux/tcp.h) has tcpi_data_segs_out.
DATA_SEGMENTS_OUT = struct.Struct("=156xI")


class Echoed:
    """What a command has sent back."""

    def __init__(self) -> None:
        self.said = b""
        self.news = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self.said += data
        self.news.set()

    def feed_stderr(self, data: bytes) -> None:
        raise AssertionError(data)

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        self.news.set()

    async def until(self, expected: bytes) -> None:
        while len(self.said) < len(expected):
            self.news.clear()
            await self.news.wait()
        assert self.said == expected


def data_segments_out(channel: Channel) -> int:
    assert channel._channel is not None
    sock = channel._channel.get_extra_info("socket")
    # uvloop's sockets cannot be asked.
    with socket.socket(fileno=socket.dup(sock.fileno())) as asked:
        info = asked.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_OUT.size)
    count: int = DATA_SEGMENTS_OUT.unpack(info)[0]
    return count


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="is Linux's")
def test_what_is_written_at_once_wakes_sshd_once(sshd: OpenSSHServer) -> None:
    config = Config(ssh_config=sshd.ssh_config("target"))
    host = HostSpec(HostAddress("target"), "python3", "http://upstream")

    async def subject() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            Jumps(config) as jumps,
            reach.connect(host, config, jumps) as connection,
        ):
            echoed = Echoed()
            channel = await connection.open("cat", echoed)
            assert isinstance(channel, Channel)
            channel.write(b"a")
            await echoed.until(b"a")
            before = data_segments_out(channel)
            channel.write(b"b")
            assert data_segments_out(channel) - before == 1
            await echoed.until(b"ab")

    uvloop.run(subject())
