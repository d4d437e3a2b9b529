"""ansible_ssh_common_args and ansible_ssh_extra_args -> ssh's `-o` options.

What stands there is for the `ssh` command; we are none. What can be honoured becomes an option of
ssh_config, what cannot is named, so that nobody relies on it. Pure.
"""

from __future__ import annotations

import itertools
import re
import shlex

# Options of ssh_config that mean here what they mean to ssh, by their names in lower case.
HONOURED = {
    name.lower(): name
    for name in (
        "AddressFamily", "BindAddress", "CASignatureAlgorithms", "CertificateFile", "Ciphers",
        "Compression", "GlobalKnownHostsFile", "HostKeyAlgorithms", "HostKeyAlias", "HostName",
        "IdentitiesOnly", "IdentityAgent", "IdentityFile", "KexAlgorithms", "MACs",
        "PKCS11Provider", "Port", "PreferredAuthentications", "ProxyCommand", "ProxyJump",
        "PubkeyAuthentication", "RekeyLimit", "TCPKeepAlive", "User", "UserKnownHostsFile",
    )
}  # fmt: skip
# Flags with a value that are short for an option.
_SHORT = {"J": "ProxyJump", "l": "User", "p": "Port", "i": "IdentityFile", "c": "Ciphers",
          "m": "MACs", "b": "BindAddress"}  # fmt: skip
_FLAGS = {"4": ("AddressFamily", "inet"), "6": ("AddressFamily", "inet6"),
          "C": ("Compression", "yes")}  # fmt: skip
# That have a value which we do not need.
_WITH_VALUE = "BDEeFIkLOPQRSWw"
_TAKES_VALUE = {"o", *_SHORT, *_WITH_VALUE}
# Which change nothing here: no terminal, nothing forwarded, and nothing printed.
_IDLE = "aknNqTtvx"
# `Name=value` or `Name value`; a value may have a `=` of its own.
_OPTION = re.compile(r"\s*([^\s=]+)\s*=?\s*(.*?)\s*", re.DOTALL)


def parse(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The options in `text`, and what cannot be honoured, in words.

    Raises:
        ValueError: a quote is not closed, or a value is missing.
    """
    words = shlex.split(text)
    options: list[tuple[str, str]] = []
    ignored: list[str] = []
    while words:
        word = words.pop(0)
        if not word.startswith("-") or len(word) < 2:
            ignored.append(word)
            continue
        # Letters without a value may stand before one that has one: `-CJ bastion`.
        plain = "".join(itertools.takewhile(lambda each: each not in _TAKES_VALUE, word[1:]))
        for letter in plain:
            if letter in _FLAGS:
                options.append(_FLAGS[letter])
            elif letter not in _IDLE:
                ignored.append(f"-{letter}")
        letter, value = word[1 + len(plain) :][:1], word[2 + len(plain) :]
        if letter:
            if not value and not words:
                raise ValueError(f"-{letter} has no value")
            _add_flag(letter, value or words.pop(0), options, ignored)
    return options, ignored


def _add_flag(letter: str, value: str, options: list[tuple[str, str]], ignored: list[str]) -> None:
    """A letter that has a value."""
    if letter in _SHORT:
        options.append((_SHORT[letter], value))
    elif letter == "o":
        _add(value, options, ignored)
    else:
        ignored.append(f"-{letter} {value}")


def _add(text: str, options: list[tuple[str, str]], ignored: list[str]) -> None:
    """`Name=value` or `Name value`."""
    match = _OPTION.fullmatch(text)
    name, value = match.groups() if match else (text, "")
    known = HONOURED.get(name.lower())
    if known is not None and value:
        options.append((known, value))
    elif name.lower() == "stricthostkeychecking":
        if value.lower() not in ("yes", "ask", "true"):
            ignored.append(f"{name}={value} (host keys are always verified)")
    else:
        ignored.append(f"-o {name}={value}")
