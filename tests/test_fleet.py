"""Many runners behind one address: hosts that die, hang, lie, come and go, while clients ask.

OpenSSH's sshds on 127.0.0.2 and so on, each with an upstream of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.answers import read_until
from tests.helpers.fleet import Fleet, Host, blackhole
from tests.helpers.front_end import ROOT, FrontEndProcess, run_serve
from tests.helpers.openssh import descendants_of, processes_matching, require_sshd
from tests.helpers.upstream import Cut, Delta, Script, Status, WaitFor, answer

REFUSAL = [Status(503)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    require_sshd()
    with Fleet(3) as running:
        yield running


@pytest.fixture
def fleet(hosts: Fleet) -> Fleet:
    """The module's hosts as each test finds them: well, and all in the inventory."""
    for host in hosts.hosts:
        host.script.script = answer(host.name)
        host.script.queue.clear()
        host.script.requests.clear()
    hosts.trust()
    hosts.write(*(host.line() for host in hosts.hosts))
    return hosts


def health(front_end: FrontEndProcess) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(front_end.request("GET", "/healthz")[1])
    return said


def wait_until_ready(front_end: FrontEndProcess, *names: str) -> None:
    for name in names:
        front_end.wait_for_log(f"{name} is ready: ", limit_s=20)


def ask(front_end: FrontEndProcess, count: int = 1, query: str = "") -> Counter[str]:
    """How often each host answered; every answer has to be one."""
    with ThreadPoolExecutor(min(count, 16)) as pool:
        replies = list(pool.map(lambda _: front_end.chat("hi", query), range(count)))
    assert [response.status for response, _ in replies] == [200] * count, replies
    return Counter(body.decode() for _, body in replies)


def runner_pids(host: Host) -> set[int]:
    """The runner processes on a host."""
    return set(processes_matching("llmrelay-runner")) & set(descendants_of(host.server.pid))


def test_calls_are_spread_over_all_hosts(fleet: Fleet) -> None:
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b", "c")
        assert set(ask(front_end, 40)) == {"a", "b", "c"}
        runners = health(front_end)["runners"]
        assert {name: each["state"] for name, each in runners.items()} == dict.fromkeys(
            "abc", "ready"
        )


def test_it_listens_when_the_first_is_ready_whatever_the_others_do(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    # Nothing ever answers a connection to this one; the other refuses it.
    with blackhole() as port:
        fleet.write(
            a.line(),
            b.line(ansible_host="127.0.0.1", ansible_port=str(port)),
            "refused ansible_host=127.0.0.9 ansible_port=1",
        )
        with FrontEndProcess(fleet.options()) as front_end:
            assert ask(front_end, 5) == {"a": 5}
            front_end.wait_for_log("refused is lost: ")
            assert health(front_end)["runners"]["b"]["state"] == "connecting"


def test_a_call_that_was_not_answered_yet_goes_to_another_runner(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    fleet.write(a.line(llmrelay_weight="1000"), b.line())
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b")
        a.script.queue += [REFUSAL, [Cut()]]
        assert ask(front_end) == {"b": 1}
        assert ask(front_end) == {"b": 1}
        assert len(a.script.requests) == 2  # neither was asked again by its runner
        log = front_end.wait_for_log("failed=a:upstream_unavailable", count=2)
        assert "runner=b" in log
        # And one whose runner is killed while upstream is silent.
        a.script.queue.append([WaitFor("never")])
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, front_end)
            a.upstream.wait_for_requests(3)
            [pid] = runner_pids(a)
            os.kill(pid, signal.SIGKILL)
            assert asked.result() == {"b": 1}
        front_end.wait_for_log("failed=a:runner_lost")
        front_end.wait_for_log("a is lost: SIGKILL ended it")
        wait_until_ready(front_end, "a")


def test_an_answer_that_had_begun_is_cut_and_not_begun_again(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    fleet.write(a.line(llmrelay_weight="1000"), b.line())
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b")
        a.script.queue.append([Delta("begun"), WaitFor("never")])
        connection = front_end.connect()
        connection.request("POST", "/chat", b"hi")
        assert connection.sock is not None
        begun = read_until(connection.sock, b"begun\r\n")
        a.server.stop()
        assert connection.sock.recv(1000) == b""
        assert begun.endswith(b"\r\n\r\n5\r\nbegun\r\n")  # and no last chunk
        connection.close()
        assert ask(front_end, 5) == {"b": 5}
        a.server.start_again()
        front_end.wait_for_log("a is ready: ", limit_s=20, count=2)
        assert "a" in ask(front_end, 5)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([Status(400)], 400),
        ([Status(401)], 502),
        ([Status(404)], 404),
        ([Status(422)], 422),
    ],
)
def test_what_another_runner_would_not_do_better_is_not_tried_again(
    fleet: Fleet, script: Script, status: int
) -> None:
    for host in fleet.hosts:
        host.script.script = script
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b", "c")
        assert front_end.chat()[0].status == status
        assert sum(len(host.script.requests) for host in fleet.hosts) == 1


