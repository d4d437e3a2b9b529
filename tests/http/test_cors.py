"""What browsers are told (Fetch Standard, "CORS protocol")."""

from __future__ import annotations

import pytest

from llmrelay.errors import BadRequest
from llmrelay.http.cors import Policy
from llmrelay.http.events import Request

from .parsing import a_request

APP = "https://app.example"
EXPOSED = "X-Request-Id, X-Error-Code, Retry-After"


def from_page(origin: str, *fields: str, method: str = "GET") -> Request:
    return a_request("localhost", f"Origin: {origin}", *fields, line=f"{method} / HTTP/1.1")


def preflight(origin: str, *fields: str, asked: str = "POST") -> Request:
    method = f"Access-Control-Request-Method: {asked}"
    return from_page(origin, method, *fields, method="OPTIONS")


def test_an_answer_to_a_named_origin_names_it() -> None:
    assert Policy([APP, "http://b.example"]).headers(from_page(APP)) == [
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", APP),
        ("Access-Control-Expose-Headers", EXPOSED),
    ]


@pytest.mark.parametrize("origin", ["https://b.example", "http://app.example", f"{APP}:8443"])
def test_an_answer_to_another_origin_names_none_and_is_kept_apart_by_caches(origin: str) -> None:
    assert Policy([APP]).headers(from_page(origin)) == [("Vary", "Origin")]
    assert Policy([APP]).headers(a_request("localhost")) == [("Vary", "Origin")]


def test_without_named_origins_nothing_is_added() -> None:
    assert Policy([]).headers(from_page(APP)) == []
    assert not Policy([]).allows(from_page(APP))
    assert not Policy([]).is_preflight(preflight(APP))


@pytest.mark.parametrize("origin", [APP, "http://b.example:81", "null"])
def test_a_star_is_every_origin(origin: str) -> None:
    policy = Policy(["*"])
    assert policy.allows(from_page(origin))
    assert ("Access-Control-Allow-Origin", "*") in policy.headers(from_page(origin))


def test_null_is_every_sandbox_and_is_never_named() -> None:
    assert not Policy([APP]).allows(from_page("null"))


def test_two_origins_are_no_browsers() -> None:
    both = from_page(APP, "Origin: http://b.example")
    assert not Policy([APP]).allows(both)
    assert Policy([APP, "http://b.example"]).headers(both) == [("Vary", "Origin")]


def test_a_preflight_is_allowed_what_it_asks_for() -> None:
    asked = preflight(APP, "Access-Control-Request-Headers: authorization,content-type")
    policy = Policy([APP])
    assert policy.is_preflight(asked)
    assert policy.preflight_headers(asked) == [
        ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ("Access-Control-Allow-Origin", APP),
        ("Access-Control-Allow-Methods", "POST"),
        ("Access-Control-Allow-Headers", "authorization, content-type"),
        ("Access-Control-Max-Age", "7200"),
    ]


def test_a_preflight_may_ask_for_no_headers_and_for_a_private_network() -> None:
    asked = preflight(APP, "Access-Control-Request-Private-Network: true")
    headers = dict(Policy([APP]).preflight_headers(asked))
    assert "Access-Control-Allow-Headers" not in headers
    assert headers["Access-Control-Allow-Private-Network"] == "true"


def test_only_options_of_an_allowed_page_that_asks_for_a_method_is_a_preflight() -> None:
    method = "Access-Control-Request-Method: POST"
    policy = Policy([APP])
    assert not policy.is_preflight(from_page(APP, method, method="GET"))
    assert not policy.is_preflight(from_page(APP, method="OPTIONS"))
    assert not policy.is_preflight(preflight("https://b.example"))
    assert not policy.is_preflight(a_request("localhost", method, line="OPTIONS / HTTP/1.1"))


@pytest.mark.parametrize(
    "wrong",
    [
        preflight(APP, asked="PO ST"),
        preflight(APP, asked=""),
        preflight(APP, "Access-Control-Request-Method: PUT"),
        preflight(APP, "Access-Control-Request-Headers: a b"),
        preflight(APP, "Access-Control-Request-Headers: a", "Access-Control-Request-Headers: ü"),
        preflight(APP, "Access-Control-Request-Headers: x: y"),
    ],
)
def test_a_preflight_that_asks_for_no_method_or_header_is_malformed(wrong: Request) -> None:
    with pytest.raises(BadRequest, match="Access-Control-Request-"):
        Policy([APP]).is_preflight(wrong)
