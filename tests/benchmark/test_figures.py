"""How a benchmark's numbers are summed up and shown. Pure."""

from __future__ import annotations

import pytest

from scripts.benchmark.figures import PERCENTILES, ms_over_rounds, over_rounds, percentiles


def test_percentiles_are_values_that_were_measured() -> None:
    found = percentiles([float(n) for n in range(1001)][::-1])
    assert found == {"p50": 500, "p99": 990, "p99.9": 999, "max": 1000}
    assert tuple(found) == PERCENTILES


def test_nothing_measured_has_no_percentiles() -> None:
    assert percentiles([]) == {}
    assert over_rounds([None, None]) == "-"
    assert ms_over_rounds([None]) == "-"


def test_rounds_are_shown_as_their_median_and_range() -> None:
    assert over_rounds([3.0, 1.0, 2.0]) == "2.0 (1.0-3.0)"
    assert over_rounds([2.01, 2.02, None]) == "2.0"
    assert over_rounds([-0.01]) == "0.0"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.234, 9.0, 2.0], "2.00 (1.23-9.00)"),
        ([12.34], "12.3"),
        ([1234.5, 1000.4], "1117 (1000-1234)"),
    ],
)
def test_milliseconds_have_the_digits_that_mean_something(values: list[float], shown: str) -> None:
    assert ms_over_rounds(values) == shown
