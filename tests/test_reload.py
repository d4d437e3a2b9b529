"""Runners that come, go and change while clients ask: GOAWAY, SIGHUP, --watch, renewed keys.

OpenSSH's sshds on 127.0.0.2 and so on, each with an upstream of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.helpers.asking import ask, runner_pids, wait_until, wait_until_ready
from tests.helpers.fleet import Fleet
from tests.helpers.front_end import FrontEndProcess
from tests.helpers.upstream import Delta, WaitFor, answer


def test_a_runner_that_is_told_to_end_has_a_successor_while_its_answers_go_on(
    fleet: Fleet,
) -> None:
    a, *_ = fleet.hosts
    fleet.write(a.line())
    with FrontEndProcess(fleet.options()) as front_end, ThreadPoolExecutor(1) as pool:
        a.script.queue.append([Delta("first, "), WaitFor("go"), *answer("last")])
        asked = pool.submit(ask, front_end)
        a.upstream.wait_for_requests(1)
        [pid] = runner_pids(a)
        os.kill(pid, signal.SIGTERM)
        front_end.wait_for_log("a is ready: ", count=2)
        assert ask(front_end) == {"a": 1}
        a.upstream.open("go")
        assert asked.result() == {"first, last": 1}


def test_sighup_adds_removes_and_changes_hosts_while_their_answers_go_on(fleet: Fleet) -> None:
    a, b, c = fleet.hosts
    fleet.write(a.line(), b.line())
    with FrontEndProcess(fleet.options()) as front_end, ThreadPoolExecutor(2) as pool:
        wait_until_ready(front_end, "a", "b")
        asked = []
        for host in (a, b):
            host.script.script = [
                Delta(f"{host.name} first, "),
                WaitFor("reloaded"),
                *answer("last"),
            ]
        asked.append(pool.submit(ask, front_end))
        wait_until(lambda: bool(a.script.requests or b.script.requests))
        asked.append(pool.submit(ask, front_end))  # goes to the one that has none yet
        a.upstream.wait_for_requests(1)
        b.upstream.wait_for_requests(1)
        for host in (a, b):
            host.script.script = answer(host.name)
        before = runner_pids(a)
        # b goes, c comes, a is another program from now on.
        other_python = fleet.folder / "python3"
        other_python.unlink(missing_ok=True)
        other_python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        other_python.chmod(0o755)
        fleet.write(a.line(ansible_python_interpreter=str(other_python)), c.line())
        front_end.signal(signal.SIGHUP)
        front_end.wait_for_log("removed b; changed a; added c")
        front_end.wait_for_log("a is ready: ", count=2)
        wait_until_ready(front_end, "c")
        assert set(ask(front_end, 20)) == {"a", "c"}
        assert before < runner_pids(a), front_end.log
        for host in (a, b):
            host.upstream.open("reloaded")
        answered = {body for each in asked for body in each.result()}
        assert answered == {"a first, last", "b first, last"}
        front_end.wait_for_log("reloaded: ")
        # What was there before is gone once its answer is whole.
        wait_until(lambda: not before & runner_pids(a) and not runner_pids(b))


def test_an_inventory_that_cannot_be_read_changes_nothing(fleet: Fleet) -> None:
    a, *_ = fleet.hosts
    fleet.write(a.line())
    with FrontEndProcess(fleet.options()) as front_end:
        fleet.write("a llmrelay_weigth=2")
        front_end.signal(signal.SIGHUP)
        log = front_end.wait_for_log("nothing is reloaded: ")
        assert "hosts.ini:1: there is no variable llmrelay_weigth; did you mean" in log
        assert ask(front_end, 5) == {"a": 5}


def test_a_file_that_is_watched_needs_no_sighup(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    fleet.write(a.line())
    with FrontEndProcess([*fleet.options(), "--watch"]) as front_end:
        fleet.write(a.line(), b.line())
        front_end.wait_for_log("(added b)")
        wait_until_ready(front_end, "b")
        assert set(ask(front_end, 20)) == {"a", "b"}


def test_a_key_that_is_renewed_is_used_from_then_on_without_a_new_connection(
    fleet: Fleet,
) -> None:
    a, b, _ = fleet.hosts
    key = fleet.folder / "key"
    key.write_text("sk-before")
    key.chmod(0o600)
    fleet.write(a.line(llmrelay_key_file=str(key)), b.line(llmrelay_key_env="B_KEY"))
    with FrontEndProcess(fleet.options(), {"B_KEY": "sk-of-b"}) as front_end:
        wait_until_ready(front_end, "a", "b")
        ask(front_end, 20)
        assert {request.headers["authorization"] for request in b.script.requests} == {
            "Bearer sk-of-b"
        }
        key.write_text("sk-after")
        front_end.signal(signal.SIGHUP)
        front_end.wait_for_log("reloaded: ")
        ask(front_end, 20)
        keys = [request.headers["authorization"] for request in a.script.requests]
        assert keys[0] == "Bearer sk-before"
        assert keys[-1] == "Bearer sk-after"
        assert front_end.log.count("a is ready: ") == 1
