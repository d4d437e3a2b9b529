from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, cast

from llmrelay.http.wire import Wire


class PlayedTransport:
    """One whose protocol does not hold its writer, as from Python 3.12 on."""

    def __init__(self) -> None:
        self.protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Writer:
    """What start_server gives; its end closes the transport."""

    def __init__(self, transport: PlayedTransport) -> None:
        self.transport = transport


def test_the_writer_that_was_taken_over_lives_as_long_as_the_connection() -> None:
    async def subject() -> None:
        wire, writer = Wire(), Writer(PlayedTransport())
        wire.take_over(cast(Any, writer))
        known = weakref.ref(writer)
        assert writer.transport.protocol is wire
        del writer
        gc.collect()
        assert known() is not None
        wire.connection_lost(None)
        gc.collect()
        assert known() is None

    asyncio.run(subject())
