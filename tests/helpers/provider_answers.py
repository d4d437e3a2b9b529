"""What each provider answers: its chat streams with their quirks, its other bodies, its errors.

Shapes are those of the pages that llmrelay/upstreams.py names, shortened. Bytes out of data: which
request gets which is `providers.py`'s concern. It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.helpers.upstream_script import sse

DELTAS = ("Hel", "lo, ", "wörld")
TEXT = "".join(DELTAS)
AUDIO = bytes(range(256)) * 16
VECTOR = [0.25, -0.5, 0.125]
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
# Anthropic's and OpenAI's responses call it so.
_TOKENS = {"input_tokens": 3, "output_tokens": 5}
DONE = sse("[DONE]")

# --- A chat's stream ----------------------------------------------------------------------------

# Comments that keep a waiting stream alive.
_COMMENTS = {
    "openrouter": b": OPENROUTER PROCESSING\n\n",
    "deepseek": b": keep-alive\n\n",
}
# Those that say the role once, in an event of its own.
_ROLE_FIRST = {
    "openai", "azure-openai", "azure-openai, dated", "mistral", "groq", "deepseek", "anthropic",
    "cohere", "aws-bedrock", "vllm", "llama.cpp", "xai",
}  # fmt: skip
# Those that put usage into the last event with a choice.
_USAGE_WITH_FINISH = {"mistral", "deepseek"}
# Those that count unasked.
_COUNTS_UNASKED = {"mistral", "openrouter"}
# Those whose last text comes with the finish_reason.
_TEXT_WITH_FINISH = {"google", "vertex"}
_IN_EACH_CHUNK: dict[str, dict[str, Any]] = {
    "openrouter": {"provider": "OpenAI"},
    "ollama": {"system_fingerprint": "fp_ollama"},
    "openai": {"service_tier": "default", "system_fingerprint": "fp_1", "obfuscation": "x9"},
}


def chat_stream(provider: str, model: str, asked_usage: bool) -> Iterator[bytes]:
    """The events of an answer, each as it is on the wire."""
    comment = _COMMENTS.get(provider, b"")
    if comment:
        yield comment + comment
    if provider.startswith("azure"):
        yield _azure_prelude()
    if provider in _ROLE_FIRST:
        first: dict[str, Any] = {"role": "assistant", "content": _empty(provider)}
        yield _chunk(provider, model, first)
    if provider == "deepseek":
        yield _chunk(provider, model, {"content": None, "reasoning_content": "Hm."})
    said, last = [*DELTAS], ""
    if provider in _TEXT_WITH_FINISH:
        last = said.pop()
    role = {} if provider in _ROLE_FIRST else {"role": "assistant"}
    for text in said:
        yield _chunk(provider, model, {**role, "content": text})
        if comment:
            yield comment
    counts = asked_usage or provider in _COUNTS_UNASKED
    more: dict[str, Any] = _finishing(provider)
    if counts and provider in _USAGE_WITH_FINISH:
        more["usage"] = USAGE
    yield _chunk(provider, model, {**role, "content": last} if last else {}, "stop", **more)
    if counts and provider not in _USAGE_WITH_FINISH:
        yield _chunk(provider, model, None, usage=USAGE)
    yield DONE


def broken_stream(provider: str, model: str) -> Iterator[bytes]:
    """A stream that an error ends, under status 200."""
    yield _chunk(provider, model, {"role": "assistant", "content": DELTAS[0]})
    error = {"code": "server_error", "message": "Provider disconnected unexpectedly"}
    if provider == "openrouter":
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        yield sse({"id": "gen-1", "provider": "OpenAI", "error": error, "choices": [choice]})
    else:
        yield sse({"error": error})


def _chunk(
    provider: str,
    model: str,
    delta: Mapping[str, Any] | None,
    finish: str | None = None,
    **more: object,
) -> bytes:
    """One chat.completion.chunk; without a delta it has no choices."""
    choices = []
    if delta is not None:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if provider.startswith("azure"):
            choice["content_filter_results"] = {"hate": {"filtered": False, "severity": "safe"}}
        if provider in ("openai", "vllm"):
            choice["logprobs"] = None
        choices = [choice]
    fixed = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return sse({**fixed, "choices": choices, **_IN_EACH_CHUNK.get(provider, {}), **more})


def _empty(provider: str) -> str | None:
    return None if provider == "llama.cpp" else ""


def _finishing(provider: str) -> dict[str, Any]:
    if provider == "groq":
        return {"x_groq": {"id": "req_1", "usage": USAGE}}
    if provider == "llama.cpp":
        return {"timings": {"prompt_n": 3, "predicted_n": 5}}
    return {}


def _azure_prelude() -> bytes:
    """Azure's first event has neither a choice nor a model, but what its filter found."""
    results = [{"prompt_index": 0, "content_filter_results": {}}]
    return sse({
        "id": "", "object": "", "created": 0, "model": "", "choices": [],
        "prompt_filter_results": results,
    })  # fmt: skip


