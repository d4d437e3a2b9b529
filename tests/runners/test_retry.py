"""Whether and where a call that failed is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.errors import (
    BY_CODE,
    RelayError,
    Retry,
    RunnerLost,
    UpstreamAuth,
    UpstreamRateLimited,
)
from llmrelay.runners.retry import _BURST, RetryBudget, same_upstream, unfit
from llmrelay.runners.spec import HostSpec, KeySource, RunnerSpec
from llmrelay.values import HostAddress

FAR = "https://api.example.com/v1"
NEAR = "http://127.0.0.1:8000/v1"
ONE, TWO = HostAddress("one"), HostAddress("two")


def host(address: HostAddress | None, base_url: str, **key: Any) -> HostSpec:
    return HostSpec(address, "python3", base_url, key=KeySource(**key))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (host(ONE, FAR), host(TWO, FAR), True),
        (host(ONE, FAR), host(None, FAR), True),
        (host(ONE, FAR), host(TWO, "https://api.example.org/v1"), False),
        (host(ONE, FAR, variable="A"), host(ONE, FAR, variable="B"), False),
        (host(ONE, FAR, file=Path("a")), host(ONE, FAR), False),
        # What is on a host's loopback is that host's own.
        (host(ONE, NEAR), host(TWO, NEAR), False),
        (host(ONE, NEAR), host(ONE, NEAR), True),
        (host(None, NEAR), host(None, NEAR), True),
        (host(ONE, NEAR), host(None, NEAR), False),
        (host(ONE, "http://localhost/v1"), host(TWO, "http://localhost/v1"), False),
        (host(ONE, "http://[::1]:1/v1"), host(TWO, "http://[::1]:1/v1"), False),
        (host(ONE, "http://127.8.0.9/v1"), host(TWO, "http://127.8.0.9/v1"), False),
        (host(ONE, "http://10.0.0.1/v1"), host(TWO, "http://10.0.0.1/v1"), True),
        (host(ONE, "http://localhost.example/"), host(TWO, "http://localhost.example/"), True),
    ],
)
def test_runners_share_an_upstream_by_its_address_and_key(
    one: HostSpec, other: HostSpec, same: bool
) -> None:
    assert same_upstream(one, other) is same
    assert same_upstream(other, one) is same


FAILED = RunnerSpec("failed", host(ONE, FAR))
OTHERS = [RunnerSpec("same", host(TWO, FAR)), RunnerSpec("key", host(TWO, FAR, variable="B"))]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunnerLost("gone"), set()),
        (UpstreamRateLimited("429"), {"same"}),
        (UpstreamAuth("401"), None),
        (RelayError("a bug"), None),
    ],
)
def test_an_error_says_which_runners_would_do_no_better(
    error: RelayError, expected: set[str] | None
) -> None:
    assert unfit(error, FAILED, OTHERS) == expected


def test_errors_are_retried_as_the_table_of_the_design_has_it() -> None:
    retried = {code: cls.retry for code, cls in BY_CODE.items() if cls.retry is not Retry.NEVER}
    assert retried == {
        "runner_lost": Retry.OTHER_RUNNER,
        "runner_failed": Retry.OTHER_RUNNER,
        "upstream_unavailable": Retry.OTHER_RUNNER,
        "upstream_broken": Retry.OTHER_RUNNER,
        "upstream_incomplete": Retry.OTHER_RUNNER,
        "upstream_rate_limited": Retry.OTHER_UPSTREAM,
    }


def test_a_budget_begins_with_the_retries_of_a_runner_that_is_lost() -> None:
    budget = RetryBudget(0.1)
    assert sum(budget.withdraw() for _ in range(1000)) == _BURST


def test_without_a_budget_nothing_is_retried() -> None:
    budget = RetryBudget(0.0)
    budget.deposit()
    assert not budget.withdraw()


def test_where_every_call_fails_a_tenth_is_retried() -> None:
    budget = RetryBudget(0.1)
    retries = 0
    for _ in range(10_000):
        budget.deposit()
        retries += budget.withdraw()
    assert retries == pytest.approx(1000 + _BURST, abs=2)


@given(st.floats(0.001, 1), st.lists(st.booleans(), max_size=500))
def test_retries_are_never_more_than_the_burst_and_the_share(
    ratio: float, deposits: list[bool]
) -> None:
    budget, calls, retries = RetryBudget(ratio), 0, 0
    for deposit in deposits:
        if deposit:
            budget.deposit()
            calls += 1
        else:
            retries += budget.withdraw()
        assert retries <= _BURST + ratio * calls + 1e-6
