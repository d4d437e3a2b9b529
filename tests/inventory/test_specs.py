"""Variables of hosts become runners, or a sentence that says where the mistake is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmrelay.config import Config
from llmrelay.errors import UnusableConfig
from llmrelay.inventory.load import Understood, load
from llmrelay.runners.spec import HostSpec, KeySource, RunnerSpec
from llmrelay.values import HostAddress


def understood(folder: Path, text: str, **settings: Any) -> Understood:
    file = folder / "hosts.ini"
    file.write_text(text)
    return load(Config(inventory=file, **settings))


def test_a_host_that_says_nothing_is_as_the_command_line_has_it(tmp_path: Path) -> None:
    [spec] = understood(
        tmp_path,
        "gpu01\n",
        remote_python="/py",
        base_url="http://up/v1",
        identity=Path("/id"),
        max_calls=7,
    ).specs
    host = HostSpec(HostAddress("gpu01"), "/py", "http://up/v1", Path("/id"))
    assert spec == RunnerSpec("gpu01", host, max_calls=7)


def test_every_variable_has_its_place(tmp_path: Path) -> None:
    text = """
[gpu]
one ansible_host=192.0.2.1 ansible_port=2222 ansible_user=llm llmrelay_weight=2.5
[gpu:vars]
ansible_python_interpreter=/opt/py
ansible_ssh_private_key_file=/keys/id
ansible_ssh_common_args=-J jump
ansible_ssh_extra_args=-o User=else
llmrelay_base_url=http://127.0.0.1:8000/v1
llmrelay_key_env=GPU_KEY
llmrelay_max_calls=3
llmrelay_models=llama-*, qwen
llmrelay_model_map=gpt-4o=llama-3,o1=qwen
llmrelay_labels={'rack': 'a1', 'row': 2}
[site:children]
gpu
"""
    [spec] = understood(tmp_path, text).specs
    assert spec == RunnerSpec(
        "one",
        HostSpec(
            HostAddress("192.0.2.1", "llm", 2222),
            "/opt/py",
            "http://127.0.0.1:8000/v1",
            Path("/keys/id"),
            (("ProxyJump", "jump"), ("User", "else")),
            KeySource("GPU_KEY"),
        ),
        groups=frozenset({"gpu", "site"}),
        models=("llama-*", "qwen"),
        model_map=(("gpt-4o", "llama-3"), ("o1", "qwen")),
        weight=2.5,
        max_calls=3,
        labels=(("rack", "a1"), ("row", "2")),
    )


def test_a_local_host_has_no_address_and_auto_is_the_command_lines_python(tmp_path: Path) -> None:
    text = "here ansible_connection=local ansible_python_interpreter=auto_silent\n"
    [spec] = understood(tmp_path, text).specs
    assert spec.host.address is None
    assert spec.host.python == "python3"


def test_arguments_of_ssh_may_be_none_as_where_a_host_takes_back_its_groups(tmp_path: Path) -> None:
    text = "[g]\na\nb ansible_ssh_common_args=''\n[g:vars]\nansible_ssh_common_args=-J jump\n"
    one, other = understood(tmp_path, text).specs
    assert one.host.ssh_options == (("ProxyJump", "jump"),)
    assert other.host.ssh_options == ()


def test_an_ipv6_address_may_have_a_user_before_it(tmp_path: Path) -> None:
    [spec] = understood(tmp_path, "h ansible_host=llm@2001:db8::1\n").specs
    assert spec.host.address == HostAddress("2001:db8::1", "llm")


def test_a_host_may_have_several_runners_which_share_its_connection(tmp_path: Path) -> None:
    text = "gpu llmrelay_instances=3 llmrelay_max_calls=7\nlone llmrelay_instances=1\nelse\n"
    specs = understood(tmp_path, text, instances=2).specs
    assert [spec.name for spec in specs] == ["gpu#1", "gpu#2", "gpu#3", "lone", "else#1", "else#2"]
    assert [spec.host.shared_as for spec in specs] == [*["gpu"] * 3, "", *["else"] * 2]
    assert len({spec.host for spec in specs}) == 3
    assert [spec.max_calls for spec in specs[:3]] == [7] * 3


def test_a_host_that_is_named_may_have_several_runners(tmp_path: Path) -> None:
    config = Config(runners=(HostAddress("h", "u"), HostAddress("h", "u", 2222)), instances=2)
    specs = load(config).specs
    assert [spec.name for spec in specs] == ["u@h#1", "u@h#2", "u@h:2222#1", "u@h:2222#2"]
    assert {spec.host.shared_as for spec in specs} == {"u@h", "u@h:2222"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("h llmrelay_wieght=2", "hosts.ini:1: there is no variable llmrelay_wieght; did you mean"),
        ("h llmrelay_zzz=2", "there is no variable llmrelay_zzz."),
        ("h llmrelay_weight=0", "llmrelay_weight of h: a weight is above 0"),
        ("h llmrelay_weight=heavy", "'heavy' is no number"),
        ("h llmrelay_max_calls=0", "0 is not from 1"),
        ("h llmrelay_instances=1000", "not from 1 to 64"),
        ("h llmrelay_base_url=ftp://x", "no http:// or https:// URL"),
        ("h llmrelay_base_url='{{ url }}'", "is a template"),
        ("h llmrelay_model_map=gpt-4o", "'gpt-4o' is no NAME=VALUE"),
        ("h llmrelay_key_env=A llmrelay_key_file=b", "one key is enough"),
        ("h llmrelay_key_env=A-B", "no name of an environment variable"),
        ("h ansible_port=99999", "not from 1 to 65535"),
        ("h ansible_port=0", "not from 1 to 65535"),
        ("h ansible_host=192.0.2.1:22", "has a port in it, which goes into ansible_port"),
        ("h ansible_port=True", "True is no text"),
        ("h ansible_host='a b'", "'a b' is no host"),
        ("h ansible_connection=winrm", r"not by 'winrm'. Leave it out: --limit '!h'"),
        ("h ansible_ssh_common_args='-o'", "-o has no value"),
        ("-x", "is no host"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UnusableConfig, match=said) as refused:
        understood(tmp_path, line + "\n")
    assert "hosts.ini:1: " in refused.value.message or line == "-x"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ansible_ssh_host_key_checking", "host keys are always verified"),
        ("ansible_ssh_private_key", "a private key is read from its file"),
        ("ansible_become", "a runner is started by who has logged in"),
    ],
)
def test_what_is_not_used_says_why(tmp_path: Path, name: str, why: str) -> None:
    [warning] = understood(tmp_path, f"h {name}=secret\n").warnings
    assert f"{name} is not used; {why}" in warning
    assert "secret" not in warning


def test_what_is_not_used_is_a_warning_each_once(tmp_path: Path) -> None:
    text = "a\nb\n[all:vars]\nansible_password=x\nansible_ssh_common_args=-o ControlMaster=auto\n"
    warnings = understood(tmp_path, text).warnings
    assert len(warnings) == 2
    assert (
        "hosts.ini:5: ansible_ssh_common_args: -o ControlMaster=auto is not honoured"
        in (warnings[0])
    )
    assert "ansible_password is not used" in warnings[1]
