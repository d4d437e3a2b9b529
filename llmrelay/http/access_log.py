"""The access log: one line for each exchange, for people or (as fields) for collectors.

No text of a client stands in it that could pass for another field or line; the path goes in without
its query, which may hold a prompt. Knows an exchange that has ended. Written by connection.py.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Final

from .exchange import Exchange
from .forwarded import Origin

logger = logging.getLogger("llmrelay.access")

_WORD: Final = re.compile(r"[!#-<>-~]+")  # visible ASCII but for quote and equals sign


# What is alike in all records.
_RECORD: Final = vars(logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", (), None))


class _Line(logging.LogRecord):
    """A record that says of itself what the log shows; logger.info() takes as long as all else."""

    def __init__(self, message: str, fields: dict[str, object]) -> None:
        self.__dict__.update(_RECORD, created=time.time(), msg=message, fields=fields)


def write(
    exchange: Exchange, peer: str, origin: Origin, begun_at_s: float, ended_at_s: float
) -> None:
    """The line of an exchange that has just ended.

    Args:
        peer, origin: who holds the other end of its connection (peer.py).
        begun_at_s, ended_at_s: the loop's time, in seconds.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    client = peer
    if exchange.client_address is not origin:  # equal if proxy and client share a machine
        client = str(exchange.client_address)
        exchange.log_fields["via"] = peer
    request, more = exchange.request, exchange.log_fields
    duration_ms = _ms(ended_at_s - begun_at_s)
    first_byte_ms = exchange.first_byte_at_s and _ms(exchange.first_byte_at_s - begun_at_s)
    line = (
        f"{client} {request.method} {request.path} {exchange.status} {exchange.bytes_written} B"
        f" {duration_ms} ms (first byte {first_byte_ms} ms) {exchange.ending} {exchange.request_id}"
    )
    for name, value in more.items():
        line += f" {name}={_shown(value)}"
    fields: dict[str, object] = {
        "peer": client,
        "method": request.method,
        "path": request.path,
        "status": exchange.status,
        "bytes": exchange.bytes_written,
        "duration_ms": duration_ms,
        "first_byte_ms": first_byte_ms,
        "ended": exchange.ending,
        "request_id": exchange.request_id,
        **more,
    }
    logger.handle(_Line(line, fields))


def _shown(value: object) -> str:
    """A field's value as one word, so that no client's text can pass for another field."""
    text = str(value)
    return text if text.isalnum() or _WORD.fullmatch(text) else json.dumps(text)


def _ms(seconds: float) -> float:
    return int(seconds * 10_000 + 0.5) / 10  # round() takes three times as long