def test_a_group_and_a_model_are_asked_for(fleet: Fleet) -> None:
    a, b, c = fleet.hosts
    fleet.write(
        "[one]", a.line(llmrelay_models="llama-*"),
        "[two]", b.line(llmrelay_models="qwen-*", llmrelay_model_map="gpt-4o=qwen-2"), c.line(),
    )  # fmt: skip
    with FrontEndProcess([*fleet.options(), "--model", "llama-3"]) as front_end:
        wait_until_ready(front_end, "a", "b", "c")
        assert set(ask(front_end, 20)) == {"a", "c"}
        assert ask(front_end, 5, "?group=one") == {"a": 5}
        assert ask(front_end, 5, "?group=two") == {"c": 5}
        assert set(ask(front_end, 20, "?group=two&model=gpt-4o")) == {"b", "c"}
        assert {request.json["model"] for request in b.script.requests} == {"qwen-2"}
        response, body = front_end.chat("hi", "?group=one&model=mistral")
        assert (response.status, response.headers["X-Error-Code"]) == (404, "model_not_found")
        response, _ = front_end.chat("hi", "?group=three")
        assert response.status == 400
        response, body = front_end.request("POST", "/chat", b"hi", {"X-LLMRelay-Group": "two"})
        assert body == b"c"


def test_affinity_keeps_a_conversation_on_its_runner(fleet: Fleet) -> None:
    with FrontEndProcess([*fleet.options(), "--balance", "affinity"]) as front_end:
        wait_until_ready(front_end, "a", "b", "c")
        opening = "x" * 1024
        [(first, _)] = ask_for(front_end, [opening]).items()
        assert ask_for(front_end, [opening + str(turn) for turn in range(5)]) == {first: 5}
        others = ask_for(front_end, [f"{number} other" for number in range(30)])
        assert set(others) == {"a", "b", "c"}


def ask_for(front_end: FrontEndProcess, prompts: list[str]) -> Counter[str]:
    """Who answers each of these, one after the other."""
    return Counter(front_end.chat(prompt)[1].decode() for prompt in prompts)


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
        front_end.wait_for_log("a is ready: ", limit_s=20, count=2)
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
        front_end.wait_for_log("a is ready: ", limit_s=20, count=2)
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


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_inventory_that_cannot_be_read_changes_nothing(fleet: Fleet) -> None:
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b", "c")
        fleet.write("a llmrelay_weigth=2")
        front_end.signal(signal.SIGHUP)
        log = front_end.wait_for_log("nothing is reloaded: ")
        assert "hosts.ini:1: there is no variable llmrelay_weigth; did you mean" in log
        assert set(ask(front_end, 20)) == {"a", "b", "c"}


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


def test_a_local_host_needs_no_ssh(fleet: Fleet) -> None:
    a, *_ = fleet.hosts
    fleet.write(a.line(ansible_connection="local", ansible_host=""))
    with FrontEndProcess(fleet.options()) as front_end:
        assert ask(front_end, 5) == {"a": 5}
        [pid] = descendants_of(front_end.pid)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"OPENAI" not in environment
        os.kill(pid, signal.SIGKILL)
        front_end.wait_for_log("a is lost: SIGKILL ended it")
        front_end.wait_for_log("a is ready: ", limit_s=20, count=2)
        assert ask(front_end, 5) == {"a": 5}
        children = descendants_of(front_end.pid)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_where_no_runner_can_be_started_it_says_why_for_each(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    fleet.known_hosts.write_text(b.server.known_hosts.read_text())
    fleet.write(a.line(), b.line(ansible_python_interpreter="/no/python"))
    status, _, stderr = run_serve(fleet.options())
    assert status == 11
    said = stderr[stderr.index("llmrelay: ") :]
    assert "None of the 2 runners could be started." in said
    assert "\n  a: The host key of" in said
    assert "\n  b: There is no /no/python on b" in said


def test_the_example_at_the_top_is_served_from(fleet: Fleet) -> None:
    """Its names lead to a host of ours, but for those that log in as somebody who is not there."""
    a, *_ = fleet.hosts
    config = fleet.folder / "example_ssh_config"
    config.write_text(
        f"Host *.example.com 192.0.2.*\n  HostName {a.server.host}\n  Port {a.server.port}\n"
        f"  User {a.server.user}\n  IdentityFile {a.server.identity}\n  IdentitiesOnly yes\n"
    )
    options = ["--inventory", str(ROOT / "inventory.ini"), "--ssh-config", str(config)]
    options += ["--known-hosts", str(fleet.known_hosts), "--base-url", a.upstream.base_url]
    with FrontEndProcess([*options, "--remote-python", sys.executable]) as front_end:
        wait_until_ready(front_end, "egress", "workstation")
        front_end.wait_for_log("gpu04.example.com is lost: ")
        states = {name: each["state"] for name, each in health(front_end)["runners"].items()}
        assert len(states) == 8
        assert states["egress"] == states["workstation"] == "ready"
        assert ask(front_end, 5, "?group=cloud") == {"a": 5}
        assert front_end.chat("hi", "?group=cloud&model=llama-3")[0].status == 404
        assert front_end.chat("hi", "?group=inference&model=gpt-4o")[0].status == 503
