"""A body's JSON, read at once, however many things are in it.

A body of some megabytes may be millions of lists and nothing else, and what reads it holds up all
other exchanges. Pure. Used by chat.py and openai.py.
"""

from __future__ import annotations

import gc
import json
from typing import Any

from ..errors import BadRequest

# Below that it makes no difference.
_LONG_BYTES = 64 * 1024
# A byte in eight of the longest body: no text has so many, were it a program's.
_MAX_BRACKETS = 1024 * 1024


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that `body` is.

    Raises:
        BadRequest: it is none, or one that nobody would send.
    """
    try:
        fields = _parse(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise BadRequest("The body is JSON and no object.")
    return fields


def _parse(body: bytes) -> Any:
    if len(body) < _LONG_BYTES:
        return json.loads(body, parse_constant=_no_constant)
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        raise ValueError(f"it has more than {_MAX_BRACKETS} lists and objects")
    # Looks at all of them again and again meanwhile, and finds nothing: three quarters of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(body, parse_constant=_no_constant)
    finally:
        if collects:
            gc.enable()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
