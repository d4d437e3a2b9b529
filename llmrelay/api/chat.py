"""What `POST /chat` means: a prompt in, the answer's text out.

The body is the prompt, byte for byte, whatever Content-Type curl puts beside it; but with
`application/json` it is an object with a prompt or a whole conversation, and with
`multipart/form-data` a form with a prompt and images. Pure: a request becomes a Call and its body,
or a BadRequest that says what is wrong. Knows no sockets and no runners; relay.py does the rest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

from runner_payload.messages import Call
from runner_payload.multipart import (
    InvalidMultipart,
    MultipartDecoder,
    PartBegun,
    PartData,
    boundary_of,
)

from ..config import Config
from ..errors import BadRequest, ContentTooLarge, LengthRequired
from ..http.events import Request
from ..peer_text import one_line
from ..values import count, number, parse_model
from . import bodies
from .accept import preferred
from .answers import Events, Form, Json, Text
from .parameters import Parameters, parse_group, parse_text

# Those of the command line that a call may override.
_CALL: dict[str, Callable[[str], Any]] = {
    "model": parse_model,
    "system": parse_text,
    "max_tokens": count(1),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
}
# And the runners that it is for.
_PARAMETERS = {**_CALL, "group": parse_group}

# Of a prompt, in bytes, that the next one of the same conversation begins with, too: whoever sends
# a history with each prompt adds to its end.
_OPENING_BYTES = 1024

# By what they begin with: clients name files as they like.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
# What a form may have in an image's place.
_URLS = (b"https://", b"http://", b"data:image/")

# The forms that an answer can have, the first one for whoever does not care.
_FORMS: dict[str, Callable[[str], Form]] = {
    "text/plain": lambda model: Text(),
    "text/event-stream": Events,
    "application/json": Json,
}


class ChatRequest(NamedTuple):
    """What a request asks for.

    Attributes:
        call: without its body.
        body: the prompt, or the JSON of the messages, as the call's kind says.
        group: of the runners, the group that it is for; None for any.
        form: makes the answer's.
    """

    call: Call
    body: bytes
    group: str | None
    form: Callable[[], Form]


def check_head(request: Request) -> None:
    """Refuses what cannot bring a prompt, before its body is read.

    Raises:
        LengthRequired: there is no body at all (RFC 9110, section 15.5.12).
        UnsupportedMediaType: the body is compressed (RFC 9110, section 8.4).
        BadRequest: a parameter in the query cannot be used.
    """
    if request.framing is None:
        raise LengthRequired("There is no body; it has to be the prompt: curl -d 'Explain SSH.' …")
    bodies.check_coding(request)
    Parameters(request, _PARAMETERS)


def parse(request: Request, body: bytes, config: Config) -> ChatRequest:
    """What a request asks for; what it does not name is as configured.

    Raises:
        BadRequest: a parameter that is not known, twice there, or not what it must be; or there is
            no prompt.
        ContentTooLarge: the messages would be too long for a runner.
    """
    parameters = Parameters(request, _PARAMETERS)
    kind = bodies.media_type(request)
    messages: list[dict[str, Any]] | None = None
    if kind == "application/json":
        messages = _from_json(body, parameters)
    elif kind == "multipart/form-data":
        messages = _from_form(request, body, parameters)
    else:
        bodies.check_text(body)
    said = parameters.said
    call = Call(**{name: said.get(name, getattr(config, name)) for name in _CALL})
    if messages is not None:
        call, body = _conversation(call, messages, own_system="system" in said)
        # Few characters can stand for many: 1e9 is written out.
        if len(body) > config.max_call_bytes:
            raise ContentTooLarge(f"The messages are over {config.max_call_bytes} bytes.")
    make_form = _FORMS[preferred(request.headers.get("accept"), list(_FORMS))]
    return ChatRequest(call, body, said.get("group"), lambda: make_form(call.model))


def conversation(model: str, system: str, body: bytes) -> bytes:
    """What all prompts of one conversation have in common, digested.

    That is how it begins: a runner's upstream may have that in its cache.
    """
    opening = b"\0".join((model.encode(), system.encode(), body[:_OPENING_BYTES]))
    return blake2b(opening, digest_size=16).digest()


# --- Bodies that say more than a prompt ---------------------------------------------------------


def _conversation(
    call: Call, messages: list[dict[str, Any]], *, own_system: bool
) -> tuple[Call, bytes]:
    """The call for whole messages, and its body; they may have a system prompt of their own."""
    has_system = any(message.get("role") in ("system", "developer") for message in messages)
    system = call.system if own_system or not has_system else ""
    asked = Call(call.model, system, call.max_tokens, call.temperature, call.top_p, kind="messages")
    try:
        text = json.dumps(messages, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # NaN, 1e999; or nested too deeply
        raise BadRequest(f"The messages cannot be sent on: {error}.") from error
    return asked, text.encode("utf-8", "replace")


def _from_json(body: bytes, parameters: Parameters) -> list[dict[str, Any]]:
    """The messages of an object with `prompt` (and `images`), or `messages`."""
    fields = bodies.parse_object(body)
    prompt, messages = fields.pop("prompt", None), fields.pop("messages", None)
    images = fields.pop("images", None) or []
    if fields.pop("stream", None):
        raise BadRequest(
            "The answer always streams here; for events, send Accept: text/event-stream,"
            " or ask /v1/chat/completions, as OpenAI's clients do."
        )
    for name, value in fields.items():
        if value is not None:  # as good as unsaid, in OpenAI's API
            parameters.take(name, value)
    if (prompt is None) == (messages is None):
        raise BadRequest("The object has to have either prompt or messages.")
    if messages is not None:
        if images or not _are_messages(messages):
            raise BadRequest(
                "messages has to be a list of objects, each with a role; images are in them."
            )
        return list(messages)
    if not isinstance(prompt, str) or not (prompt or images):
        raise BadRequest("prompt has to be text, and not empty.")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise BadRequest("images has to be a list of URLs: data:image/png;base64,… or https://….")
    return _seen(prompt, images)


def _are_messages(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages)
    )


def _from_form(request: Request, body: bytes, parameters: Parameters) -> list[dict[str, Any]]:
    """The messages of a form with `prompt`, which may be a file, and any number of `image`."""
    prompt: str | None = None
    images = []
    for begun, data in _parts(request, body):
        is_image = begun.name in ("image", "images", "images[]")
        if is_image and begun.filename is None and data.startswith(_URLS):
            images.append(_text_of(begun, data))
        elif is_image or (begun.filename is not None and begun.name != "prompt"):
            images.append(_data_url(data))
        elif begun.name != "prompt":
            parameters.take(begun.name, _text_of(begun, data))
        elif prompt is not None:
            raise BadRequest("The form has two prompts.")
        else:
            prompt = _text_of(begun, data)
    if not (prompt or images):
        raise BadRequest("The form has no prompt: curl -F prompt='What is this?' -F image=@a.png …")
    return _seen(prompt or "", images)


def _text_of(begun: PartBegun, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        name = one_line(begun.name, 100)
        raise BadRequest(f"The field {name} of the form is not UTF-8.") from None


def _parts(request: Request, body: bytes) -> Iterator[tuple[PartBegun, bytes]]:
    try:
        decoder = MultipartDecoder(boundary_of(request.headers.get("content-type") or ""))
        events = decoder.feed(body)
        decoder.finish()
    except InvalidMultipart as error:
        raise BadRequest(str(error)) from error
    begun: PartBegun | None = None
    data = bytearray()
    for event in events:
        if isinstance(event, PartBegun):
            begun = event
            data.clear()
        elif isinstance(event, PartData):
            data += event.data
        elif begun is not None:
            yield begun, bytes(data)
            begun = None


def _seen(prompt: str, images: list[str]) -> list[dict[str, Any]]:
    """One message with what is to be seen (OpenAI reference, "Images and vision")."""
    if not images:
        return [{"role": "user", "content": prompt}]
    parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}] if prompt else []
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": parts}]


def _data_url(data: bytes) -> str:
    kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
    if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
        raise BadRequest("A file of the form is no image that models see: PNG, JPEG, GIF or WebP.")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
