"""`llmrelay check`: what is found on the way to each runner.

OpenSSH's sshds, one of them a jump host, each with an upstream of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import llmrelay
from tests.helpers.fleet import Fleet, blackhole
from tests.helpers.front_end import KEY, ROOT
from tests.helpers.openssh import OpenSSHServer, processes_matching, require_sshd


@pytest.fixture(scope="module")
def bastion() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer(host="127.0.0.20") as server:
        yield server


@pytest.fixture
def fleet(two_hosts: Fleet, bastion: OpenSSHServer) -> Fleet:
    """Two hosts, the second behind the jump host."""
    two_hosts.trust(bastion.known_hosts)
    a, b = two_hosts.hosts
    for host in two_hosts.hosts:
        host.script.models = ("gpt-4o-mini", "llama-3")
    two_hosts.write(a.line(), b.line(ansible_ssh_common_args="-J bastion"))
    return two_hosts


def options(fleet: Fleet, bastion: OpenSSHServer) -> list[str]:
    return fleet.options(bastion.ssh_config("bastion"))


def steps(text: str) -> dict[str, list[tuple[str, str]]]:
    """What is shown: each host's steps, and how they went."""
    found: dict[str, list[tuple[str, str]]] = {}
    host = ""
    for line in text.splitlines():
        if step := re.fullmatch(r"  (\w[\w ]{8}) (ok|FAILED) +\d+ ms  .+", line):
            found[host].append((step[1].strip(), step[2]))
        elif head := re.fullmatch(r"(\S+) \(.*\)", line):
            host = head[1]
            found[host] = []
    return found


def runners_on(*servers: OpenSSHServer) -> list[int]:
    """The runner processes that were started over one of them, wherever they are by now."""
    found = []
    for pid in processes_matching("llmrelay-runner"):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if any(f" {each.host} {each.port}\0".encode() in environment for each in servers):
                found.append(pid)
    return found


DIRECT = [(step, "ok") for step in ("name", "tcp", "host key", "login")]
RUNNER = [(step, "ok") for step in ("python", "openai", "upstream")]


