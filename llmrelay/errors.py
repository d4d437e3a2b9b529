"""Every failure that a person can meet, in one tree.

A RelayError carries what the caller sees: the HTTP status, a stable code and one sentence that says
what happened and what to do. A ConnectError is a runner that could not be reached or started; when
it ends `llmrelay serve` at start, its `exit_code` is the process's. docs/errors.md is generated
from this file.

Knows no HTTP bytes, no SSH and no clock. Exceptions of other libraries become one of these at the
boundary, in the one file that imports the library.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar


class Retry(enum.Enum):
    """Whether a call that failed before its first byte may be tried on another runner."""

    NEVER = enum.auto()
    OTHER_RUNNER = enum.auto()
    OTHER_UPSTREAM = enum.auto()  # or with another key


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """An error as upstream said it: status, the headers that may be shown, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class RelayError(Exception):
    """A failure with an HTTP status; by itself, a bug of this server.

    Args:
        message: one sentence for a person; never holds a key or a prompt.
        retry_after_s: seconds that the client should wait, for Retry-After.
        allow: methods for the Allow header (405 only; RFC 9110, section 10.2.1).
        challenge: for WWW-Authenticate: what to ask with (RFC 9110, section 11.6.1).

    Attributes:
        upstream: what upstream said, where that is an error that clients of its API understand.

    `retry` says where a call that ended so may be tried again; `fault`, whether it is its runner's
    or its upstream's own, and not the request's: such a runner is asked less. A quota that is used
    up is one: it refuses at once, and would draw all calls to where none is answered.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry: ClassVar[Retry] = Retry.NEVER
    fault: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        allow: tuple[str, ...] = (),
        challenge: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.challenge = challenge
        self.upstream: UpstreamAnswer | None = None


# --- What a client sent -------------------------------------------------------------------------


class BadRequest(RelayError):
    """The request is malformed, or a parameter is not what it must be."""

    status, code = 400, "bad_request"


class Unauthorized(RelayError):
    """No token, or one that is not known; WWW-Authenticate says which (RFC 6750, section 3)."""

    status, code = 401, "unauthorized"


class Forbidden(RelayError):
    """A browser page of another origin asked."""

    status, code = 403, "forbidden"


class NotFound(RelayError):
    """No such path."""

    status, code = 404, "not_found"


class MethodNotAllowed(RelayError):
    """The path is there, the method is not; Allow names those that are."""

    status, code = 405, "method_not_allowed"


class RequestTimeout(RelayError):
    """The head or the body did not arrive within its limit."""

    status, code = 408, "request_timeout"


class ClientTooSlow(RelayError):
    """The client stopped reading its answer for longer than the limit."""

    status, code = 408, "client_too_slow"


class LengthRequired(RelayError):
    """A method that needs a body came without one (no Content-Length, no chunked coding)."""

    status, code = 411, "length_required"


class ContentTooLarge(RelayError):
    """The body is over its limit."""

    status, code = 413, "content_too_large"


class UriTooLong(RelayError):
    """The request target is over its limit."""

    status, code = 414, "uri_too_long"


class UnsupportedMediaType(RelayError):
    """The body is in a coding or a charset that is not read here."""

    status, code = 415, "unsupported_media_type"


class ExpectationFailed(RelayError):
    """Expect asks for something else than 100-continue (RFC 9110, section 10.1.1)."""

    status, code = 417, "expectation_failed"


class MisdirectedRequest(RelayError):
    """Host names a machine that this one is not."""

    status, code = 421, "misdirected_request"


class RateLimited(RelayError):
    """The token's calls at once or requests per minute are used up; with Retry-After."""

    status, code = 429, "rate_limited"


class HeadTooLarge(RelayError):
    """The request's header section is over its limit (RFC 6585, section 5)."""

    status, code = 431, "head_too_large"


class NotImplementedHere(RelayError):
    """A method or a transfer coding that is not known here."""

    status, code = 501, "not_implemented"


class VersionNotSupported(RelayError):
    """Neither HTTP/1.1 nor HTTP/1.0."""

    status, code = 505, "version_not_supported"


# --- No runner could take the call --------------------------------------------------------------


class ModelNotFound(RelayError):
    """No runner serves the model that was asked for."""

    status, code = 404, "model_not_found"


class NoRunner(RelayError):
    """No runner is ready."""

    status, code = 503, "no_runner"


class QueueFull(RelayError):
    """All runners are full, and the queue is full or was waited in for too long."""

    status, code = 503, "queue_full"


