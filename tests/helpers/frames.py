"""Frames with names for their parts, which the product spares itself for each delta."""

from __future__ import annotations

from typing import NamedTuple

from runner_payload.protocol import FrameDecoder


class Frame(NamedTuple):
    """One frame."""

    type: int
    call_id: int
    payload: bytes


class Frames:
    """FrameDecoder, for tests."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that `data` completes."""
        return [Frame(*frame) for frame in self._decoder.feed(data)]
