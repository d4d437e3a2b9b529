"""How errors look to clients: a sentence, or OpenAI's error object."""

from __future__ import annotations

import json

import pytest

from llmrelay.api.errors import error_object, is_v1, render_error
from llmrelay.errors import (
    BY_CODE,
    NoRunner,
    QueueFull,
    RateLimited,
    RelayError,
    Unauthorized,
    UpstreamAnswer,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from tests.api.requests import a_request as request

V1 = request("/v1/chat/completions")
CHAT = request("/chat")
OWN = b'{"error":{"message":"too  long","type":"x","code":null}}'


def of_upstream(error: RelayError, status: int, *headers: tuple[str, str]) -> RelayError:
    error.upstream = UpstreamAnswer(status, headers, OWN)
    return error


@pytest.mark.parametrize("asked", [CHAT, None, request("/v1")], ids=["chat", "no head", "v1"])
def test_on_the_plain_endpoints_an_error_is_a_sentence(asked: object) -> None:
    status, headers, body = render_error(asked, "req_1", QueueFull("Too many wait."))  # type: ignore[arg-type]
    assert (status, body) == (503, b"Too many wait.\n")
    assert dict(headers) == {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Error-Code": "queue_full",
    }


def test_upstreams_own_body_is_not_for_the_plain_endpoints() -> None:
    error = of_upstream(UpstreamBadRequest("The upstream answered 400: too long"), 400)
    assert render_error(CHAT, "req_1", error)[2] == b"The upstream answered 400: too long\n"


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=list(BY_CODE))
def test_below_v1_every_error_is_openais_object(kind: type[RelayError]) -> None:
    status, headers, body = render_error(V1, "req_1", kind('It is "so".\n'))
    assert status == kind.status
    said = dict(headers)
    assert (said.pop("X-Should-Retry", None) == "false") is (kind is UpstreamAuth)
    assert said == {"Content-Type": "application/json", "X-Error-Code": kind.code}
    (error,) = json.loads(body).values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == 'It is "so".\n'
    assert error["param"] is None
    wanted = "server_error" if status >= 500 else "invalid_request_error"
    assert error["type"] == ("rate_limit_error" if status == 429 else wanted)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthorized("Who?"), "invalid_api_key"),
        (RateLimited("Slower."), "rate_limit_exceeded"),
        (NoRunner("None."), "no_runner"),
        (UpstreamAuth("The operator has to look into it."), "upstream_auth"),
    ],
)
def test_the_code_is_openais_where_it_has_one_for_the_same(error: RelayError, code: str) -> None:
    said = json.loads(render_error(V1, "req_1", error)[2])["error"]
    assert said["code"] == code
    # Ours is in the header in any case.
    assert dict(render_error(V1, "req_1", error)[1])["X-Error-Code"] == error.code


def test_an_error_of_upstreams_own_goes_on_byte_for_byte_with_its_status_and_headers() -> None:
    said = (("content-type", "application/json; charset=x"), ("x-ratelimit-limit-tokens", "1"))
    error = of_upstream(UpstreamBadRequest("400"), 418, *said)
    status, headers, body = render_error(V1, "req_1", error)
    assert (status, body) == (418, OWN)
    assert headers == [*said, ("X-Error-Code", "upstream_bad_request")]


def test_retry_after_is_said_once() -> None:
    # The HTTP layer says what the error itself knows; what it does not know is upstream's to say.
    known = of_upstream(UpstreamRateLimited("429", retry_after_s=7), 429, ("retry-after", "7"))
    assert "retry-after" not in dict(render_error(V1, "req_1", known)[1])
    unknown = of_upstream(UpstreamUnavailable("503"), 503, ("retry-after", "9"))
    assert dict(render_error(V1, "req_1", unknown)[1])["retry-after"] == "9"


def test_errors_of_messages_are_anthropics() -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        body = json.loads(render_error(request(path), "req_1", NoRunner("None."))[2])
        assert (body["type"], body["error"]["message"]) == ("error", "None.")


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"\xff", b"[" * 16_000, b'{"a":' * 10_000])
def test_a_body_of_upstreams_that_is_no_object_is_not_shown_in_a_stream(body: bytes) -> None:
    error = UpstreamBadRequest("So.")
    error.upstream = UpstreamAnswer(400, (), body)
    said = error_object(error)
    assert said == {
        "error": {
            "message": "So.",
            "type": "invalid_request_error",
            "param": None,
            "code": "upstream_bad_request",
        }
    }


def test_only_what_is_below_v1_is_openais_api() -> None:
    assert is_v1(V1)
    assert not is_v1(CHAT)
    assert not is_v1(request("/v1"))
    assert not is_v1(request("/v10/x"))
