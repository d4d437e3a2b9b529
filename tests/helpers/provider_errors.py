"""What each provider's errors look like: a bad key, a rate limit, a field that it does not take.

Statuses, headers and shapes are those of the pages that llmrelay/upstreams.py names. Data out of
data: which request is refused is `providers.py`'s concern. It may not know llmrelay. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RETRY_AFTER_S = 7


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    body: dict[str, Any] | list[Any]
    headers: dict[str, str] = field(default_factory=dict)


# What went wrong -> the status that most providers have for it.
BAD_KEY, LIMITED, INVALID = "bad key", "limited", "invalid"
_STATUS = {BAD_KEY: 401, LIMITED: 429, INVALID: 400}
# The others. Google and xAI call a bad key a bad request.
_OTHER_STATUS = {
    ("google", BAD_KEY): 400,
    ("xai", BAD_KEY): 400,
    ("aws-bedrock", BAD_KEY): 403,
    ("mistral", INVALID): 422,
    ("cohere", INVALID): 422,
    ("elevenlabs", INVALID): 422,
}
# What these two say of a bad key, by which it is known: the status is that of a bad request.
_BAD_KEY_MESSAGES = {
    "google": "API key not valid. Please pass a valid API key.",
    "xai": "Incorrect API key provided: xa***xx. You can obtain an API key from console.x.ai.",
}
_RETRY_AFTER = {"retry-after": str(RETRY_AFTER_S)}
_LIMIT_HEADERS = {
    "openai": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7s"},
    "groq": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"},
    "azure-openai": {"retry-after-ms": str(RETRY_AFTER_S * 1000)},
    "anthropic": {"anthropic-ratelimit-requests-remaining": "0"},
}
# Those that say in the body when to come back, or do not say it at all.
_NO_RETRY_AFTER = {
    "google", "vertex", "mistral", "deepseek", "cohere", "huggingface", "aws-bedrock", "elevenlabs",
}  # fmt: skip


def says_when(provider: str) -> bool:
    """A rate limit has a Retry-After."""
    return provider not in _NO_RETRY_AFTER


def refusal(provider: str, kind: str, what: str, message: str) -> Refusal:
    """How the provider says so; `kind` of request, as its own API may say it another way."""
    status = _OTHER_STATUS.get((provider, what), _STATUS[what])
    if what == BAD_KEY:
        message = _BAD_KEY_MESSAGES.get(provider, message)
    headers = {}
    if what == LIMITED:
        headers = dict(_LIMIT_HEADERS.get(provider.partition(",")[0], {}))
        if says_when(provider):
            headers |= _RETRY_AFTER
    if provider == "aws-bedrock" and what == LIMITED:
        headers["x-amzn-errortype"] = "ThrottlingException"
    body = _body(provider.partition(",")[0], kind, what, status, message)
    return Refusal(status, body, headers)


def _body(  # noqa: PLR0911, PLR0912 - one for each shape
    provider: str, kind: str, what: str, status: int, message: str
) -> dict[str, Any] | list[Any]:
    match provider:
        case "anthropic" if kind.startswith("anthropic"):
            named = {"type": _ANTHROPIC[what], "message": message}
            return {"type": "error", "error": named, "request_id": "req_1"}
        case "azure-openai":
            return {"error": {"code": str(status), "message": message}}
        case "google" | "vertex":
            return [{"error": _google(what, status, message)}]
        case "mistral":
            return _mistral(what, message)
        case "xai":
            return {"code": "Client specified an invalid argument", "error": message}
        case "cohere":
            return {"id": "7f1c", "message": message}
        case "openrouter":
            return {"error": {"code": status, "message": message}, "user_id": "user_1"}
        case "huggingface":
            return {"error": message}
        case "aws-bedrock" if what != INVALID:
            return {"message": message}
        case "vllm":
            return {"error": _error(message, "BadRequestError", status)}
        case "llama.cpp":
            return {"error": {"code": status, "message": message, "type": "invalid_request_error"}}
        case "elevenlabs" if what == INVALID:
            return {"detail": [{"type": "missing", "loc": ["body"], "msg": message, "input": {}}]}
        case "elevenlabs":
            return {"detail": {"status": _ELEVENLABS[what], "message": message}}
    return {"error": _error(message, "invalid_request_error", what)}


def _error(message: str, kind: str, code: str | int) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}


_ANTHROPIC = {
    BAD_KEY: "authentication_error",
    LIMITED: "rate_limit_error",
    INVALID: "invalid_request_error",
}
_ELEVENLABS = {BAD_KEY: "invalid_api_key", LIMITED: "too_many_concurrent_requests"}
_GOOGLE = {
    BAD_KEY: "INVALID_ARGUMENT",
    LIMITED: "RESOURCE_EXHAUSTED",
    INVALID: "INVALID_ARGUMENT",
}


def _google(what: str, status: int, message: str) -> dict[str, Any]:
    error: dict[str, Any] = {"code": status, "message": message, "status": _GOOGLE[what]}
    if what == LIMITED:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        error["details"] = [{"@type": kind, "retryDelay": f"{RETRY_AFTER_S}s"}]
    return error


def _mistral(what: str, message: str) -> dict[str, Any]:
    if what == BAD_KEY:
        return {"detail": message}
    if what == LIMITED:
        return {
            "object": "error", "message": message, "type": "rate_limited", "param": None,
            "code": "1300",
        }  # fmt: skip
    detail = [{"type": "extra_forbidden", "loc": ["body"], "msg": message, "input": True}]
    return {
        "object": "error", "message": {"detail": detail}, "type": "invalid_request_error",
        "param": None, "code": None,
    }  # fmt: skip