def test_every_hop_of_every_runner_is_tried_and_nothing_is_left(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, b = fleet.hosts
    behind = b.line(ansible_ssh_common_args="-J bastion", llmrelay_instances="2")
    fleet.write(a.line(), behind)
    logins = b.server.log.count("Accepted publickey")
    # Three runners are started at once, on a machine that may be busy with other tests.
    ran = llmrelay("check", *options(fleet, bastion))
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert steps(ran.stdout) == {
        "a": DIRECT + RUNNER,
        "bastion": DIRECT,
        "b": DIRECT[1:],  # whose name the jump host looks up
        "b#1": RUNNER,
        "b#2": RUNNER,
    }
    assert b.server.log.count("Accepted publickey") == logins + 1
    assert "3 of 3 runners are well." in ran.stdout
    assert "has 2 models (gpt-4o-mini, llama-3)" in ran.stdout
    assert KEY not in ran.stdout
    assert "\033" not in ran.stdout
    assert not any(host.script.requests[-1].method == "POST" for host in fleet.hosts)
    deadline = time.monotonic() + 30
    while runners_on(bastion, *(host.server for host in fleet.hosts)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Variables of a host that has these; the step that fails, its exit status and what it says.
FAILURES = [
    ({"ansible_host": "no-such-host.invalid"}, "name", 10, "does not resolve"),
    ({"ansible_port": "1"}, "tcp", 10, "cannot be reached: Connection refused"),
    ({"ansible_user": "nobody-here"}, "login", 13, "refuses the login of nobody-here"),
    ({"ansible_python_interpreter": "/no/py"}, "python", 14, "There is no /no/py on"),
    ({"ansible_python_interpreter": "/bin/true"}, "python", 16, "did not start"),
    ({"llmrelay_base_url": "http://127.0.0.1:1/v1"}, "upstream", 1, "cannot be reached"),
    ({"llmrelay_models": "gpt-9"}, "upstream", 1, "has no gpt-9, which the inventory promises"),
    ({"llmrelay_models": "gpt-9*"}, "upstream", 1, "has no gpt-9*, which the inventory"),
    ({"llmrelay_model_map": "x=gpt-9"}, "upstream", 1, "has no gpt-9"),
    ({"ansible_ssh_common_args": "-o Port=many"}, "settings", 3, "are of no use"),
    ({"ansible_ssh_common_args": "-o ProxyCommand=/no/such"}, "tcp", 10, "cannot be reached"),
    ({"llmrelay_key_env": "NOT_SET"}, "upstream", 4, "NOT_SET, where this upstream's key is"),
]


@pytest.fixture(scope="module")
def reports(two_hosts: Fleet, bastion: OpenSSHServer) -> list[dict[str, Any]]:
    """What one check says of a host for each of FAILURES, and of one that is well, the last."""
    two_hosts.trust(bastion.known_hosts)
    a, b = two_hosts.hosts
    lines = [
        a.line(**variables).replace("a", f"case{number}", 1)
        for number, (variables, *_) in enumerate(FAILURES)
    ]
    well = b.line(ansible_ssh_common_args="-J bastion")
    inventory = two_hosts.write(*lines, well, path=two_hosts.folder / "failures.ini")
    given = options(two_hosts, bastion)
    given[given.index("--inventory") + 1] = str(inventory)
    ran = llmrelay("check", *given, "--json")
    assert ran.returncode == FAILURES[0][2], ran.stderr  # the first one's
    said: list[dict[str, Any]] = json.loads(ran.stdout)
    assert [each["ok"] for each in said] == [False] * len(FAILURES) + [True]
    return said


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=lambda n: FAILURES[n][3])
def test_a_step_that_fails_says_what_mends_it(reports: list[dict[str, Any]], number: int) -> None:
    _, step, status, said = FAILURES[number]
    broken, well = reports[number], reports[-1]
    *before, failed = broken["steps"]
    assert all(each["ok"] for each in before)
    assert (failed["step"], failed["exit_status"]) == (step, status)
    assert said in failed["error"]
    page = (ROOT / "docs/inventory.md").read_text()
    assert [key for key in {*broken, *well["steps"][0], *failed} if f"`{key}`" not in page] == []
    assert [each["step"] for each in broken["steps"] if f"`{each['step']}`" not in page] == []


def test_a_proxy_command_that_ends_at_once_is_a_host_that_cannot_be_reached(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, _ = fleet.hosts
    # Several, as it is a race whether it is gone before or after the first byte is written to it.
    line = a.line(ansible_ssh_common_args="-o ProxyCommand=false")
    fleet.write(*(f"{number}{line}" for number in range(12)))
    ran = llmrelay("check", *options(fleet, bastion))
    assert (ran.returncode, ran.stderr) == (10, "")
    assert ran.stdout.count("cannot be reached") == 12


def test_what_several_runners_share_fails_once(fleet: Fleet, bastion: OpenSSHServer) -> None:
    a, _ = fleet.hosts
    fleet.write(a.line(ansible_user="nobody-here", llmrelay_instances="3"))
    ran = llmrelay("check", *options(fleet, bastion))
    assert ran.returncode == 13
    failed = [("host", "FAILED")]
    assert steps(ran.stdout) == {
        "a": [*DIRECT[:3], ("login", "FAILED")],
        **{f"a#{number}": failed for number in (1, 2, 3)},
    }
    assert ran.stdout.count("refuses the login of nobody-here") == 1


def test_a_jump_host_that_fails_is_shown_once(fleet: Fleet, bastion: OpenSSHServer) -> None:
    a, b = fleet.hosts
    fleet.trust()  # but not the jump host
    fleet.write(*(host.line(ansible_ssh_common_args="-J bastion") for host in (a, b)))
    ran = llmrelay("check", *options(fleet, bastion))
    assert ran.returncode == 11
    assert steps(ran.stdout) == {
        "bastion": [*DIRECT[:2], ("host key", "FAILED")],
        "a": [("jump", "FAILED")],
        "b": [("jump", "FAILED")],
    }
    assert ran.stdout.count("The host key of bastion is not known") == 1


@pytest.mark.parametrize(
    ("variables", "after", "step"),
    [
        ({"ansible_port": "1"}, [], "tcp"),
        ({"ansible_host": "no-such-host.invalid"}, [], "tcp"),  # the jump host looks it up
        ({"ansible_user": "nobody-here"}, DIRECT[1:3], "login"),
    ],
)
def test_what_fails_behind_a_jump_host_is_not_the_jump_hosts(
    fleet: Fleet,
    bastion: OpenSSHServer,
    variables: dict[str, str],
    after: list[tuple[str, str]],
    step: str,
) -> None:
    a, _ = fleet.hosts
    fleet.write(a.line(ansible_ssh_common_args="-J bastion", **variables))
    ran = llmrelay("check", *options(fleet, bastion))
    assert steps(ran.stdout) == {"bastion": DIRECT, "a": [*after, (step, "FAILED")]}


def test_of_jump_hosts_in_a_row_the_one_that_is_down_is_named(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, b = fleet.hosts
    fleet.trust()  # but not the first of the two
    b_host = b.server
    config = fleet.folder / "two_jump_hosts"
    config.write_text(
        bastion.ssh_config("outer").read_text() + b_host.ssh_config("inner").read_text()
    )
    fleet.write(a.line(ansible_ssh_common_args="-J outer,inner"))
    given = fleet.options(config)
    ran = llmrelay("check", *given)
    assert ran.returncode == 11
    assert steps(ran.stdout) == {
        "outer": [*DIRECT[:2], ("host key", "FAILED")],
        "a": [("jump", "FAILED")],
    }
    assert "outer is in the way" in ran.stdout


def test_a_jump_host_that_is_tried_again_meanwhile_is_told_of_once(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, b = fleet.hosts
    closed = fleet.folder / "closed"
    closed.write_text("Host bastion\n HostName 127.0.0.1\n Port 1\n")
    with blackhole() as port:
        silent = a.line(ansible_host="127.0.0.1", ansible_port=str(port))
        fleet.write(silent, b.line(ansible_ssh_common_args="-J bastion"))
        given = fleet.options(closed)
        ran = llmrelay("check", *given, "--connect-timeout", "3")
    assert steps(ran.stdout)["bastion"] == [DIRECT[0], ("tcp", "FAILED")]


def test_a_host_that_does_not_answer_holds_up_no_other(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, b = fleet.hosts
    with blackhole() as port:
        silent = a.line(ansible_host="127.0.0.1", ansible_port=str(port))
        fleet.write(silent, b.line())
        # It bounds b's start, too, on a machine that is busy with other tests.
        ran = llmrelay("check", *options(fleet, bastion), "--connect-timeout", "12")
    assert ran.returncode == 10
    assert steps(ran.stdout)["a"] == [DIRECT[0], ("tcp", "FAILED")]
    assert steps(ran.stdout)["b"] == DIRECT + RUNNER


def test_without_a_key_everything_but_upstream_is_tried(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    ran = llmrelay("check", *options(fleet, bastion), "--limit", "a", key="")
    assert ran.returncode == 4
    assert steps(ran.stdout) == {"a": [*DIRECT, *RUNNER[:2], ("upstream", "FAILED")]}


def test_ctrl_c_ends_a_check_cleanly(fleet: Fleet, bastion: OpenSSHServer) -> None:
    with blackhole() as port:
        fleet.write(f"a ansible_host=127.0.0.1 ansible_port={port}")
        before = connecting_to(port)
        process = subprocess.Popen(
            [sys.executable, "-m", "llmrelay", "check", *options(fleet, bastion)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not connecting_to(port) - before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "llmrelay: ended at once by SIGINT\n")


def connecting_to(port: int) -> set[str]:
    """From where somebody waits for a connection to that port (state 02, SYN_SENT)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    sockets = [line.split() for line in lines]
    return {each[1] for each in sockets if each[2].endswith(f":{port:04X}") and each[3] == "02"}


def test_nothing_to_check_is_an_error_of_the_command_line() -> None:
    assert llmrelay("check").returncode == 2
