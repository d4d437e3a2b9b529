"""The bytes that bulk.py sends up and has sent down: many, cheap to make, and no two blocks alike.

So whatever is lost, doubled or moved on the way changes the digest. Pure and shared by the
simulator and its client.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

BLOCK_BYTES = 1024 * 1024
_NUMBER_BYTES = 8
_NOISE = random.Random(0).randbytes(BLOCK_BYTES - _NUMBER_BYTES)  # noqa: S311 - no secret


def blocks(size_bytes: int) -> Iterator[bytes]:
    """So many bytes, a block at a time."""
    for number in range(-(-size_bytes // BLOCK_BYTES)):
        block = number.to_bytes(_NUMBER_BYTES, "big") + _NOISE
        yield block[: size_bytes - number * BLOCK_BYTES]


def digest(size_bytes: int, before: bytes = b"", behind: bytes = b"") -> str:
    """Their SHA-256, with what stands around them."""
    found = hashlib.sha256(before)
    for block in blocks(size_bytes):
        found.update(block)
    found.update(behind)
    return found.hexdigest()
