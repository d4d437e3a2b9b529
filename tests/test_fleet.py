"""Many runners behind one address: hosts that die, hang, lie, come and go, while clients ask.

OpenSSH's sshds on 127.0.0.2 and so on, each with an upstream of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.answers import read_until
from tests.helpers.asking import ask, health, runner_pids, wait_until_ready
from tests.helpers.fleet import Fleet, blackhole
from tests.helpers.front_end import ROOT, FrontEndProcess, run_serve
from tests.helpers.openssh import descendants_of
from tests.helpers.upstream import Cut, Delta, Status, WaitFor

REFUSAL = [Status(503)]


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


def test_a_recording_that_is_held_goes_to_another_runner_and_one_that_streams_does_not(
    fleet: Fleet,
) -> None:
    a, b, _ = fleet.hosts
    fleet.write(a.line(llmrelay_weight="1000"), b.line())
    target = "/v1/audio/transcriptions"
    a.script.paths[target] = REFUSAL
    b.script.paths[target] = [Status(200, body={"text": "as was said"})]
    with FrontEndProcess([*fleet.options(), "--max-body", "64KiB"]) as front_end:
        wait_until_ready(front_end, "a", "b")
        response, body = front_end.request("POST", "/transcribe", b"ID3")
        assert (response.status, body) == (200, b"as was said")
        response, body = front_end.request("POST", "/transcribe", b"ID3" + bytes(1024 * 1024))
        assert (response.status, body) == (502, b"The upstream answered 503: scripted error\n")
        assert (len(a.script.requests), len(b.script.requests)) == (2, 1)


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
        front_end.wait_for_log("a is ready: ", count=2)
        assert "a" in ask(front_end, 5)


def test_what_another_runner_would_not_do_better_is_not_tried_again(fleet: Fleet) -> None:
    a, b, _ = fleet.hosts
    fleet.write(a.line(), b.line())
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a", "b")
        for upstreams, ours in ((400, 400), (401, 502), (404, 404), (422, 422)):
            for host in fleet.hosts:
                host.script.script = [Status(upstreams)]
                host.script.requests.clear()
            assert front_end.chat()[0].status == ours
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
    a, b, _ = fleet.hosts
    fleet.write(a.line(), b.line())
    with FrontEndProcess([*fleet.options(), "--balance", "affinity"]) as front_end:
        wait_until_ready(front_end, "a", "b")
        opening = "x" * 1024
        [(first, _)] = ask_for(front_end, [opening]).items()
        assert ask_for(front_end, [opening + str(turn) for turn in range(5)]) == {first: 5}
        others = ask_for(front_end, [f"{number} other" for number in range(30)])
        assert set(others) == {"a", "b"}


def ask_for(front_end: FrontEndProcess, prompts: list[str]) -> Counter[str]:
    """Who answers each of these, one after the other."""
    return Counter(front_end.chat(prompt)[1].decode() for prompt in prompts)


def test_a_local_host_needs_no_ssh(fleet: Fleet) -> None:
    a, *_ = fleet.hosts
    fleet.write(a.line(ansible_connection="local", ansible_host="", llmrelay_instances="2"))
    with FrontEndProcess(fleet.options()) as front_end:
        wait_until_ready(front_end, "a#1", "a#2")
        assert ask(front_end, 5) == {"a": 5}
        pid, other = descendants_of(front_end.pid)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"OPENAI" not in environment
        os.kill(pid, signal.SIGKILL)
        front_end.wait_for_log(" is lost: SIGKILL ended it")
        front_end.wait_for_log(" is ready: ", count=3)
        assert ask(front_end, 5) == {"a": 5}
        assert other in descendants_of(front_end.pid)
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
