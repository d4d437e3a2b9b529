"""The benchmark's quick run, of made-up rounds, and what `start` reads in a log."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from scripts.benchmark import quick, start
from scripts.benchmark.quick import GROUPS, Round


def one(turns: float) -> Round:
    figures = dict.fromkeys(GROUPS, turns)
    return Round(figures, figures, figures, [7.0, 8.0], {})


def test_a_run_is_one_line_of_json_with_each_median_least_and_most() -> None:
    line = quick.line([one(3.0), one(1.0), one(2.0)])
    assert "\n" not in line
    found = json.loads(line)
    assert found["bench"] == "quick"
    for figure in quick.FIGURES:
        assert found[figure] == {group: [2.0, 1.0, 3.0] for group in GROUPS}
    assert found["turn_us"] == [7.5, 7.0, 8.0]


def test_the_fixed_loop_takes_time() -> None:
    assert 0.1 < quick.reference_us() < 1_000


def test_the_log_says_when_a_runner_was_ready_and_how_long_the_import_took() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)
    message = "host is ready: Python 3.11.7, openai 3.57.0, pid 42, import 0.71 s"
    log = "\n".join(
        [
            "a line that is no JSON",
            json.dumps({"time": at.isoformat(), "message": "host: something else"}),
            json.dumps({"time": at.isoformat(), "message": message}),
        ]
    )
    ready_s, import_s = start.said(log, at.timestamp() - 0.5)
    assert ready_s == pytest.approx(0.5)
    assert import_s == 0.71
    assert start.said("", 0.0) == (None, None)
