"""What the body of a request is: of which type, whether text, or JSON.

JSON is read at once, however many things are in it: a body of some megabytes may be millions of
lists and nothing else, and what reads it holds up all other exchanges. Pure. Used by chat.py,
openai.py and plain.py.
"""

from __future__ import annotations

import gc
import json
from typing import Any, Final

from ..errors import BadRequest, UnsupportedMediaType
from ..http.events import Request

# Below that it makes no difference.
_LONG_BYTES = 64 * 1024
# A byte in eight of the longest body: no text has so many, were it a program's.
_MAX_BRACKETS = 1024 * 1024


def media_type(request: Request) -> str:
    """A body's, without its parameters; empty if it says none."""
    return (request.headers.get("content-type") or "").partition(";")[0].strip().lower()


def check_coding(request: Request) -> None:
    """Refuses a compressed body.

    Raises:
        UnsupportedMediaType: it is one.
    """
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType("The body is read as it is: send it without Content-Encoding.")


def check_text(body: bytes, what: str = "prompt") -> None:
    """Refuses what is no text.

    Args:
        what: it is here.

    Raises:
        BadRequest: it is empty or not UTF-8.
    """
    if not body:
        raise BadRequest(f"The body is empty; it has to be the {what}: curl -d 'Explain SSH.' …")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The {what} is not UTF-8: byte {body[error.start]:#04x} at {error.start}."
        ) from None


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
        return _load(body)
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        raise ValueError(f"it has more than {_MAX_BRACKETS} lists and objects")
    # Looks at all of them again and again meanwhile, and finds nothing: three quarters of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _load(body)
    finally:
        if collects:
            gc.enable()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# json.loads() makes one for each call.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)


def _load(body: bytes) -> Any:
    return _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
