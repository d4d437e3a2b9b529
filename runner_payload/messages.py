"""The frames' JSON payloads: a class for each, checked as it is decoded.

Shared by both sides and sans-IO, as protocol.py, which says which frame carries which. Whatever the
peer sends is a message of the declared types or a RemoteProtocolError.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeVar

from .protocol import RemoteProtocolError

# What json.loads() does for text, without its guess at which encoding bytes have: it is UTF-8 here.
_parse = json.JSONDecoder().decode


def _load(payload: bytes) -> dict[str, Any]:
    try:
        value = _parse(payload.decode())
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"a control payload is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError("a control payload is not a JSON object")
    return value


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond any float
        return False


M = TypeVar("M", bound="Message")


class _Field(NamedTuple):
    """What decode() has to know of a message's field."""

    name: str
    required: bool
    declared: str
    kinds: frozenset[type]  # that JSON makes: a bool is an int to Python, but not on the wire
    is_float: bool
    is_pairs: bool


@cache
def _fields_of(message: type[Message]) -> tuple[_Field, ...]:
    known = []
    for each in fields(message):
        kinds = _KINDS[str(each.type)]
        required = each.default is MISSING
        known.append(
            _Field(each.name, required, str(each.type), kinds, float in kinds, list in kinds)
        )
    return tuple(known)


# Header fields: names in lower case, and values, whose characters stand for bytes (Latin-1) and do
# not end the field (RFC 9110, section 5.5).
Pairs = tuple[tuple[str, str], ...]
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_KINDS: dict[str, frozenset[type]] = {
    "str": frozenset({str}),
    "int": frozenset({int}),
    "bool": frozenset({bool}),
    "float": frozenset({int, float}),
    "str | None": frozenset({str, type(None)}),
    "int | None": frozenset({int, type(None)}),
    "float | None": frozenset({int, float, type(None)}),
    "Pairs": frozenset({list}),
}


def _pairs(items: Any) -> Pairs | None:
    """A JSON array of header fields; None if it is something else."""
    pairs = [tuple(item) if isinstance(item, list) else () for item in items]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            return None
        if not (_FIELD_NAME.fullmatch(pair[0]) and FIELD_VALUE.fullmatch(pair[1])):
            return None
    return tuple(pairs)


_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Message:
    """A JSON payload. Fields that are not known are skipped, so a newer peer may say more."""

    def encode(self) -> bytes:
        # A lone surrogate cannot stand in UTF-8; one in a prompt's parameter is replaced.
        return _dumps(vars(self)).encode("utf-8", "replace")

    @classmethod
    def decode(cls: type[M], payload: bytes) -> M:
        """The message in `payload`, every field of its declared type.

        Raises:
            RemoteProtocolError: not JSON, a field missing, or one of another type.
        """
        value = _load(payload)
        known = {}
        for name, required, declared, kinds, is_float, is_pairs in _fields_of(cls):  # type: ignore[arg-type]
            if name not in value:
                if required:
                    raise RemoteProtocolError(f"{cls.__name__} without {name}")
                continue
            item = value[name]
            if type(item) not in kinds:
                raise RemoteProtocolError(f"{cls.__name__}.{name} is not {declared}")
            if is_float and item is not None and not _is_finite(item):
                raise RemoteProtocolError(f"{cls.__name__}.{name} is no finite number")
            if is_pairs and (item := _pairs(item)) is None:
                raise RemoteProtocolError(f"{cls.__name__}.{name} is no header fields")
            known[name] = item
        return cls(**known)


@dataclass(frozen=True)
class Hello(Message):
    """What the runner is. Sent before `openai` is imported, so its version is the metadata's.

    Attributes:
        max_calls: how many calls the host's limit of open files allows at once.
    """

    protocol: int
    digest: str
    python: str
    executable: str
    openai: str | None
    uvloop: str | None
    pid: int
    max_calls: int


