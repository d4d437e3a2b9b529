"""`llmrelay inventory`: what is shown of what was understood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import llmrelay
from tests.helpers.front_end import ROOT

HOSTS = (
    "lone\n[gpu]\ng1 ansible_user=u llmrelay_key_env=K\n"
    "g2 ansible_ssh_common_args='-J gate -o ControlMaster=auto' llmrelay_models=llama-*\n"
    "[site:children]\ngpu\n"
)


@pytest.fixture
def hosts(tmp_path: Path) -> str:
    file = tmp_path / "hosts"
    file.write_text(HOSTS)
    return str(file)


def test_a_table_has_a_line_for_each_runner(hosts: str) -> None:
    ran = llmrelay("inventory", "--inventory", hosts, key="")
    assert ran.returncode == 0
    assert ran.stdout == (
        "runner  where        groups    models   upstream                   calls  key\n"
        "lone    lone         -         *        https://api.openai.com/v1  1024   of serve\n"
        "g1      u@g1         gpu,site  *        https://api.openai.com/v1  1024   $K\n"
        "g2      g2 via gate  gpu,site  llama-*  https://api.openai.com/v1  1024   of serve\n"
    )
    assert ran.stderr == (
        f"llmrelay: warning: {hosts}:4: ansible_ssh_common_args: -o ControlMaster=auto"
        " is not honoured\n"
    )


def test_options_hold_for_what_the_inventory_leaves_open(hosts: str) -> None:
    ran = llmrelay("inventory", "--inventory", hosts, "--limit", "g1", "--base-url", "http://u/v1")
    assert ran.stdout == (
        "runner  where  groups    upstream     calls  key\n"
        "g1      u@g1   gpu,site  http://u/v1  1024   $K\n"
    )


def test_runners_that_are_named_are_shown_the_same_way() -> None:
    ran = llmrelay("inventory", "--runner", "gpu-box", "--runner", "u@h:2222")
    assert [line.split()[:2] for line in ran.stdout.splitlines()] == [
        ["runner", "where"],
        ["gpu-box", "gpu-box"],
        ["u@h:2222", "u@h:2222"],
    ]


@pytest.mark.parametrize("example", [False, True])
def test_a_graph_is_ansibles(hosts: str, example: bool, tmp_path: Path) -> None:
    file = str(ROOT / "inventory.ini") if example else hosts
    theirs = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", file, "--graph"],
        capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert llmrelay("inventory", "--inventory", file, "--graph").stdout == theirs.stdout


def test_json_has_the_same_keys_for_each_runner_and_they_are_documented(hosts: str) -> None:
    said = json.loads(llmrelay("inventory", "--inventory", hosts, "--json").stdout)
    assert [each["name"] for each in said] == ["lone", "g1", "g2"]
    assert said[1]["key"] == "$K"
    assert said[2]["ssh_options"] == [["ProxyJump", "gate"]]
    [keys] = {tuple(each) for each in said}
    page = (ROOT / "docs/inventory.md").read_text()
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_a_key_is_never_shown(hosts: str) -> None:
    for form in ([], ["--json"]):
        ran = llmrelay("inventory", "--inventory", hosts, *form, key="sk-not-to-be-seen")
        assert "sk-not-to-be-seen" not in ran.stdout + ran.stderr


def test_what_serve_would_refuse_is_refused(tmp_path: Path, hosts: str) -> None:
    file = tmp_path / "wrong"
    file.write_text("h llmrelay_weigth=2\n")
    ran = llmrelay("inventory", "--inventory", str(file))
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "wrong:1: there is no variable llmrelay_weigth; did you mean" in ran.stderr
    assert llmrelay("inventory").returncode == 2
    assert llmrelay("inventory", "--runner", "h", "--graph").returncode == 2


def test_whoever_reads_no_further_hears_no_complaint() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as unread:
        ran = llmrelay("inventory", "--runner", "h", stdout=unread)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_disk_that_is_full_is_said_in_words() -> None:
    with Path("/dev/full").open("w") as full:
        ran = llmrelay("inventory", "--runner", "h", stdout=full)
    assert ran.returncode == 1
    assert ran.stderr == "llmrelay: The output could not be written: No space left on device.\n"
