"""A runner's stderr in the front-end's log."""

from __future__ import annotations

import logging

import pytest

from llmrelay.runners.stderr import MAX_LINE_BYTES, StderrLog


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> StderrLog:
    caplog.set_level(logging.DEBUG, "llmrelay.runner")
    return StderrLog("gpu01")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_lines_keep_their_level_and_get_the_runners_name(
    log: StderrLog, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    data = b"INFO runner: up\nERROR runner: call 3 failed\nERROR Traceback\n"
    for at in range(0, len(data), step):
        log.feed(data[at : at + step])
    assert said(caplog) == [
        ("INFO", "gpu01: runner: up"),
        ("ERROR", "gpu01: runner: call 3 failed"),
        ("ERROR", "gpu01: Traceback"),
    ]


def test_what_a_login_says_before_hello_is_no_warning(
    log: StderrLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.feed(b"Authorized use only.\n")
    log.plain_level = logging.WARNING
    log.feed(b"Segmentation fault\n")
    assert said(caplog) == [
        ("DEBUG", "gpu01: Authorized use only."),
        ("WARNING", "gpu01: Segmentation fault"),
    ]


def test_control_characters_cannot_steer_a_terminal(
    log: StderrLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.feed(b"\x1b[2J\x07red \xff alert\r\n")
    assert said(caplog) == [("DEBUG", "gpu01: ?[2J?red \ufffd alert")]


def test_a_line_without_an_end_is_bounded(log: StderrLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        log.feed(b"x" * 1000)
    assert all(len(message) <= MAX_LINE_BYTES + 20 for _, message in said(caplog))
    assert len(caplog.records) > 5


def test_the_last_lines_are_kept_for_whoever_asks_why(log: StderrLog) -> None:
    log.feed(b"".join(b"line %d\n" % i for i in range(100)) + b"no end")
    log.flush()
    assert log.lines[-2:] == ["line 99", "no end"]
    assert len(log.lines) < 20
