"""Upstream's answer to a request that is relayed, by whatever client it was asked.

Knows no openai, so that relaying.py can make one, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """An answer's head, and its body as it comes.

    Attributes:
        headers: to be looked up in lower case.
        chunks: its body, in the coding that `headers` name, as each read brings it.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
