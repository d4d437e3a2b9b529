"""What `POST /chat` means: a prompt in, the answer's text out.

Pure: a request's query and body become a Call and a prompt, or a BadRequest that says what is
wrong. The body is the prompt, byte for byte, whatever Content-Type curl puts beside it. Knows no
sockets and no runners; relay.py does the rest.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

from runner_payload.messages import Call

from ..config import Config
from ..errors import BadRequest, LengthRequired, UnsupportedMediaType
from ..http.events import Request
from ..values import count, number, parse_model

# The finish reason is known only after the text, so it comes in the trailer section
# (RFC 9112, section 7.1.2), which `curl -i` does not show and `curl -v --raw` does.
FINISH_REASON = "X-Finish-Reason"

HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # nginx would otherwise collect the answer before it passes it on.
    ("X-Accel-Buffering", "no"),
    ("Trailer", FINISH_REASON),
]

_MAX_QUERY_FIELDS = 32


def _text(text: str) -> str:
    return text


def _parse_group(text: str) -> str:
    if not text or len(text) > 256 or not text.isprintable():
        raise ValueError("a group's name is 1 to 256 printable characters")
    return text


# Query parameters: those of the command line that a call may override.
_CALL: dict[str, Callable[[str], Any]] = {
    "model": parse_model,
    "system": _text,
    "max_tokens": count(1),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
}
# And the runners that it is for.
_PARAMETERS = {**_CALL, "group": _parse_group}
GROUP_HEADER = "X-LLMRelay-Group"

# Of a prompt, in bytes, that the next one of the same conversation begins with, too: whoever sends
# a history with each prompt adds to its end.
_OPENING_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a request asks for.

    Attributes:
        call: without its prompt, which is the body.
        group: of the runners, the group that it is for; None for any.
    """

    call: Call
    group: str | None


def parse_request(request: Request, config: Config) -> ChatRequest:
    """What query and headers ask for; what they do not name is as configured.

    Raises:
        BadRequest: a parameter that is not known, twice there, or not what it must be.
    """
    chosen = _parse_query(request)
    group = request.headers.get(GROUP_HEADER.lower())
    if group is not None:
        if chosen.setdefault("group", group) != group:
            raise BadRequest(f"The parameter group and {GROUP_HEADER} name different groups.")
        try:
            _parse_group(group)
        except ValueError as error:
            raise BadRequest(f"{GROUP_HEADER} cannot be used: {error}.") from error
    call = {name: chosen.get(name, getattr(config, name)) for name in _CALL}
    return ChatRequest(Call(**call), chosen.get("group"))


def conversation(call: Call, prompt: bytes) -> bytes:
    """What all prompts of one conversation have in common, digested.

    That is how it begins: a runner's upstream may have that in its cache.
    """
    opening = b"\0".join((call.model.encode(), call.system.encode(), prompt[:_OPENING_BYTES]))
    return blake2b(opening, digest_size=16).digest()


def _parse_query(request: Request) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    try:
        fields = parse_qsl(
            request.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError as error:
        raise BadRequest(f"The query cannot be read: {error}.") from error
    for name, text in fields:
        parse = _PARAMETERS.get(name)
        if parse is None:
            near = difflib.get_close_matches(name, _PARAMETERS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_PARAMETERS)}."
            raise BadRequest(f"There is no parameter {name!r}; {hint}")
        if name in chosen:
            raise BadRequest(f"The parameter {name} is there twice.")
        try:
            chosen[name] = parse(text)
        except ValueError as error:
            raise BadRequest(f"The parameter {name} cannot be used: {error}.") from error
    return chosen


def check_head(request: Request) -> None:
    """Refuses what cannot bring a prompt, before its body is read.

    Raises:
        LengthRequired: there is no body at all (RFC 9110, section 15.5.12).
        UnsupportedMediaType: the body is compressed (RFC 9110, section 8.4).
    """
    if request.framing is None:
        raise LengthRequired("There is no body; it has to be the prompt: curl -d 'Explain SSH.' …")
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType("The prompt is read as it is: send it without Content-Encoding.")


def check_prompt(body: bytes) -> bytes:
    """The body, if it is a prompt.

    Raises:
        BadRequest: it is empty or not UTF-8.
    """
    if not body:
        raise BadRequest("The body is empty; it has to be the prompt: curl -d 'Explain SSH.' …")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The prompt is not UTF-8: byte {body[error.start]:#04x} at {error.start}."
        ) from None
    return body