# --- Other bodies -------------------------------------------------------------------------------


def body(provider: str, kind: str, model: str) -> dict[str, Any] | list[Any] | bytes:
    """A whole answer: JSON, or sound."""
    if kind in ("speech", "elevenlabs speech"):
        return AUDIO
    if kind.endswith("models"):
        return _models(provider, kind)
    return _BODIES[kind] | ({"model": model} if "model" in _BODIES[kind] else {})


_BODIES: dict[str, dict[str, Any]] = {
    "chat": {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": TEXT},
        }],
        "usage": USAGE,
    },
    "completion": {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "",
        "choices": [{"index": 0, "text": TEXT, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
    },
    "response": {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "", "status": "completed",
        "output": [{
            "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
        }],
        "usage": {**_TOKENS, "total_tokens": 8},
    },
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "",
        "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "usage": _TOKENS,
    },
    "embedding": {
        "object": "list", "model": "", "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    },
    "moderation": {
        "id": "modr-1", "model": "",
        "results": [{"flagged": False, "categories": {}, "category_scores": {}}],
    },
    "image": {"created": 1, "data": [{"b64_json": "iVBORw0K"}]},
    "transcription": {"text": TEXT},
    "rerank": {
        "id": "rank-1", "model": "",
        "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
    },
    "cohere rerank": {
        "id": "rank-1",
        "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    },
    "elevenlabs transcription": {
        "language_code": "eng", "language_probability": 0.98, "text": TEXT,
        "words": [{"text": TEXT, "type": "word", "start": 0.0, "end": 0.9, "logprob": 0.0}],
    },
}  # fmt: skip
_BODIES["anthropic message"] = _BODIES["message"]
for _kind in ("image edit", "image edit in JSON", "image variation"):
    _BODIES[_kind] = _BODIES["image"]

MODELS = ("first-model", "second-model")


def _models(provider: str, kind: str) -> dict[str, Any] | list[Any]:
    if kind == "elevenlabs models":
        return [{"model_id": name, "name": name.title()} for name in MODELS]
    if kind == "cohere models":
        listed = [{"name": name, "endpoints": ["chat"], "finetuned": False} for name in MODELS]
        return {"models": listed, "next_page_token": ""}
    if kind == "anthropic models":
        described = [{"type": "model", "id": name, "display_name": name} for name in MODELS]
        return {"data": described, "has_more": False, "last_id": MODELS[-1]}
    prefix = "models/" if provider == "google" else ""
    data: list[dict[str, Any]] = [
        {"id": f"{prefix}{name}", "object": "model", "created": 1, "owned_by": provider}
        for name in MODELS
    ]
    return {"object": "list", "data": data}


def message_stream(model: str) -> Iterator[bytes]:
    """Anthropic's: named events, and no [DONE]."""
    message = {**_BODIES["message"], "model": model, "content": [], "stop_reason": None}
    yield _named("message_start", message=message)
    yield _named("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _named("ping")
    for text in DELTAS:
        yield _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    yield _named("content_block_stop", index=0)
    yield _named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5})
    yield _named("message_stop")


def response_stream(model: str) -> Iterator[bytes]:
    """OpenAI's responses: named events, and no [DONE]."""
    whole = {**_BODIES["response"], "model": model}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield _named("response.created", sequence_number=0, response=begun)
    for number, text in enumerate(DELTAS, 1):
        yield _named(
            "response.output_text.delta", sequence_number=number, item_id="msg_1",
            output_index=0, content_index=0, delta=text, logprobs=[],
        )  # fmt: skip
    yield _named("response.completed", sequence_number=9, response=whole)


def _named(name: str, **fields: object) -> bytes:
    data = json.dumps({"type": name, **fields}, ensure_ascii=False)
    return f"event: {name}\ndata: {data}\n\n".encode()
