"""`llmrelay check` and `llmrelay inventory`: what is found on the way to each runner.

OpenSSH's sshds, one of them a jump host, each with an upstream of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.fleet import Fleet, blackhole
from tests.helpers.front_end import KEY, ROOT
from tests.helpers.openssh import OpenSSHServer, processes_matching, require_sshd


@pytest.fixture(scope="module")
def bastion() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer(host="127.0.0.20") as server:
        yield server


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    require_sshd()
    with Fleet(2) as running:
        yield running


@pytest.fixture
def fleet(hosts: Fleet, bastion: OpenSSHServer) -> Fleet:
    """Two hosts, the second behind the jump host."""
    hosts.trust(bastion.known_hosts)
    a, b = hosts.hosts
    for host in hosts.hosts:
        host.script.models = ("gpt-4o-mini", "llama-3")
    hosts.write(a.line(), b.line(ansible_ssh_common_args="-J bastion"))
    return hosts


def options(fleet: Fleet, bastion: OpenSSHServer) -> list[str]:
    given = fleet.options()
    given[given.index("--ssh-config") + 1] = str(bastion.ssh_config("bastion"))
    return given


def llmrelay(*arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    return subprocess.run(
        [sys.executable, "-m", "llmrelay", *arguments],
        capture_output=True, text=True, timeout=30, cwd=ROOT, stdin=subprocess.DEVNULL,
        env=clean | ({"OPENAI_API_KEY": key} if key else {}), check=False,
    )  # fmt: skip


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
    ran = llmrelay("check", *options(fleet, bastion))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert steps(ran.stdout) == {
        "a": DIRECT + RUNNER,
        "bastion": DIRECT,
        "b": DIRECT[1:] + RUNNER,  # whose name the jump host looks up
    }
    assert "2 of 2 runners are well." in ran.stdout
    assert "has 2 models (gpt-4o-mini, llama-3)" in ran.stdout
    assert KEY not in ran.stdout
    assert "\033" not in ran.stdout
    assert not any(host.script.requests[-1].method == "POST" for host in fleet.hosts)
    deadline = time.monotonic() + 10
    while runners_on(bastion, *(host.server for host in fleet.hosts)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("variables", "step", "status", "said"),
    [
        ({"ansible_host": "no-such-host.invalid"}, "name", 10, "does not resolve"),
        ({"ansible_port": "1"}, "tcp", 10, "cannot be reached: Connection refused"),
        ({"ansible_user": "nobody-here"}, "login", 13, "refuses the login of nobody-here"),
        ({"ansible_python_interpreter": "/no/py"}, "python", 14, "There is no /no/py on a"),
        ({"ansible_python_interpreter": "/bin/true"}, "python", 16, "did not start"),
        ({"llmrelay_base_url": "http://127.0.0.1:1/v1"}, "upstream", 1, "cannot be reached"),
        ({"llmrelay_models": "gpt-9"}, "upstream", 1, "has no gpt-9, which the inventory promises"),
        ({"llmrelay_model_map": "x=gpt-9"}, "upstream", 1, "has no gpt-9"),
        ({"llmrelay_key_env": "NOT_SET"}, "upstream", 4, "NOT_SET, which llmrelay_key_env names"),
    ],
)
def test_a_step_that_fails_says_what_mends_it(
    fleet: Fleet,
    bastion: OpenSSHServer,
    variables: dict[str, str],
    step: str,
    status: int,
    said: str,
) -> None:
    a, b = fleet.hosts
    fleet.write(a.line(**variables), b.line(ansible_ssh_common_args="-J bastion"))
    ran = llmrelay("check", *options(fleet, bastion), "--json")
    assert ran.returncode == status, ran.stdout
    broken, well = json.loads(ran.stdout)
    assert (broken["name"], broken["ok"], well["name"], well["ok"]) == ("a", False, "b", True)
    *before, failed = broken["steps"]
    assert all(each["ok"] for each in before)
    assert (failed["step"], failed["exit_status"]) == (step, status)
    assert said in failed["error"]


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


def test_a_host_that_does_not_answer_holds_up_no_other(
    fleet: Fleet, bastion: OpenSSHServer
) -> None:
    a, b = fleet.hosts
    with blackhole() as port:
        silent = a.line(ansible_host="127.0.0.1", ansible_port=str(port))
        fleet.write(silent, b.line())
        ran = llmrelay("check", *options(fleet, bastion), "--connect-timeout", "3")
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
        process = subprocess.Popen(
            [sys.executable, "-m", "llmrelay", "check", *options(fleet, bastion)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not connecting_to(port):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, "llmrelay: ended at once by SIGINT\n")


def connecting_to(port: int) -> bool:
    """Whether somebody waits for a connection to that port (state 02, SYN_SENT)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    waiting = [line.split() for line in lines]
    return sum(each[2].endswith(f":{port:04X}") and each[3] == "02" for each in waiting) > 1


def test_inventory_shows_what_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "lone\n[gpu]\ng1 ansible_user=u llmrelay_key_env=K\n"
        "g2 ansible_ssh_common_args='-J gate -o ControlMaster=auto' llmrelay_models=llama-*\n"
        "[site:children]\ngpu\n"
    )
    ran = llmrelay("inventory", "--inventory", str(file), key="")
    assert ran.returncode == 0
    assert ran.stdout == (
        "runner  where        groups    models   upstream                   calls  key\n"
        "lone    lone         -         *        https://api.openai.com/v1  1024   of serve\n"
        "g1      u@g1         gpu,site  *        https://api.openai.com/v1  1024   $K\n"
        "g2      g2 via gate  gpu,site  llama-*  https://api.openai.com/v1  1024   of serve\n"
    )
    assert ran.stderr == (
        f"llmrelay: warning: {file}:4: ansible_ssh_common_args: -o ControlMaster=auto"
        " is not honoured\n"
    )
    graph = llmrelay("inventory", "--inventory", str(file), "--graph", key="")
    theirs = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", file, "--graph"],
        capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert graph.stdout == theirs.stdout
    said = json.loads(llmrelay("inventory", "--inventory", str(file), "--json", key="").stdout)
    assert [each["name"] for each in said] == ["lone", "g1", "g2"]
    assert said[2]["ssh_options"] == [["ProxyJump", "gate"]]


def test_inventory_refuses_what_serve_would_refuse(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("h llmrelay_weigth=2\n")
    ran = llmrelay("inventory", "--inventory", str(file))
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "hosts:1: there is no variable llmrelay_weigth; did you mean" in ran.stderr
    assert llmrelay("inventory").returncode == 2
    assert llmrelay("check").returncode == 2
