"""What each provider documents of a request: paths, auth, fields. Data, and the checks on it.

Written from the pages that llmrelay/upstreams.py names, and on purpose not from that table: a slip
there is found here. `Wrong` says what a request has that the provider does not document; what
becomes of it is `providers.py`'s concern. It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import email
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.upstream_connection import Recorded

BEARER = "authorization"


class Wrong(Exception):
    """A request that the provider does not document; says why."""


@dataclass(frozen=True)
class Rules:
    """One provider's.

    Attributes:
        base_path: of its base URL.
        paths: what is there, as it stands below `base_path`, with what kind of request it is.
        elsewhere: what is not below it: a pattern of the whole path -> kind.
        auth: the header with the key; of several, one and no more.
        native_auth: the same for kinds of its own API.
        strict: the fields of a chat completion, all others being refused; None if they are ignored.
        refused: fields of one that are an error, or deprecated.
        query: what stands in each request's query.
        headers: that `native_auth`'s kinds must have.
        needs_key: False where any key is ignored.
    """

    base_path: str
    paths: Mapping[str, str]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    auth: tuple[str, ...] = (BEARER,)
    native_auth: Mapping[str, str] = field(default_factory=dict)
    strict: frozenset[str] | None = None
    refused: frozenset[str] = frozenset()
    query: str = ""
    headers: tuple[str, ...] = ()
    needs_key: bool = True

    def kind(self, recorded: Recorded) -> str:
        """Which of its kinds of request it is.

        Raises:
            Wrong: there is no such path.
        """
        path, _, query = recorded.path.partition("?")
        found = self._find(path)
        if found is None:
            raise Wrong("no such path")
        wanted = "GET" if found.endswith("models") else "POST"
        if recorded.method != wanted:
            raise Wrong(f"{recorded.method} in place of {wanted}")
        if self.query and query != self.query:
            raise Wrong(f"the query is {query!r} and not {self.query!r}")
        return found

    def _find(self, path: str) -> str | None:
        if path.startswith(f"{self.base_path}/"):
            below = path.removeprefix(f"{self.base_path}/")
            if below in self.paths:
                return self.paths[below]
        matches = (kind for pattern, kind in self.elsewhere.items() if re.fullmatch(pattern, path))
        return next(matches, None)


def check(rules: Rules, recorded: Recorded, kind: str, key: str) -> dict[str, Any]:
    """The request's fields, after everything but the fields themselves was checked.

    Raises:
        Wrong: it is not as documented.
    """
    _check_auth(rules, recorded, kind, key)
    if "cookie" in recorded.headers:
        raise Wrong("a client's cookie went up")
    content_type = recorded.headers.get("content-type", "")
    if recorded.method == "GET":
        if recorded.body:
            raise Wrong("a GET with a body")
        return {}
    if kind in FORMS:
        return _form(content_type, recorded.body)
    if content_type.partition(";")[0] != "application/json":
        raise Wrong(f"Content-Type is {content_type!r}")
    try:
        fields = json.loads(recorded.body)
    except ValueError as error:
        raise Wrong(f"the body is not JSON: {recorded.body[:80]!r}") from error
    if not isinstance(fields, dict):
        raise Wrong("the body is no JSON object")
    return fields


def _check_auth(rules: Rules, recorded: Recorded, kind: str, key: str) -> None:
    allowed = (rules.native_auth[kind],) if kind in rules.native_auth else rules.auth
    carriers = [name for name, value in recorded.headers.items() if key in value]
    if key in recorded.path or key.encode() in recorded.body:
        raise Wrong("the key is in the path or the body")
    if not rules.needs_key:
        return
    if len(carriers) != 1 or carriers[0] not in allowed:
        raise Wrong(f"the key is in {carriers or 'no header'}, and belongs into {allowed}")
    others = {BEARER, "api-key", "x-api-key", "xi-api-key"} - {carriers[0]}
    if more := others & recorded.headers.keys():
        raise Wrong(f"{sorted(more)} beside the key's header")
    wanted = f"Bearer {key}" if carriers[0] == BEARER else key
    if recorded.headers[carriers[0]] != wanted:
        raise Wrong(f"{carriers[0]} is not {wanted.replace(key, 'KEY')!r}")
    if kind in rules.native_auth and (missing := set(rules.headers) - recorded.headers.keys()):
        raise Wrong(f"without {sorted(missing)}")


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    if not content_type.startswith("multipart/form-data; boundary="):
        raise Wrong(f"Content-Type is {content_type!r}")
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    fields: dict[str, Any] = {}
    parts = message.get_payload()
    if not isinstance(parts, list):
        raise Wrong("the body is no multipart form")
    for part in parts:
        assert isinstance(part, email.message.Message)
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if not isinstance(name, str):
            raise Wrong("a part without a name")
        fields[name] = data if part.get_filename() else data.decode()
    return fields


# The kinds whose body is a form; the others' is JSON.
FORMS = ("transcription", "elevenlabs transcription", "image edit", "image variation")
# What each kind needs to have, and what else it may have where others are refused.
REQUIRED = {
    "chat": {"model", "messages"},
    "completion": {"model", "prompt"},
    "response": {"model", "input"},
    "embedding": {"model", "input"},
    "moderation": {"input"},
    "image": {"prompt"},
    "image edit": {"image", "prompt"},
    "image edit in JSON": {"image", "prompt"},
    "image variation": {"image"},
    "transcription": {"model", "file"},
    "speech": {"model", "input", "voice"},
    "rerank": {"model", "query", "documents"},
    "cohere rerank": {"model", "query", "documents"},
    "message": {"model", "messages", "max_tokens"},
    "anthropic message": {"model", "messages", "max_tokens"},
    "elevenlabs speech": {"text"},
    "elevenlabs transcription": {"model_id", "file"},
}
# Of ElevenLabs, whose names differ: OpenAI's would be dropped in silence.
ONLY = {
    "elevenlabs speech": {
        "text", "model_id", "language_code", "voice_settings", "seed", "apply_text_normalization",
    },
    "elevenlabs transcription": {
        "model_id", "file", "language_code", "temperature", "timestamps_granularity", "diarize",
        "num_speakers", "tag_audio_events", "keyterms", "seed",
    },
    "cohere rerank": {"model", "query", "documents", "top_n", "max_tokens_per_doc", "priority"},
}  # fmt: skip


def check_fields(rules: Rules, kind: str, fields: Mapping[str, Any]) -> None:
    """That what the provider needs is there, and what it refuses is not.

    Raises:
        Wrong: it is not as documented.
    """
    if missing := REQUIRED.get(kind, set()) - fields.keys():
        raise Wrong(f"without {sorted(missing)}")
    if (only := ONLY.get(kind)) is not None and (more := fields.keys() - only):
        raise Wrong(f"{sorted(more)} is not documented")
    if kind != "chat":
        return
    if not isinstance(fields["messages"], list) or not fields["messages"]:
        raise Wrong("messages is no list")
    if more := fields.keys() & rules.refused:
        raise Wrong(f"{sorted(more)} is refused")
    if rules.strict is not None and (more := fields.keys() - rules.strict):
        raise Wrong(f"{sorted(more)} is not known")
    if "stream_options" in fields and not fields.get("stream"):
        raise Wrong("stream_options without stream")


# --- The providers ------------------------------------------------------------------------------

_CHAT = {"chat/completions": "chat"}
_RESPONSES = {"responses": "response"}
_COMPLETIONS = {"completions": "completion"}
_EMBEDDINGS = {"embeddings": "embedding"}
_MODELS = {"models": "models"}
_MODERATIONS = {"moderations": "moderation"}
_IMAGES = {"images/generations": "image"}
_EDITS = {"images/edits": "image edit"}
_TRANSCRIPTIONS = {"audio/transcriptions": "transcription"}
_TRANSLATIONS = {"audio/translations": "transcription"}
_SPEECH = {"audio/speech": "speech"}
_MESSAGES = {"messages": "message"}
_RERANK = {"rerank": "rerank"}
_HEARING_AND_SPEAKING = _TRANSCRIPTIONS | _TRANSLATIONS | _SPEECH

# Mistral's reference, "Chat Completion Endpoint"; extra inputs are not permitted.
_MISTRAL = frozenset({
    "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed",
    "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "n",
    "prediction", "parallel_tool_calls", "prompt_mode", "safe_prompt", "metadata",
})  # fmt: skip
# Cohere's compatibility page, "Supported parameters"; it refuses stream_options among others.
_COHERE = frozenset({
    "model", "messages", "stream", "reasoning_effort", "response_format", "tools", "temperature",
    "max_tokens", "stop", "seed", "top_p", "frequency_penalty", "presence_penalty",
})  # fmt: skip
_LOCAL = _CHAT | _COMPLETIONS | _RESPONSES | _MESSAGES | _EMBEDDINGS | _MODELS

RULES: dict[str, Rules] = {
    "openai": Rules(
        "/v1",
        _CHAT | _COMPLETIONS | _RESPONSES | _EMBEDDINGS | _MODELS | _MODERATIONS | _IMAGES
        | _EDITS | {"images/variations": "image variation"} | _HEARING_AND_SPEAKING,
        refused=frozenset({"max_tokens"}),
    ),
    "azure-openai": Rules(
        "/openai/v1",
        _CHAT | _COMPLETIONS | _RESPONSES | _EMBEDDINGS | _MODELS | _IMAGES | _EDITS
        | _HEARING_AND_SPEAKING,
        auth=(BEARER, "api-key"),
        refused=frozenset({"max_tokens"}),
    ),
    # Its dated API, where the deployment is in the path.
    "azure-openai, dated": Rules(
        "/openai",
        _MODELS,
        elsewhere={
            f"/openai/deployments/[^/]+/{path}": kind
            for path, kind in (
                _CHAT | _COMPLETIONS | _EMBEDDINGS | _IMAGES | _EDITS | _HEARING_AND_SPEAKING
            ).items()
        },
        auth=("api-key",),
        refused=frozenset({"max_tokens"}),
        query="api-version=2024-10-21",
    ),
    "anthropic": Rules(
        "/v1",
        _CHAT | {"messages": "anthropic message", "models": "anthropic models"},
        native_auth={"anthropic message": "x-api-key", "anthropic models": "x-api-key"},
        headers=("anthropic-version",),
    ),
    "google": Rules("/v1beta/openai", _CHAT | _EMBEDDINGS | _MODELS | _IMAGES),
    "mistral": Rules(
        "/v1",
        _CHAT | _EMBEDDINGS | _MODELS | _MODERATIONS | _TRANSCRIPTIONS,
        strict=_MISTRAL,
    ),
    "groq": Rules(
        "/openai/v1",
        _CHAT | _RESPONSES | _MODELS | _HEARING_AND_SPEAKING,
        refused=frozenset({"logprobs", "logit_bias", "top_logprobs", "max_tokens"}),
    ),
    "deepseek": Rules("", _CHAT | _MODELS, refused=frozenset({"max_completion_tokens"})),
    "xai": Rules(
        "/v1",
        _CHAT | _RESPONSES | _MODELS | _IMAGES | {"images/edits": "image edit in JSON"},
        refused=frozenset({"max_tokens"}),
    ),
    "cohere": Rules(
        "/compatibility/v1",
        _CHAT | _EMBEDDINGS,
        elsewhere={"/v2/rerank": "cohere rerank", "/v1/models": "cohere models"},
        strict=_COHERE,
    ),
    "openrouter": Rules(
        "/api/v1", _LOCAL | _RERANK | _TRANSCRIPTIONS | _SPEECH,
    ),
    "huggingface": Rules("/v1", _CHAT | _RESPONSES | _MODELS),
    "ollama": Rules("/v1", _LOCAL | _IMAGES, needs_key=False),
    "aws-bedrock": Rules(
        "/openai/v1", _CHAT | _RESPONSES | _MODELS, refused=frozenset({"max_tokens"})
    ),
    "vertex": Rules(
        "/v1/projects/PROJECT/locations/global/endpoints/openapi", _CHAT
    ),
    "vertex, responses": Rules(
        "/v1/projects/PROJECT/locations/global/publishers/openai/v1", _RESPONSES
    ),
    "vllm": Rules(
        "/v1", _LOCAL | _RERANK | _TRANSCRIPTIONS | _TRANSLATIONS, needs_key=False
    ),
    "llama.cpp": Rules("/v1", _LOCAL | _RERANK, needs_key=False),
    "elevenlabs": Rules(
        "/v1",
        {"speech-to-text": "elevenlabs transcription", "models": "elevenlabs models"},
        elsewhere={r"/v1/text-to-speech/[A-Za-z0-9]+/stream": "elevenlabs speech"},
        auth=("xi-api-key",),
    ),
}  # fmt: skip
