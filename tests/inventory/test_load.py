"""Which file is read by whom, and what --limit leaves of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmrelay.config import Config
from llmrelay.errors import UnusableConfig
from llmrelay.inventory import ansible
from llmrelay.inventory.load import load
from llmrelay.values import HostAddress


def names(path: Path, **settings: Any) -> list[str]:
    return [spec.name for spec in load(Config(inventory=path, **settings)).specs]


@pytest.fixture(autouse=True)
def path_with_ansible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ansible's command stands beside the interpreter that the tests run with."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_an_inventory_each_runner_is_one_and_each_host_once() -> None:
    hosts = (HostAddress("a"), HostAddress("b", "u", 1), HostAddress("a"))
    assert [spec.name for spec in load(Config(runners=hosts)).specs] == ["a", "u@b:1"]


def test_limit_leaves_what_its_pattern_selects(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("[gpu]\ng[1:3]\n[cpu]\nc1\n")
    assert names(file, limit="gpu:!g2") == ["g1", "g3"]
    (tmp_path / "retry").write_text("c1\n# no host\n")
    retry = f"@{tmp_path}/retry"
    assert names(file, limit=retry) == ["c1"]
    assert load(Config(inventory=file, limit=retry)).files == (file, tmp_path / "retry")
    [warning] = load(Config(inventory=file, limit="gpu:!g4")).warnings
    assert warning == "--limit gpu:!g4: there is no host or group !g4"
    with pytest.raises(UnusableConfig, match=r"no host in .* that --limit nope leaves"):
        names(file, limit="nope")
    with pytest.raises(UnusableConfig, match="no host or group behind !"):
        names(file, limit="gpu:!")
    with pytest.raises(UnusableConfig, match="no regular expression"):
        names(file, limit="~(")
    with pytest.raises(UnusableConfig, match="cannot be read"):
        names(file, limit=f"@{tmp_path}/none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "There is no host in"),
        (b"h1\nh2 x=\xff\n", ":2: this is not UTF-8"),
        (b"h\n" * 9_000_000, "longer than"),
    ],
)
def test_a_file_that_is_no_inventory_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "hosts.ini"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableConfig, match=said):
        names(file)


def test_yaml_is_read_by_ansible(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yml"
    file.write_text(
        "gpu:\n  hosts:\n    g1:\n      llmrelay_weight: 2\n    g2:\n  vars:\n    a: 1\n"
    )
    one, _ = load(Config(inventory=file)).specs
    assert (one.name, one.weight, one.groups) == ("g1", 2.0, frozenset({"gpu"}))
    file.write_text("gpu:\n  hosts:\n    g1:\n      llmrelay_weigth: 2\n")
    with pytest.raises(UnusableConfig, match=r"hosts\.yml: .* did you mean llmrelay_weight"):
        names(file)
    file.write_text("gpu: [\n")
    with pytest.raises(UnusableConfig, match=r"ansible-inventory .* failed"):
        names(file)


def test_a_folder_a_program_and_group_vars_are_read_by_ansible(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.ini").write_text("[gpu]\ng1\n")
    (folder / "b.ini").write_text("[gpu]\ng2\n")
    assert names(folder) == ["g1", "g2"]
    (folder / "group_vars").mkdir()
    (folder / "group_vars" / "gpu.yml").write_text("llmrelay_max_calls: 5\n")
    understood = load(Config(inventory=folder / "a.ini"))
    assert [spec.max_calls for spec in understood.specs] == [5]
    assert folder / "group_vars" / "gpu.yml" in understood.files
    program = tmp_path / "program"
    said = {"gpu": {"hosts": ["p1"]}, "_meta": {"hostvars": {"p1": {"ansible_user": "u"}}}}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    program.chmod(0o755)
    [spec] = load(Config(inventory=program)).specs
    assert spec.host.address == HostAddress("p1", "u")


def test_without_ansible_what_is_not_ini_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not ansible.installed()
    file = tmp_path / "hosts.yml"
    file.write_text("all:\n")
    with pytest.raises(UnusableConfig, match="pip install ansible-core"):
        names(file)
    (tmp_path / "group_vars").mkdir()
    plain = tmp_path / "hosts"
    plain.write_text("h\n")
    [warning] = load(Config(inventory=plain)).warnings
    assert "group_vars is not read" in warning
