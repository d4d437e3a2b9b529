"""How an error looks to its client: plain text, one sentence and its code.

Pure. The status, Retry-After and X-Request-Id are the HTTP layer's business.
"""

from __future__ import annotations

from ..errors import RelayError
from ..http.events import Request


def render_error(
    request: Request | None, request_id: str, error: RelayError
) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body for `error`."""
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("X-Error-Code", error.code)]
    return headers, f"{error.message}\n".encode("utf-8", "replace")
