"""The frame protocol between front-end and runner: codec, limits, credit.

Shared by both sides and sans-IO: bytes in, frames out; no clock, socket, logger or `async`.
Whatever the peer sends parses or raises RemoteProtocolError and nothing else, and no more than one
frame's limit is ever held.

A frame is a header of nine bytes (type, call id, payload length; big-endian) and a payload. Call
id 0 is the link itself. DATA payloads are raw bytes, CREDIT is a 32-bit number, PING and PONG are
eight bytes that come back as they went, CANCEL is empty; every other payload is a JSON object,
described by one of the classes of messages.py.

    front-end                                    runner
        |  <- marker, HELLO (version, digest, limits)  |     the link
        |     START (the key, once) ->                 |
        |  <- READY                                    |
        |     CALL, DATA*, END ->                      |     a call: the prompt goes up,
        |  <- DATA*, END or ERROR                      |     deltas come down,
        |     CANCEL ->                                |     any time before the end
        |     REQUEST, DATA*, END ->                   |     a call, too: a request for upstream,
        |  <- RESPONSE, DATA*, END or ERROR            |     relayed as it is
        |  <- CREDIT, PING, PONG, GOAWAY ->            |     both ways
        |     KEY ->                                   |     another key, for calls to come
"""

from __future__ import annotations

import struct
from enum import IntEnum

PROTOCOL_VERSION = 1

# The runner's first bytes on stdout. Whatever a login prints before them is skipped; a NUL keeps
# them out of any text, and they stand in no command line that a wrapper could echo.
MARKER = b"\0llmrelay\0runner\0"
# A login that prints more than this before the marker is no login that we understand.
MAX_NOISE_BYTES = 256 * 1024

HEADER = struct.Struct(">BII")
HEADER_BYTES = HEADER.size
_pack, _unpack_from = HEADER.pack, HEADER.unpack_from
_CREDIT = struct.Struct(">I")

# Piece size for DATA: small enough that no call holds up the channel for the others, large enough
# that asyncssh and sshd move it in one packet.
DATA_BYTES = 32 * 1024
MAX_CALL_ID = 2**32 - 1


class RemoteProtocolError(Exception):
    """The peer sent what the protocol does not allow. The link cannot be used any more."""


class FrameType(IntEnum):
    """What a frame is. The numbers are the wire's."""

    HELLO = 1
    START = 2
    READY = 3
    PING = 4
    PONG = 5
    GOAWAY = 6
    KEY = 7
    CALL = 16
    DATA = 17
    END = 18
    ERROR = 19
    CANCEL = 20
    CREDIT = 21
    REQUEST = 22
    RESPONSE = 23


LINK_FRAMES = frozenset(t for t in FrameType if t < FrameType.CALL)

# Most frames are this, so codec and link compare plain numbers: an enum's cost several times more.
DATA = int(FrameType.DATA)

# The longest payload of each type, in bytes. CALL holds a system prompt that came in a URL, START
# a key and a URL, ERROR what upstream said in full; a peer that announces more is refused before a
# byte of it is kept.
MAX_PAYLOAD_BYTES: dict[int, int] = {
    FrameType.HELLO: 16 * 1024,
    FrameType.START: 64 * 1024,
    FrameType.READY: 1024,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.GOAWAY: 4 * 1024,
    FrameType.KEY: 64 * 1024,
    FrameType.CALL: 1024 * 1024,
    FrameType.DATA: 64 * 1024,
    FrameType.END: 16 * 1024,
    FrameType.ERROR: 128 * 1024,
    FrameType.CANCEL: 0,
    FrameType.CREDIT: 4,
    FrameType.REQUEST: 128 * 1024,
    FrameType.RESPONSE: 64 * 1024,
}
_MAX_DATA_BYTES = MAX_PAYLOAD_BYTES[DATA]


# The unit on the channel: type, call id, payload. A plain tuple, as each delta is one.
Frame = tuple[int, int, bytes]


def encode_frame(frame_type: int, call_id: int, payload: bytes = b"") -> bytes:
    """A frame's bytes. The caller keeps to MAX_PAYLOAD_BYTES; the peer checks."""
    return HEADER.pack(frame_type, call_id, len(payload)) + payload


def encode_data(call_id: int, payload: bytes) -> bytes:
    """A DATA frame: encode_frame(), where it is called for each delta."""
    return _pack(DATA, call_id, len(payload)) + payload


class FrameDecoder:
    """Bytes in any split -> frames.

    `pending_bytes` is what is held back: always less than one frame with its header.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = HEADER_BYTES

    @property
    def pending_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that `data` completes.

        Raises:
            RemoteProtocolError: an unknown type, a length over the type's limit, or a call id where
                none belongs. The decoder is of no use afterwards.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        at, end = 0, len(data)
        last = end - HEADER_BYTES
        self._needed = HEADER_BYTES
        while at <= last:
            frame_type, call_id, length = _unpack_from(data, at)
            if frame_type != DATA or length > _MAX_DATA_BYTES or not call_id:
                _check(frame_type, call_id, length)
            start = at + HEADER_BYTES
            behind = start + length
            if behind > end:
                self._needed = HEADER_BYTES + length
                break
            frames.append((frame_type, call_id, data[start:behind]))
            at = behind
        if at < end:
            rest += data[at:]
        return frames


def _check(frame_type: int, call_id: int, length: int) -> None:
    limit = MAX_PAYLOAD_BYTES.get(frame_type)
    if limit is None:
        raise RemoteProtocolError(f"frame of unknown type {frame_type}")
    if length > limit:
        name = FrameType(frame_type).name
        raise RemoteProtocolError(f"{name} of {length} bytes; the limit is {limit}")
    if (call_id == 0) != (frame_type in LINK_FRAMES):
        raise RemoteProtocolError(f"{FrameType(frame_type).name} with call id {call_id}")


# --- Credit -------------------------------------------------------------------------------------


def encode_credit(call_id: int, amount: int) -> bytes:
    """A CREDIT frame that hands `amount` bytes back."""
    return encode_frame(FrameType.CREDIT, call_id, _CREDIT.pack(amount))


def decode_credit(payload: bytes) -> int:
    """The amount in a CREDIT frame, in bytes.

    Raises:
        RemoteProtocolError: not four bytes, or no credit at all.
    """
    if len(payload) != _CREDIT.size:
        raise RemoteProtocolError(f"CREDIT of {len(payload)} bytes")
    amount: int = _CREDIT.unpack(payload)[0]
    if amount == 0:
        raise RemoteProtocolError("CREDIT of nothing")
    return amount