@dataclass(frozen=True)
class Start(Message):
    """The key, once per link, and what holds for all calls.

    Attributes:
        sdk: which of the openai package's clients speaks to upstream: "openai", "azure", "bedrock"
            or "vertex".
        adapter: which adapter of the runner's turns requests into upstream's own; "" for none.
        native: paths of upstream's own API, with blanks between: what is asked there is not the
            openai package's to understand.
        key_header: the header that carries the key there, if it is not Authorization; else "".
        max_tokens_field: what upstream calls the limit of a chat completion.
        ask_usage: upstream is asked to count a stream's tokens where the client did not ask.
    """

    api_key: str
    base_url: str
    max_body_bytes: int
    window_bytes: int
    timeout_s: float
    delta_timeout_s: float
    ping_interval_s: float
    ping_timeout_s: float
    sdk: str = "openai"
    adapter: str = ""
    native: str = ""
    key_header: str = ""
    max_tokens_field: str = "max_tokens"
    ask_usage: bool = False

    def __repr__(self) -> str:
        return f"Start(api_key='***', base_url={self.base_url!r})"


@dataclass(frozen=True)
class Ready(Message):
    """`openai` is imported and calls are taken."""

    import_s: float = 0.0


@dataclass(frozen=True)
class Key(Message):
    """The key for calls that begin from now on, in place of START's."""

    api_key: str

    def __repr__(self) -> str:
        return "Key(api_key='***')"


@dataclass(frozen=True)
class GoAway(Message):
    """The sender takes (runner) or sends (front-end) no new calls; those under way go on."""

    reason: str


@dataclass(frozen=True)
class Call(Message):
    """A chat completion. The prompt follows as DATA, up to an END.

    Attributes:
        kind: "chat" for a prompt, or "messages" for the JSON of a whole conversation in its place
            (OpenAI reference, "Create chat completion", `messages`).
        timeout_s: the longest silence before the first delta, in seconds; None for START's.
        retries: how often the runner may ask upstream again, should it fail before that.
    """

    model: str
    system: str = ""
    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    kind: str = "chat"
    timeout_s: float | None = None
    retries: int = 2

    def encode(self) -> bytes:
        # A system prompt is not kept.
        return Message.encode(self) if self.system else _encode_call(self)

    def __repr__(self) -> str:
        return f"Call({self.kind}, model={self.model!r})"


@lru_cache(maxsize=16)  # most are like one before, as the prompt is not in it
def _encode_call(call: Call) -> bytes:
    return Message.encode(call)


@dataclass(frozen=True)
class Request(Message):
    """A request for upstream, relayed as it is. Its body follows as DATA, up to an END.

    Attributes:
        method: GET, POST or DELETE.
        path: below the base URL, without a slash before it.
        query: as the client wrote it, still percent-encoded.
        headers: those that go up.
        model: what upstream calls the model; put into the body where that says `asked_model`.
        asked_model: what the client calls it; "" if the body names none.
        model_at: of a multipart body, where the model's name begins in it, in bytes.
        streamed: upstream is sent the body as it comes, and may answer before its end; else the
            body is whole before upstream hears of it.
        length: of the body in bytes, where it is known.
        transcript: the answer is wanted as plain text, out of a transcription of whatever form.
        timeout_s, retries: as Call's.
    """

    method: str
    path: str
    query: str = ""
    headers: Pairs = ()
    model: str = ""
    asked_model: str = ""
    model_at: int | None = None
    streamed: bool = False
    length: int | None = None
    transcript: bool = False
    timeout_s: float | None = None
    retries: int = 2

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path}, model={self.model!r})"


@dataclass(frozen=True)
class Response(Message):
    """The head of upstream's answer to a Request; its body follows as DATA, up to an END.

    Attributes:
        headers: those that come down.
    """

    status: int
    headers: Pairs = ()


@dataclass(frozen=True)
class End(Message):
    """Nothing more comes. From the runner: upstream's answer is whole.

    Attributes:
        input_tokens, output_tokens: upstream's count, where it gave one.
    """

    finish_reason: str | None = None
    retries: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Failure(Message):
    """The payload of ERROR: the call ended without a whole answer.

    Attributes:
        code: the `code` of one of the front-end's errors.
        message: one sentence for the client; holds no key.
        retry_after_s: upstream's Retry-After in seconds.
        status, headers, body: upstream's own answer, where it is one that clients of the API
            understand (OpenAI reference, "The error object"); else 0 and empty.
    """

    code: str
    message: str
    retry_after_s: float | None = None
    status: int = 0
    headers: Pairs = ()
    body: str = ""
