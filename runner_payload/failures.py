"""What went wrong at upstream, in words that a client may read.

Texts are one line, bounded and without the key, whatever upstream put into its own. Knows statuses,
bodies and headers, but not openai: upstream.py takes those out of the SDK's exceptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from . import log
from .messages import FIELD_VALUE, Failure, Pairs

MAX_TEXT_CHARS = 600

_CODE_OF_STATUS = {
    # The client cannot mend these, and what upstream says about them may describe the key.
    401: "upstream_auth",
    402: "upstream_auth",
    403: "upstream_auth",
    404: "upstream_not_found",
    408: "upstream_timeout",
    413: "upstream_too_large",
    422: "upstream_unprocessable",
    429: "upstream_rate_limited",
}

# How deep error bodies are looked into for words.
_MAX_NESTED = 6
# A key that is refused as a bad request (Google and xAI, each on its page about errors).
_BAD_KEY = re.compile("API key not valid|Incorrect API key provided", re.IGNORECASE)

# Longer error bodies are none that anybody has written.
MAX_SHOWN_BYTES = 16 * 1024

# What of upstream's headers goes down. Those that tell of the account behind the key do not, nor
# those that are about its connection.
_DOWN = frozenset(
    {
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "deprecation",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "sunset",
        "x-request-id",
        "x-should-retry",
    }
)
_DOWN_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
_CODING = "content-encoding"
# Of all of them together; a frame, which has a limit, has to hold them.
MAX_DOWN_BYTES = 16 * 1024
# The front-end's answers have an id of their own.
_DOWN_AS = {"x-request-id": "x-upstream-request-id", "request-id": "x-upstream-request-id"}

INCOMPLETE = Failure(
    "upstream_incomplete",
    "The upstream ended its stream before the answer was whole (no finish_reason, no [DONE]).",
)


class UpstreamFailure(Exception):
    """The call has no whole answer.

    Attributes:
        failure: why, for the wire.
        repeatable: asking again may help, and the SDK has not done so already.
    """

    def __init__(self, failure: Failure, *, repeatable: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.repeatable = repeatable


def one_line(text: str) -> str:
    """`text` bounded, on one line, without the key."""
    line = " ".join(log.concealed(text).split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"


def broken(how: str) -> UpstreamFailure:
    """Upstream answered with something that is not an answer, or broke it off."""
    text = one_line(f"The upstream answered {how}.")
    return UpstreamFailure(Failure("upstream_broken", text), repeatable=True)


def error_event(message: str) -> UpstreamFailure:
    """Upstream reported an error inside its stream."""
    text = one_line(f"The upstream reported: {message}")
    return UpstreamFailure(Failure("upstream_error_event", text))


def unreachable(base_url: str, how: str) -> UpstreamFailure:
    """No connection to upstream, after the SDK's retries."""
    text = f"The upstream {base_url} {how}. Check --base-url, as seen from the host."
    return UpstreamFailure(Failure("upstream_unavailable", one_line(text)))


def refused(
    status: int, body: object, headers: Mapping[str, str], content: bytes = b""
) -> UpstreamFailure:
    """Upstream answered with a status that is no success, after the SDK's retries.

    Args:
        body: `content`, as the SDK has understood it.
    """
    code = _CODE_OF_STATUS.get(status)
    message = _message(body)
    if status == 400 and _BAD_KEY.search(message):
        code = "upstream_auth"
    if code == "upstream_auth":
        text = (
            f"The upstream refuses this relay's key (status {status});"
            " its operator has to look into it."
        )
        return UpstreamFailure(Failure(code, text))
    if code is None:
        code = "upstream_bad_request" if 400 <= status < 500 else "upstream_unavailable"
    said = f": {message}" if message else "."
    wait_s = retry_after_s(headers) if status == 429 else None
    text = one_line(f"The upstream answered {status}{said}")
    failure = Failure(code, text, wait_s)
    if status >= 400 and (shown := _shown(content)):
        down = passed_down(headers, decoded=True)
        failure = replace(failure, status=status, headers=down, body=shown)
    return UpstreamFailure(failure)


def _shown(content: bytes) -> str:
    """An error body that clients of the API understand, byte for byte but for the key; else ""."""
    if len(content) > MAX_SHOWN_BYTES:
        return ""
    try:
        text = content.decode()
        body = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    is_one = isinstance(body, dict) and isinstance(body.get("error"), dict)
    return log.concealed(text) if is_one else ""


def passed_down(headers: Mapping[str, str], *, decoded: bool = False) -> Pairs:
    """Of an answer's headers those that are the client's business; never a cookie.

    Args:
        decoded: the body has no Content-Encoding any more.
    """
    passed: list[tuple[str, str]] = []
    room = MAX_DOWN_BYTES
    for name, text in ((name.lower(), text) for name, text in headers.items()):
        if name not in _DOWN and not name.startswith(_DOWN_PREFIXES):
            continue
        # Bytes as Latin-1, as headers are on the channel: what has been read as UTF-8 stays that.
        value = log.concealed(text).encode("utf-8", "replace").decode("latin-1")
        size = len(name) + len(value)
        if size > room or not FIELD_VALUE.fullmatch(value) or (decoded and name == _CODING):
            continue
        room -= size
        passed.append((_DOWN_AS.get(name, name), value))
    return tuple(passed)


def _message(body: object) -> str:
    """What an error body says: OpenAI's `message`, FastAPI's `detail`, or plain text.

    They stand in one another (Mistral, ElevenLabs), and in a list (Google).
    """
    for _ in range(_MAX_NESTED):
        if isinstance(body, list):
            body = body[0] if body else None
        elif isinstance(body, dict):
            names = ("error", "message", "detail", "msg")
            body = next((body[name] for name in names if body.get(name)), None)
        else:
            break
    return body.strip() if isinstance(body, str) else ""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds (RFC 9110, section 10.2.3); OpenAI's retry-after-ms comes first."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if value.isascii() and value.replace(".", "", 1).isdigit() and len(value) < 12:
            return float(value) * unit_s
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
        if at.tzinfo is None:
            at = at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, OverflowError):
        return None


def root_cause(error: BaseException) -> str:
    """What first went wrong, in the words of whoever saw it."""
    cause: BaseException | None = error
    while cause is not None:
        error, cause = cause, cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
