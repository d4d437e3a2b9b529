"""Whether a call is tried again, and where."""

from __future__ import annotations

import pytest

from llmrelay.errors import (
    BadRequest,
    RelayError,
    RunnerFailed,
    RunnerLost,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamBroken,
    UpstreamIncomplete,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnprocessable,
)
from llmrelay.runners.retry import RetryBudget, same_upstream, unfit
from llmrelay.runners.spec import HostSpec, KeySource, RunnerSpec
from llmrelay.values import HostAddress


def a_spec(name: str, url: str = "https://api.test/v1", key: str | None = None) -> RunnerSpec:
    return RunnerSpec(name, HostSpec(HostAddress(name), "py", url, key=KeySource(key)))


ONE, OTHER = a_spec("one"), a_spec("other")


@pytest.mark.parametrize(
    "kind",
    [RunnerLost, RunnerFailed, UpstreamUnavailable, UpstreamBroken, UpstreamIncomplete],
)
def test_what_another_runner_may_do_better_goes_there(kind: type[RelayError]) -> None:
    assert unfit(kind("no"), ONE, [OTHER]) == set()


@pytest.mark.parametrize(
    "kind",
    [
        BadRequest,
        UpstreamAuth,
        UpstreamBadRequest,
        UpstreamNotFound,
        UpstreamUnprocessable,
        UpstreamTimeout,
    ],
)
def test_what_it_would_not_do_better_goes_nowhere(kind: type[RelayError]) -> None:
    assert unfit(kind("no"), ONE, [OTHER]) is None


def test_a_rate_limit_is_tried_with_another_key_or_upstream() -> None:
    others = [OTHER, a_spec("key", key="K"), a_spec("url", "https://else.test/v1")]
    assert unfit(UpstreamRateLimited("429"), ONE, others) == {"other"}


def test_what_is_on_a_hosts_loopback_is_its_own() -> None:
    local = "http://127.0.0.1:8000/v1"
    assert same_upstream(ONE.host, OTHER.host)
    assert not same_upstream(a_spec("a", local).host, a_spec("b", local).host)
    assert not same_upstream(
        a_spec("a", "http://localhost/v1").host, a_spec("b", "http://localhost/v1").host
    )
    assert same_upstream(a_spec("a", local).host, a_spec("a", local).host)


def test_a_budget_is_a_share_of_the_calls_and_a_burst() -> None:
    budget = RetryBudget(0.1)
    burst = 0
    while budget.withdraw():
        burst += 1
    assert burst == 100
    retries = 0
    for _ in range(1000):
        budget.deposit()
        retries += budget.withdraw()
    assert 99 <= retries <= 100
    none = RetryBudget(0.0)
    none.deposit()
    assert not none.withdraw()
