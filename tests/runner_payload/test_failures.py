"""What clients are told about upstream's failures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.errors import UpstreamAuth
from runner_payload import failures, log
from runner_payload.failures import (
    MAX_TEXT_CHARS,
    UpstreamFailure,
    broken,
    error_event,
    one_line,
    refused,
    retry_after_s,
    root_cause,
    unreachable,
)

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _the_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", [])
    log.conceal(KEY)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "upstream_bad_request"),
        (401, "upstream_auth"),
        (402, "upstream_auth"),
        (403, "upstream_auth"),
        (404, "upstream_not_found"),
        (405, "upstream_bad_request"),
        (408, "upstream_timeout"),
        (409, "upstream_bad_request"),
        (413, "upstream_too_large"),
        (422, "upstream_unprocessable"),
        (429, "upstream_rate_limited"),
        (499, "upstream_bad_request"),
        (500, "upstream_unavailable"),
        (502, "upstream_unavailable"),
        (503, "upstream_unavailable"),
        (504, "upstream_unavailable"),
        (529, "upstream_unavailable"),
        (302, "upstream_unavailable"),
    ],
)
def test_a_status_has_its_code(status: int, code: str) -> None:
    error = refused(status, {"message": "no such thing"}, {})
    assert error.failure.code == code
    assert str(status) in error.failure.message
    assert not error.repeatable, "the SDK has done so already"


def test_a_refused_key_is_the_operators_business_and_upstreams_words_are_not_passed_on() -> None:
    error = refused(401, {"message": f"Incorrect API key provided: {KEY[:8]}*6789"}, {})
    assert "operator" in error.failure.message
    assert KEY[:8] not in error.failure.message
    assert error.failure.code == UpstreamAuth.code


@pytest.mark.parametrize(
    "body",
    [
        "no such model",
        {"message": "no such model"},
        {"detail": "no such model"},
        {"error": " no such\nmodel "},
    ],
)
def test_what_upstream_says_is_passed_on_in_whatever_shape_it_says_it(body: object) -> None:
    said = refused(404, body, {}).failure.message
    assert said == "The upstream answered 404: no such model"


@pytest.mark.parametrize("body", [None, " ", b"\xff", {}, {"message": 5}, {"detail": [5]}, []])
def test_a_body_without_a_message_leaves_a_whole_sentence(body: object) -> None:
    assert refused(404, body, {}).failure.message == "The upstream answered 404."


def test_only_a_429_says_when_to_come_back() -> None:
    headers = {"retry-after": "7"}
    assert refused(429, None, headers).failure.retry_after_s == 7
    assert refused(400, None, headers).failure.retry_after_s is None
    assert refused(429, None, {}).failure.retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": ".5"}, 0.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "200", "retry-after": "7"}, 0.2),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0.0),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], expected: float) -> None:
    assert retry_after_s(headers) == pytest.approx(expected)


def test_retry_after_as_a_date_becomes_the_seconds_until_then() -> None:
    at = datetime.now(UTC) + timedelta(seconds=90)
    wait_s = retry_after_s({"retry-after": format_datetime(at, usegmt=True)})
    assert wait_s is not None
    assert 80 < wait_s <= 90


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "1e9",
        "inf",
        "nan",
        ".",
        "1.2.3",
        "²",
        "٣",
        "9" * 400,
        "Wed, 99 Foo 2015 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 +9999999999999999999",
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2015 99999999999999999999:28:00 GMT",
    ],
)
def test_a_retry_after_that_makes_no_sense_is_none_and_no_exception(value: str) -> None:
    assert retry_after_s({"retry-after": value}) is None
    assert retry_after_s({"retry-after-ms": value}) is None


@given(
    st.text(max_size=12)
    | st.from_regex(
        r"\A[A-Z][a-z]{2}, \d{1,2} (Jan|Feb) \d{0,12} \d{1,2}:\d{1,11}:\d\d ([+-]\d{1,15}|GMT)\Z"
    )
)
def test_any_retry_after_is_a_usable_number_or_none(value: str) -> None:
    wait_s = retry_after_s({"retry-after": value})
    assert wait_s is None or 0 <= wait_s < 1e12


@pytest.mark.parametrize(
    "make",
    [
        lambda text: refused(400, {"message": text}, {}),
        lambda text: refused(500, {"message": text}, {}),
        error_event,
        broken,
        lambda text: unreachable("http://u/v1", text),
    ],
)
def test_every_text_is_one_bounded_line_without_the_key(make: object) -> None:
    assert callable(make)
    said = f"bad\r\n\x0b\u2028 key {KEY}\nat  line 3 " + "long " * 1000 + KEY
    error = make(said)
    assert isinstance(error, UpstreamFailure)
    message = error.failure.message
    assert "bad key *** at line 3" in message
    assert KEY not in message
    assert KEY not in str(error)
    assert message == " ".join(message.split())
    assert len(message) <= MAX_TEXT_CHARS


def test_no_piece_of_the_key_is_left_where_a_text_is_cut() -> None:
    for before in range(MAX_TEXT_CHARS - len(KEY) - 2, MAX_TEXT_CHARS + 2):
        assert "sk-" not in one_line("x" * before + KEY)


def test_a_text_of_the_limits_length_is_left_alone_and_a_longer_one_ends_in_an_ellipsis() -> None:
    assert one_line("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert one_line("x" * (MAX_TEXT_CHARS + 1)) == "x" * (MAX_TEXT_CHARS - 1) + "…"


def test_only_what_the_sdk_has_not_retried_is_repeatable() -> None:
    assert broken("oddly").repeatable
    assert not error_event("overloaded").repeatable
    assert not unreachable("http://u/v1", "is away").repeatable
    assert failures.INCOMPLETE.code == "upstream_incomplete"


def test_an_unreachable_upstream_is_named_with_the_option_to_check() -> None:
    message = unreachable("http://127.0.0.1:9/v1", "cannot be reached: refused").failure.message
    assert "http://127.0.0.1:9/v1" in message
    assert "--base-url" in message


def test_the_root_cause_is_the_first_thing_that_went_wrong() -> None:
    middle, last = RuntimeError("wrapped"), RuntimeError("wrapped again")
    last.__cause__ = middle
    assert root_cause(last) == "wrapped"
    middle.__context__ = OSError("no route")
    assert root_cause(last) == "no route"
    assert root_cause(TimeoutError()) == "TimeoutError"
