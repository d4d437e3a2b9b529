"""Requests that were made once and are asked again: nobody at the other end can tell."""

from __future__ import annotations

import httpx2
import pytest

from runner_payload.prepared import MAX_KINDS, PreparedRequests

URL = "http://10.0.0.1:8000/v1/chat/completions?x=1"
TOLD = {"content-type": "application/json", "x-client-request-id": "req_1"}


def made(told: dict[str, str], body: bytes, url: str = URL) -> httpx2.Request:
    """As the SDK makes it."""
    return httpx2.Request("POST", url, headers={"Authorization": "Bearer k", **told}, content=body)


def kept(told: dict[str, str]) -> PreparedRequests:
    requests = PreparedRequests()
    requests.keep("POST", "/chat", told, made(told, b"{}"))
    return requests


def fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    found = dict(line.lower().split(b": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_the_next_of_a_kind_has_its_own_body_and_names_and_all_else_from_the_first() -> None:
    told = TOLD | {"x-client-request-id": "req_2", "idempotency-key": "k-2"}
    prepared = kept(TOLD).find("POST", "/chat", told)
    assert prepared is not None
    assert prepared.origin == ("http", "10.0.0.1", 8000)
    head = prepared.head(told, b"x" * 1234)
    assert head.startswith(b"POST /v1/chat/completions?x=1 HTTP/1.1\r\n")
    wanted = made(told, b"x" * 1234).headers.raw
    assert fields(head) == {name.lower(): value.lower() for name, value in wanted}


def test_a_request_without_names_of_its_own_gets_none_of_the_firsts() -> None:
    told = {"content-type": "application/json"}
    prepared = kept(TOLD).find("POST", "/chat", told)
    assert prepared is not None
    assert b"req_1" not in prepared.head(told, b"")


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/chat", TOLD),
        ("POST", "/embed", TOLD),
        ("POST", "/chat", TOLD | {"content-type": "text/plain"}),
        ("POST", "/chat", TOLD | {"openai-beta": "assistants"}),
        ("POST", "/chat", {}),
    ],
)
def test_whatever_else_differs_makes_another_kind(
    method: str, path: str, told: dict[str, str]
) -> None:
    assert kept(TOLD).find(method, path, told) is None


def test_a_name_that_would_be_a_header_of_its_own_is_refused() -> None:
    told = {**TOLD, "x-client-request-id": "a\r\nb: c"}
    prepared = kept(TOLD).find("POST", "/chat", told)
    assert prepared is not None
    with pytest.raises(httpx2.LocalProtocolError):
        prepared.head(told, b"")


def test_what_the_sdk_is_told_by_other_things_than_text_is_no_kind() -> None:
    requests = PreparedRequests()
    told = {**TOLD, "authorization": object()}
    requests.keep("POST", "/chat", told, made(TOLD, b"{}"))
    assert requests.find("POST", "/chat", told) is None


def test_the_key_is_in_no_repr() -> None:
    prepared = kept(TOLD).find("POST", "/chat", TOLD)
    assert b"bearer k" in prepared.begin.lower()  # type: ignore[union-attr]
    assert "earer" not in repr(prepared)


def test_kinds_are_bounded() -> None:
    requests = PreparedRequests()
    for number in range(3 * MAX_KINDS):
        told = {"user-agent": f"client {number}"}
        requests.keep("POST", "/chat", told, made(told, b"{}"))
        assert requests.find("POST", "/chat", told) is not None
        assert len(requests._kinds) <= MAX_KINDS
