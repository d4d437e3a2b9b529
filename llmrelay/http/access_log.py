"""The access log: one line for each exchange, for people or (as fields) for collectors.

No text of a client stands in it that could pass for another field or line; the path goes in without
its query, which may hold a prompt. Knows an exchange that has ended. Written by connection.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Final

from .exchange import Exchange
from .forwarded import Origin

logger = logging.getLogger("llmrelay.access")

_WORD: Final = re.compile(r"[!#-<>-~]+")  # visible ASCII but for quote and equals sign


def write(exchange: Exchange, peer: str, origin: Origin, begun_at_s: float) -> None:
    """The line of an exchange that has just ended.

    Args:
        peer, origin: who holds the other end of its connection (peer.py).
        begun_at_s: the loop's time, in seconds.
    """
    client = peer
    if exchange.client_address is not origin:  # equal if proxy and client share a machine
        client = str(exchange.client_address)
        exchange.log_fields["via"] = peer
    fields: dict[str, object] = {
        "peer": client,
        "method": exchange.request.method,
        "path": exchange.request.path,
        "status": exchange.status,
        "bytes": exchange.bytes_written,
        "duration_ms": _ms(asyncio.get_running_loop().time() - begun_at_s),
        "first_byte_ms": exchange.first_byte_at_s and _ms(exchange.first_byte_at_s - begun_at_s),
        "ended": exchange.ending,
        "request_id": exchange.request_id,
        **exchange.log_fields,
    }
    line = (
        "{peer} {method} {path} {status} {bytes} B {duration_ms} ms"
        " (first byte {first_byte_ms} ms) {ended} {request_id}"
    )
    said = "".join(f" {name}={_shown(value)}" for name, value in exchange.log_fields.items())
    logger.info("%s", line.format_map(fields) + said, extra={"fields": fields})


def _shown(value: object) -> str:
    """A field's value as one word, so that no client's text can pass for another field."""
    text = str(value)
    return text if text.isalnum() or _WORD.fullmatch(text) else json.dumps(text)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
