"""What `/v1/…` means: a request that upstream gets as the client has sent it.

Pure: says which paths there are, what of a request goes up, and which model it is about, which is
read out of a JSON body or a form, as runners are chosen by it. Knows no sockets and no runners.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runner_payload.messages import Request as UpstreamRequest
from runner_payload.multipart import (
    InvalidMultipart,
    MultipartDecoder,
    PartBegun,
    PartData,
    PartEnded,
    boundary_of,
)

from ..config import Config
from ..errors import BadRequest, MethodNotAllowed, NotFound
from ..http.events import Request
from . import bodies
from .errors import V1

METHODS = ("GET", "POST", "DELETE")
# What of a client's headers goes up. Its Authorization is ours, and its cookies are nobody's.
_UP = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "http-referer",
        "idempotency-key",
        "openai-beta",
        "x-client-request-id",
        "x-title",
    }
)
# No way up, no other host, and nothing that one reads as a part of the path and another does not.
_PATH = re.compile(r"(?:(?!\.)[A-Za-z0-9_.~:-]+/)*(?!\.)[A-Za-z0-9_.~:-]+")
_A_MODEL = re.compile(r"\Amodels/.+")
_MAX_MODEL_BYTES = 256
# What can be asked again: all that it does is to cost. What else there may be (files, batches) is
# asked again only if the client itself has said that it may be.
_REPEATABLE = re.compile(
    r"(chat/)?completions|responses|embeddings|moderations|rerank|messages(/count_tokens)?"
    r"|images/[a-z]+|audio/[a-z]+"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a body is about.

    Attributes:
        model: None if it names none.
        at: where its name stands in a form, in bytes; None for JSON.
        events: an event stream is asked for.
    """

    model: str | None = None
    at: int | None = None
    events: bool = False


def check_head(request: Request, config: Config) -> str:
    """The path below /v1, if there is one that may be asked for.

    Raises:
        NotFound: it is not allowed.
        MethodNotAllowed, UnsupportedMediaType
    """
    path = request.path.removeprefix(V1)
    # A model's name may have anything in it; it is looked up here, and goes nowhere.
    known = _A_MODEL.sub("models/x", path)
    if not _PATH.fullmatch(known) or not _allowed(config.allowed_paths).fullmatch(known):
        raise NotFound(f"There is no {request.path} here; --allow-path says what there is.")
    # The list is of all runners together: there is no upstream to change it at.
    methods = ("GET",) if is_about_models(path) else METHODS
    if request.method not in methods:
        raise MethodNotAllowed(f"{request.path} takes {', '.join(methods)} alone.", allow=methods)
    bodies.check_coding(request)
    return path


def is_about_models(path: str) -> bool:
    """Whether it is the list of models, or one of them."""
    return path.partition("/")[0] == "models"


def is_repeatable(request: Request, path: str) -> bool:
    """Whether upstream may be asked more than once (RFC 9110, section 9.2.2)."""
    if request.method != "POST" or request.headers.get("idempotency-key") is not None:
        return True
    return _REPEATABLE.fullmatch(path) is not None


def is_form(request: Request) -> bool:
    """Whether the body is a form, which may be long and goes up as it comes."""
    return bodies.media_type(request) == "multipart/form-data"


def subject_of_json(body: bytes) -> Subject:
    """What a JSON body is about.

    Raises:
        BadRequest: it is none.
    """
    fields = bodies.parse_object(body)
    model = fields.get("model")
    return Subject(_model(model) if model is not None else None, None, fields.get("stream") is True)


def subject_of_form(request: Request, begun: bytes, *, whole: bool) -> Subject:
    """What a form is about, by its beginning.

    Raises:
        BadRequest: it is none.
    """
    model: bytearray | None = None
    at, name, events = None, "", False
    try:
        decoder = MultipartDecoder(boundary_of(request.headers.get("content-type") or ""))
        for event in decoder.feed(begun):
            if isinstance(event, PartBegun):
                name = event.name if event.filename is None else ""
                if name == "model":
                    if model is not None:
                        raise BadRequest("The form has two models.")
                    model = bytearray()
            elif isinstance(event, PartData) and name == "model" and model is not None:
                at = event.at if at is None else at
                model += event.data
            elif isinstance(event, PartData) and name == "stream":
                events = event.data.lower() == b"true"
            elif isinstance(event, PartEnded):
                name = ""
        if whole:
            decoder.finish()
    except InvalidMultipart as error:
        raise BadRequest(str(error)) from error
    if model is None or name == "model":  # which is not whole, and longer than any
        return Subject(events=events)
    try:
        return Subject(_model(model.decode()), at, events)
    except UnicodeDecodeError:
        raise BadRequest("The form's model is not UTF-8.") from None


def upstream_request(
    request: Request, path: str, subject: Subject, request_id: str, *, streamed: bool
) -> UpstreamRequest:
    """The request that goes up.

    Raises:
        BadRequest: it has a header that cannot.
    """
    headers = {name: value for name, value in request.headers if name in _UP}
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise BadRequest(f"The header {name} has to be printable ASCII.")
    if request.framing is not None and not is_form(request):
        headers["content-type"] = "application/json"  # curl's -d says otherwise
    headers.setdefault("x-client-request-id", request_id)
    model = subject.model or ""
    return UpstreamRequest(
        method=request.method,
        path=path,
        query=request.query,
        headers=tuple(headers.items()),
        model=model,
        asked_model=model,
        model_at=subject.at,
        streamed=streamed,
        length=request.framing if isinstance(request.framing, int) else None,
        retries=2 if is_repeatable(request, path) else 0,
    )


def model_list(models: dict[str, dict[str, Any]]) -> bytes:
    """`GET /v1/models` (OpenAI reference, "List models")."""
    return json.dumps({"object": "list", "data": list(models.values())}).encode() + b"\n"


def one_model(model: dict[str, Any]) -> bytes:
    """`GET /v1/models/{model}` (OpenAI reference, "Retrieve model")."""
    return json.dumps(model).encode() + b"\n"


def _model(name: object) -> str:
    # Half a surrogate pair, which JSON can have, is no text.
    encoded = name.encode("utf-8", "replace") if isinstance(name, str) else b""
    if not 0 < len(encoded) <= _MAX_MODEL_BYTES or encoded.decode() != name:
        raise BadRequest(f"model has to be text of 1 to {_MAX_MODEL_BYTES} bytes.")
    return encoded.decode()


@lru_cache(maxsize=8)
def _allowed(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Matches the paths that one of the patterns allows; * is any one part."""
    parts = (re.escape(pattern).replace(r"\*", "[^/]*") for pattern in patterns)
    return re.compile("|".join(parts))
