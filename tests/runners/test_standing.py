"""What is known of a runner for choosing it."""

from __future__ import annotations

import pytest

from llmrelay.errors import (
    BY_CODE,
    ClientTooSlow,
    RelayError,
    UpstreamBadRequest,
    UpstreamErrorEvent,
    UpstreamRateLimited,
)
from llmrelay.runners.breaker import FAILURES, MIN_OUT_S
from llmrelay.runners.standing import Outcome, Standing, outcome_of
from runner_payload.messages import End
from tests.helpers.virtual_load import a_standing


def after(*outcomes: Outcome, now_s: float = 0.0) -> Standing:
    """A runner that had calls which ended so, all at once."""
    standing = a_standing("one")
    for _ in outcomes:
        standing.begin(now_s)
    for outcome in outcomes:
        standing.end(now_s, outcome)
    return standing


def test_an_answer_is_ok_and_a_call_that_we_cancelled_says_nothing() -> None:
    assert outcome_of(End(finish_reason="stop")) is Outcome.OK
    assert outcome_of(None) is Outcome.ABANDONED


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_counts_against_the_runner_if_it_is_not_the_requests(code: str) -> None:
    of_the_request = {
        f"upstream_{what}" for what in ("bad_request", "not_found", "too_large", "unprocessable")
    }
    error = BY_CODE[code]("what happened")
    is_its_own = code.startswith(("upstream_", "runner_")) and code not in of_the_request
    assert (outcome_of(error) is Outcome.FAILED) == is_its_own


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UpstreamRateLimited("429"), Outcome.FAILED),
        (UpstreamErrorEvent("midway"), Outcome.FAILED),
        (UpstreamBadRequest("400"), Outcome.OK),
        (ClientTooSlow("the client"), Outcome.OK),
        (RelayError("a bug of the front-end's"), Outcome.OK),
    ],
)
def test_what_upstream_could_not_do_is_a_failure(error: RelayError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_places_are_taken_and_given_back() -> None:
    standing = a_standing("one", max_calls=2)
    standing.begin(0.0)
    assert standing.has_room
    standing.begin(0.0)
    assert not standing.has_room
    for outcome in (Outcome.ABANDONED, Outcome.FAILED):
        standing.end(0.0, outcome)
    assert standing.in_flight == 0


def test_one_that_failed_costs_more_than_a_busy_one() -> None:
    busy = a_standing("busy", in_flight=4)
    assert after(*[Outcome.FAILED] * FAILURES).cost(0.0) > busy.cost(0.0)


def test_a_call_that_we_cancelled_changes_neither_success_nor_breaker() -> None:
    standing = after(*[Outcome.FAILED] * FAILURES)
    success = standing.success(MIN_OUT_S)
    standing.begin(MIN_OUT_S)
    standing.end(MIN_OUT_S, Outcome.ABANDONED)
    assert standing.success(MIN_OUT_S) == success
    assert standing.breaker.out
    assert standing.breaker.allows(MIN_OUT_S)


def test_success_comes_back_with_time_and_with_calls_that_go_well() -> None:
    assert after(Outcome.FAILED, Outcome.OK).success(0.0) > after(Outcome.FAILED).success(0.0)
    courses = [after(*[Outcome.FAILED] * 3).success(now_s) for now_s in range(0, 120, 10)]
    assert courses == sorted(courses)


def test_however_often_it_failed_it_is_as_good_as_others_after_a_minute_and_a_half() -> None:
    standing = after(*[Outcome.FAILED] * 1000)
    assert standing.success(0.0) == 0.01
    assert standing.success(90.0) == 1.0
    assert standing.cost(90.0) == a_standing("other").cost(90.0)
