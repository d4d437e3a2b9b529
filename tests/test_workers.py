"""`serve --workers N`: several front-ends on one address, with runners of their own.

Over OpenSSH, from outside. What becomes of the processes is told in tests/test_supervisor.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
from pathlib import Path

import pytest

from llmrelay import log
from llmrelay.config import Config
from llmrelay.http.tokens import Tokens
from tests.helpers.front_end import KEY, runner_options
from tests.helpers.openssh import OpenSSHServer, children_of
from tests.helpers.upstream import Delta, WaitFor, answer
from tests.test_life import asking, read_to_the_end, staging, until_gone
from tests.test_start_errors import refusal, replaced

TWO = ("--workers", "2")
RUNNER = re.compile(r"llmrelay\.runner\[(\d)\]: .* is ready: .* pid (\d+),")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_workers_answer_and_end_with_their_supervisor(
    sshd: OpenSSHServer, number: signal.Signals
) -> None:
    """Drained, with the answers that they have; or killed, and nothing is left."""
    with (
        staging(sshd, [Delta("first, "), WaitFor("go"), *answer("last")], *TWO) as own,
        contextlib.ExitStack() as stack,
    ):
        front_end = own.front_end
        runners = dict(RUNNER.findall(front_end.log))
        assert runners.keys() == {"1", "2"}
        workers = children_of(front_end.pid)
        assert len(workers) == 2
        # That of 20 none goes to one of them is 2 ** -19.
        clients = [stack.enter_context(asking(own, until=b"first, "))[0] for _ in range(20)]

        front_end.signal(signal.SIGHUP)
        for worker in runners:
            front_end.wait_for_log(f"llmrelay[{worker}]: reloaded: ")
        front_end.signal(number)
        if number == signal.SIGTERM:
            front_end.wait_for_log("draining", count=2)
            own.upstream.open("go")
            for client in clients:
                assert read_to_the_end(client).endswith(b"\r\n0\r\nX-Finish-Reason: stop\r\n\r\n")
            assert front_end.wait() == 0
            said = front_end.log
            for worker in runners:
                assert re.search(rf"llmrelay\.access\[{worker}\]: .* complete ", said)
            assert "Traceback" not in said
        else:
            front_end.process.wait()
        assert KEY not in front_end.log
        until_gone({*workers, *map(int, runners.values())}, 10)


def test_a_start_error_is_said_once(sshd: OpenSSHServer) -> None:
    options = replaced(runner_options(sshd), "--known-hosts", os.devnull)
    status, said = refusal([*options, *TWO])
    assert status == 11
    assert "is not known" in said


def test_each_worker_allows_its_share_of_what_holds_for_all(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        "alice a-token-of-no-use calls=5 per-minute=60\nbob another-of-no-use calls=1\n"
    )
    file.chmod(0o600)
    tokens = Tokens(file, Config(workers=2).share)
    tokens.load()
    alice, bob = tokens.find("a-token-of-no-use"), tokens.find("another-of-no-use")
    assert alice is not None
    assert bob is not None
    assert (alice.calls, alice.per_minute) == (3, 30)
    assert (bob.calls, bob.per_minute) == (1, None)
    assert Config().share(1024) == 1024


def test_a_line_of_the_log_says_which_worker_it_is_of() -> None:
    record = logging.LogRecord("llmrelay.x", logging.INFO, "", 0, "said", None, None)
    assert log.TextFormatter(2).format(record).endswith(" info    llmrelay.x[2]: said")
    assert json.loads(log.JsonFormatter(2).format(record))["worker"] == 2
    assert "worker" not in json.loads(log.JsonFormatter().format(record))
