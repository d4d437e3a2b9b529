"""The variables of a host that mean something here, and how their values are read.

One table: the name, what it means (docs/inventory.md is made of it), and the parser. Values come as
Ansible's literals have them: text, numbers, lists or dicts. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..runner_options import MAX_INSTANCES
from ..upstreams import UPSTREAMS
from ..values import count, number, one_of, parse_model, parse_path, parse_url

PREFIX = "llmrelay_"


@dataclass(frozen=True, slots=True)
class Known:
    """A variable that means something here.

    Attributes:
        parse: its value -> what it means; raises ValueError with the reason in words.
        help: one line: what it does, and what holds without it.
    """

    parse: Callable[[Any], Any]
    help: str


def _text(value: object) -> str:
    """A word or a number, as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is no text")
    text = str(value)
    if not text or not text.isprintable():
        raise ValueError(f"{value!r} is empty, or not printable")
    if "{{" in text or "{%" in text:
        raise ValueError(f"{text!r} is a template, and templates are not evaluated here")
    return text


def _of_text(parse: Callable[[str], Any]) -> Callable[[object], Any]:
    return lambda value: parse(_text(value))


def _arguments(value: object) -> str:
    """A command's arguments: none, or on several lines, too, as YAML's `>` leaves them."""
    if isinstance(value, str):
        value = re.sub(r"[\r\n]+", " ", value).strip()
    return "" if value == "" else _text(value)


def _items(value: object) -> list[str]:
    """A list, or text with commas or blanks between."""
    if isinstance(value, (list, tuple)):
        return [_text(item) for item in value]
    return [item for item in re.split(r"[\s,]+", _text(value)) if item]


def _models(value: object) -> tuple[str, ...]:
    return tuple(parse_model(item) for item in _items(value))


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    """A dict, or `name=value` with commas or blanks between."""
    if isinstance(value, dict):
        return tuple((_text(name), _text(each)) for name, each in value.items())
    pairs = []
    for item in _items(value):
        name, equals, each = item.partition("=")
        if not (name and equals and each):
            raise ValueError(f"{item!r} is no NAME=VALUE")
        pairs.append((name, each))
    return tuple(pairs)


def _weight(text: str) -> float:
    weight = number(0, 1_000_000)(text)
    if not weight:
        raise ValueError("a weight is above 0; leave the host out with --limit instead")
    return weight


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"{text!r} is no name of an environment variable")
    return text


_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh")


def _connection(text: str) -> str:
    """`ssh` or `local`."""
    name = text.removeprefix("ansible.builtin.").removeprefix("ansible.posix.")
    if name == "local":
        return "local"
    if name in _SSH or name.endswith((".ssh", ".paramiko_ssh")):
        return "ssh"
    raise ValueError(f"runners are reached by ssh, or local, and not by {text!r}")


def _python(text: str) -> str | None:
    """An interpreter; None where Ansible would look for one by itself."""
    return None if text in ("auto", "auto_legacy", "auto_silent", "auto_legacy_silent") else text


# Other names that Ansible reads. Where there are both, it takes the one with `ssh` in it.
ALIASES = {
    "ansible_private_key_file": "ansible_ssh_private_key_file",
    "ansible_ssh_host": "ansible_host",
    "ansible_ssh_port": "ansible_port",
    "ansible_ssh_user": "ansible_user",
}

KNOWN: dict[str, Known] = {
    "ansible_host": Known(_of_text(str), "Where the host is; else its name, as ssh takes it."),
    "ansible_port": Known(_of_text(count(1, 65535)), "Its SSH server's port; else ssh_config's."),
    "ansible_user": Known(_of_text(str), "Who logs in; else ssh_config's."),
    "ansible_ssh_private_key_file": Known(
        _of_text(parse_path), "The one private key to log in with; else as `--identity`."
    ),
    "ansible_python_interpreter": Known(
        lambda value: _python(_text(value)), "The interpreter; else as `--remote-python`."
    ),
    "ansible_ssh_args": Known(_arguments, "Arguments of ssh: `-J`, `-o`, …; see below."),
    "ansible_ssh_common_args": Known(_arguments, "More of them."),
    "ansible_ssh_extra_args": Known(_arguments, "More of them."),
    "ansible_connection": Known(
        _of_text(_connection), "`ssh`; or `local` for a runner on this machine, without SSH."
    ),
    "llmrelay_models": Known(
        _models, "Globs of the models that it serves (`llama-*,qwen-*`); else every one."
    ),
    "llmrelay_model_map": Known(
        _pairs, "What upstream calls a model (`gpt-4o=llama-3-70b`); served, too."
    ),
    "llmrelay_upstream": Known(
        _of_text(one_of(*UPSTREAMS)), "The upstream by name; else as `--upstream`."
    ),
    "llmrelay_base_url": Known(
        _of_text(parse_url), "Its URL, as the host reaches it; else as `--base-url`."
    ),
    "llmrelay_key_env": Known(
        _of_text(_variable), "The environment variable, here, that holds its key."
    ),
    "llmrelay_key_file": Known(
        _of_text(parse_path), "The file, here, that holds its key; else as `serve` has it."
    ),
    "llmrelay_weight": Known(_of_text(_weight), "Its share of the calls, beside others'; else 1."),
    "llmrelay_max_calls": Known(
        _of_text(count(1, 65536)),
        "Calls that a runner of it may have at once; else as `--max-calls`.",
    ),
    "llmrelay_instances": Known(
        _of_text(count(1, MAX_INSTANCES)),
        "Runner processes on the host, `NAME#1` and so on, each with this weight and these calls;"
        " else as `--instances`.",
    ),
    "llmrelay_labels": Known(_pairs, "What people tell it by (`rack=a1,gpu=h100`)."),
}

_BY_KEY = "runners are logged in to by key"
_BY_FILE = "a private key is read from its file, or held by an agent"
_AS_IT_IS = "a runner is started by who has logged in"
_VERIFIED = "host keys are always verified"

# Of Ansible's that somebody may rely on to log in, and why they are not used.
UNUSED = {
    "ansible_password": _BY_KEY,
    "ansible_ssh_pass": _BY_KEY,
    "ansible_ssh_password": _BY_KEY,
    "ansible_private_key": _BY_FILE,
    "ansible_ssh_private_key": _BY_FILE,
    "ansible_private_key_passphrase": _BY_FILE,
    "ansible_ssh_private_key_passphrase": _BY_FILE,
    "ansible_host_key_checking": _VERIFIED,
    "ansible_ssh_host_key_checking": _VERIFIED,
    "ansible_ssh_executable": "no ssh command is run",
    "ansible_become": _AS_IT_IS,
    "ansible_become_user": _AS_IT_IS,
}