class TooManyConnections(RelayError):
    """All connections are taken and none is idle, or the client's address has too many."""

    status, code = 503, "too_many_connections"


class BodiesTooLarge(RelayError):
    """The bodies of all requests together take more memory than there is for them."""

    status, code = 503, "bodies_too_large"


class RunnerLost(RelayError):
    """The runner went away before upstream answered."""

    status, code = 502, "runner_lost"
    fault = True
    retry = Retry.OTHER_RUNNER


class RunnerFailed(RelayError):
    """The runner broke the protocol or hit a bug of its own."""

    status, code = 502, "runner_failed"
    fault = True
    retry = Retry.OTHER_RUNNER


# --- What upstream said -------------------------------------------------------------------------


class UpstreamAuth(RelayError):
    """Upstream refuses the key: the operator's fault, not the client's."""

    status, code = 502, "upstream_auth"
    fault = True


class UpstreamBadRequest(RelayError):
    """Upstream finds the request wrong (400)."""

    status, code = 400, "upstream_bad_request"


class UpstreamNotFound(RelayError):
    """Upstream has no such model or path (404)."""

    status, code = 404, "upstream_not_found"


class UpstreamTooLarge(RelayError):
    """The request is more than upstream takes (413)."""

    status, code = 413, "upstream_too_large"


class UpstreamUnprocessable(RelayError):
    """Upstream cannot process the request (422)."""

    status, code = 422, "upstream_unprocessable"


class UpstreamRateLimited(RelayError):
    """Upstream's rate or quota is used up (429), with its Retry-After."""

    status, code = 429, "upstream_rate_limited"
    fault = True
    retry = Retry.OTHER_UPSTREAM


class UpstreamUnavailable(RelayError):
    """Upstream answered 5xx, or no connection to it could be made."""

    status, code = 502, "upstream_unavailable"
    fault = True
    retry = Retry.OTHER_RUNNER


class UpstreamBroken(RelayError):
    """Upstream answered with something that is not an answer, or broke it off."""

    status, code = 502, "upstream_broken"
    fault = True
    retry = Retry.OTHER_RUNNER


class UpstreamErrorEvent(RelayError):
    """Upstream sent an error inside its stream."""

    status, code = 502, "upstream_error_event"
    fault = True


class UpstreamIncomplete(RelayError):
    """Upstream's stream ended without a finish_reason and without [DONE]."""

    status, code = 502, "upstream_incomplete"
    fault = True
    retry = Retry.OTHER_RUNNER


class UpstreamTimeout(RelayError):
    """Upstream was silent past the limit."""

    status, code = 504, "upstream_timeout"
    fault = True


# --- A runner could not be started: each with an exit code of its own ---------------------------


class ConnectError(RelayError):
    """A host could not be reached or a runner not started there.

    `heals` says whether trying again without a person's help makes sense.
    """

    status, code = 503, "no_runner"
    exit_code: ClassVar[int] = 1
    heals: ClassVar[bool] = True


class UnusableConfig(ConnectError):
    """A file or a setting that connecting needs cannot be used."""

    exit_code, heals = 3, False


class NoKey(ConnectError):
    """No OpenAI key was given."""

    exit_code, heals = 4, False


class HostUnreachable(ConnectError):
    """The name does not resolve, or nothing answers there in time."""

    exit_code = 10


class UnknownHostKey(ConnectError):
    """The host's key is in no known_hosts file."""

    exit_code, heals = 11, False


class ChangedHostKey(ConnectError):
    """The host's key differs from the one in known_hosts."""

    exit_code, heals = 12, False


class LoginRefused(ConnectError):
    """The host takes none of our keys for that user."""

    exit_code, heals = 13, False


class NoPython(ConnectError):
    """No Python on the host, or one that is too old."""

    exit_code, heals = 14, False


class NoOpenAI(ConnectError):
    """The package `openai` is not installed on the host."""

    exit_code, heals = 15, False


class RunnerBroken(ConnectError):
    """The runner started and then said something that cannot be understood, or nothing."""

    exit_code = 16


class CannotListen(ConnectError):
    """The address to listen on is taken or not ours."""

    exit_code, heals = 17, False


def _tree(root: type[RelayError]) -> list[type[RelayError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]


# What a runner's ERROR frame names by its code. ConnectErrors share theirs: only we raise them.
BY_CODE: dict[str, type[RelayError]] = {
    cls.code: cls for cls in _tree(RelayError) if not issubclass(cls, ConnectError)
}
