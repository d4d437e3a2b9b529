"""What ssh's arguments in an inventory mean here."""

from __future__ import annotations

import asyncssh.config
import pytest

from llmrelay.inventory import ssh_args


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("-J bastion", [("ProxyJump", "bastion")]),
        ("-Ja,b", [("ProxyJump", "a,b")]),
        ("-o ProxyJump=bastion", [("ProxyJump", "bastion")]),
        ("-oproxyjump=bastion -o 'User bob'", [("ProxyJump", "bastion"), ("User", "bob")]),
        ('-o ProxyCommand="ssh -W %h:%p gw"', [("ProxyCommand", "ssh -W %h:%p gw")]),
        (
            "-l bob -p 2222 -i ~/.ssh/id -4 -C",
            [
                ("User", "bob"),
                ("Port", "2222"),
                ("IdentityFile", "~/.ssh/id"),
                ("AddressFamily", "inet"),
                ("Compression", "yes"),
            ],
        ),
        ("-CJ bastion", [("Compression", "yes"), ("ProxyJump", "bastion")]),
        ("-vvJbastion", [("ProxyJump", "bastion")]),
        ("-o 'ProxyCommand nc -o A=b %h'", [("ProxyCommand", "nc -o A=b %h")]),
        ("-o 'User = bob'", [("User", "bob")]),
        ("-q -T -n -vvv -o StrictHostKeyChecking=yes", []),
        ("", []),
    ],
)
def test_what_can_be_honoured_is(text: str, options: list[tuple[str, str]]) -> None:
    assert ssh_args.parse(text) == (options, [])


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("-o StrictHostKeyChecking=no", "StrictHostKeyChecking=no (host keys are always verified)"),
        ("-o ControlMaster=auto", "-o ControlMaster=auto"),
        ("-L 1:localhost:2", "-L 1:localhost:2"),
        ("-A", "-A"),
        ("-F other_config", "-F other_config"),
        ("word", "word"),
        ("-o ProxyJump=", "-o ProxyJump="),
        ("-Z", "-Z"),
    ],
)
def test_what_cannot_be_honoured_is_named(text: str, ignored: str) -> None:
    assert ssh_args.parse(text) == ([], [ignored])


def test_a_value_that_is_missing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="-o has no value"):
        ssh_args.parse("-o")
    with pytest.raises(ValueError, match="quotation"):
        ssh_args.parse("-o 'x")


def test_what_is_said_to_be_honoured_is_known_to_the_ssh_library() -> None:
    assert set(ssh_args.HONOURED) <= set(asyncssh.config.SSHClientConfig._handlers)
