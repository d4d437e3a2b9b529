"""How an error looks to its client: a sentence on the plain endpoints, OpenAI's object below /v1.

Pure. Retry-After and X-Request-Id are the HTTP layer's business.
"""

from __future__ import annotations

import json

from ..errors import RelayError, UpstreamAuth
from ..http.events import Request

V1 = "/v1/"
_MESSAGES = f"{V1}messages"

# OpenAI's own codes, where it has one for the same (OpenAI reference, "Error codes").
_CODES = {"unauthorized": "invalid_api_key", "rate_limited": "rate_limit_exceeded"}


def render_error(
    request: Request | None, request_id: str, error: RelayError
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body for `error`.

    Below /v1 an error of upstream's own goes on as it came, byte for byte.
    """
    code = ("X-Error-Code", error.code)
    if request is None or not is_v1(request):
        headers = [("Content-Type", "text/plain; charset=utf-8"), code]
        return error.status, headers, f"{error.message}\n".encode("utf-8", "replace")
    if error.upstream is not None:
        # What the HTTP layer says by itself is not said twice.
        twice = "retry-after" if error.retry_after_s is not None else None
        said = [field for field in error.upstream.headers if field[0] != twice]
        return error.upstream.status, [*said, code], error.upstream.body
    body = json.dumps(error_object(error, anthropic=request.path.startswith(_MESSAGES)))
    headers = [("Content-Type", "application/json"), code]
    if isinstance(error, UpstreamAuth):
        # OpenAI's clients would ask again, as for any 5xx; only the operator can mend it.
        headers.append(("X-Should-Retry", "false"))
    return error.status, headers, body.encode() + b"\n"


def is_v1(request: Request) -> bool:
    """Whether a request is one of OpenAI's API."""
    return request.path.startswith(V1)


def error_object(error: RelayError, *, anthropic: bool = False) -> dict[str, object]:
    """The error object (OpenAI reference, "Error codes"; Anthropic's has its type outside, too)."""
    if error.upstream is not None:
        try:
            said = json.loads(error.upstream.body)
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            return said
    kind = _type(error)
    said = {
        "message": error.message,
        "type": kind,
        "param": None,
        "code": _CODES.get(error.code, error.code),
    }
    return {"type": "error", "error": said} if anthropic else {"error": said}


def _type(error: RelayError) -> str:
    if error.status == 429:
        return "rate_limit_error"
    return "server_error" if error.status >= 500 else "invalid_request_error"
