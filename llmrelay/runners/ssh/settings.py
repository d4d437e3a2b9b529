"""All that is needed to log in on one host, as `ssh` would find it.

From ssh_config (aliases, ProxyJump, ProxyCommand, identities, agents), from the options of the
command line and of the inventory, which go before it, and from known_hosts. Opens no connection.
"""

from __future__ import annotations

import contextlib
import glob
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from ...config import Config
from ...errors import UnusableConfig
from ...values import HostAddress, parse_host
from ..spec import HostSpec

# As `ssh` reads them, user's before system's.
_SSH_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

# Cheaper than asyncssh's first choice, chacha20-poly1305, on any CPU with AES instructions; what
# ssh_config's Ciphers says goes before.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
# Behind those that known_hosts has keys of: a host that offers none of them is then seen to have
# another key, and not merely nothing in common with us.
_HOST_KEYS = (
    "+ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"
    ",rsa-sha2-512,rsa-sha2-256"
)
# Keys, and authorities, trusted or revoked, as asyncssh tells them apart.
_Trusted = tuple[Sequence[Any], ...]
# What Settings.place has in its own words, and what says where jump hosts are.
_PLACE = ("Hostname", "Port", "User", "ProxyJump")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one host is logged in to, jump hosts apart.

    Attributes:
        address: as it was given.
        options: asyncssh's own, to look at.
        arguments: those of asyncssh.connect that lead to them.
        jumps: the jump hosts on the way, first hop first; empty without.
        proxy: the ProxyCommand that leads there; None without.
        known_hosts: always something to verify against, if need be an empty list.
        command: what a person types to try the same.
        limit_s: the longest that it may take.
    """

    address: HostAddress
    options: asyncssh.SSHClientConnectionOptions
    arguments: dict[str, Any]
    jumps: tuple[HostAddress, ...]
    proxy: str | None
    known_hosts: asyncssh.SSHKnownHosts
    command: str
    limit_s: float

    def trusted(self, host: str, _address: str, port: int | None) -> _Trusted:
        """What known_hosts has of a host: by its name, as ssh has it.

        Not by its address as well, which asyncssh would do: that is another host's, maybe, with
        HostKeyAlias or behind a forwarded port.
        """
        return self.known_hosts.match(host, "", port if port != 22 else None)

    @property
    def place(self) -> object:
        """Which login it is: equal for two ways to write the same host, port and user, unless
        ssh_config says anything else of the one than of the other, other keys to trust, say.
        """
        said = self.options.config.get_options(reload=False)
        others = sorted((name, repr(value)) for name, value in said.items() if name not in _PLACE)
        return self.options.host, self.options.port, self.options.username, *others


@contextlib.asynccontextmanager
async def resolved(
    address: HostAddress,
    host: HostSpec | None,
    config: Config,
    via: Sequence[HostAddress] = (),
) -> AsyncIterator[Settings]:
    """The settings for `address`, to be used within the block.

    Args:
        host: what is asked of it beyond what ssh_config says; None for a jump host, which as with
            `ssh -J` has what ssh_config says of it alone.
        via: for a jump host, those that were named before it.

    Raises:
        UnusableConfig: a file cannot be read, or a setting not be understood.
    """
    arguments = _arguments(address, host)
    with contextlib.ExitStack() as stack:
        try:
            options_of = () if host is None else host.ssh_options
            arguments["config"] = stack.enter_context(_files(options_of, _ssh_configs(config)))
            options = await asyncssh.SSHClientConnectionOptions.construct(
                None, host=address.host, **arguments
            )
            said = options.config.get_options(reload=False)
            jumps, proxy = _way(said)
            known_hosts = _known_hosts(options, config)
        except (asyncssh.Error, OSError, ValueError) as error:
            raise UnusableConfig(
                f"The SSH settings for {address} are of no use: {error}"
            ) from error
        if "Ciphers" not in said:
            arguments["encryption_algs"] = _CIPHERS
        if "HostKeyAlgorithms" not in said:
            arguments["server_host_key_algs"] = _HOST_KEYS
        yield Settings(
            address,
            options,
            arguments,
            jumps,
            proxy,
            known_hosts,
            _command(address, host, config, via),
            config.connect_timeout_s,
        )


def _arguments(address: HostAddress, host: HostSpec | None) -> dict[str, Any]:
    """What goes before ssh_config, for asyncssh."""
    # The way to the host is login.py's; asyncssh would take its own.
    arguments: dict[str, Any] = {"proxy_command": None}
    if address.user:
        arguments["username"] = address.user
    if address.port:
        arguments["port"] = address.port
    if host is not None and host.identity is not None:
        arguments |= {"client_keys": [str(host.identity)], "agent_path": None}
    return arguments


def _way(said: Mapping[str, Any]) -> tuple[tuple[HostAddress, ...], str | None]:
    """The jump hosts, or the ProxyCommand.

    Of ProxyJump and ProxyCommand the one that is said first holds, be it `none` (ssh_config(5));
    asyncssh would have both.
    """
    first = next((name for name in said if name in ("ProxyJump", "ProxyCommand")), None)
    if first == "ProxyCommand":
        return (), said[first]
    hops = said[first] if first else None
    return tuple(parse_host(hop) for hop in (hops or "").split(",") if hop), None


@contextlib.contextmanager
def _files(options: Sequence[tuple[str, str]], configs: list[str]) -> Iterator[list[str]]:
    """The files of settings: ssh_config, behind one with the `-o` options while the block lasts."""
    if not options:
        yield configs
        return
    with tempfile.NamedTemporaryFile("w", prefix="llmrelay-", suffix=".ssh_config") as file:
        for name, value in options:
            if not value.isprintable():
                raise ValueError(f"-o {name}: {value!r} is not printable")
            file.write(f"{name} {value}\n")
        # Not as a further file: %h in an option is to be the HostName that ssh_config has.
        paths = [glob.escape(str(Path(path).absolute())) for path in configs]
        file.writelines(f"Include {shlex.quote(path)}\n" for path in paths)
        file.flush()
        yield [file.name]


def _command(
    address: HostAddress, host: HostSpec | None, config: Config, via: Sequence[HostAddress]
) -> str:
    words = ["ssh"]
    if config.ssh_config is not None:
        words += ["-F", str(config.ssh_config)]
    if host is not None and host.identity is not None:
        words += ["-i", str(host.identity)]
    if config.known_hosts is not None:
        words += ["-o", f"UserKnownHostsFile={config.known_hosts}"]
    for name, value in host.ssh_options if host is not None else ():
        words += ["-o", f"{name}={value}"]
    if via:
        words += ["-J", ",".join(map(str, via))]
    if address.port:
        words += ["-p", str(address.port)]
    user = f"{address.user}@" if address.user else ""
    return shlex.join([*words, f"{user}{address.host}", "true"])


def _ssh_configs(config: Config) -> list[str]:
    if config.ssh_config is not None:
        return [str(_readable(config.ssh_config, "--ssh-config"))]
    return _existing(_SSH_CONFIGS)


def _known_hosts(
    options: asyncssh.SSHClientConnectionOptions, config: Config
) -> asyncssh.SSHKnownHosts:
    """The host keys that `ssh` would trust for these options, or those of --known-hosts alone.

    Always something to verify against, if need be an empty list that trusts nobody: asyncssh
    takes `UserKnownHostsFile none` for leave not to verify at all.
    """
    if config.known_hosts is not None:
        files = [str(_readable(config.known_hosts, "--known-hosts"))]
    else:
        files = _existing(options.config.get("UserKnownHostsFile", _USER_KNOWN_HOSTS))
        files += _existing(options.config.get("GlobalKnownHostsFile", _GLOBAL_KNOWN_HOSTS))
    return asyncssh.read_known_hosts(files)


def _readable(path: Path, option: str) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UnusableConfig(f"{option} {path} cannot be read: {error.strerror}.") from error
    return path


def _existing(paths: Any) -> list[str]:
    return [str(path) for path in (Path(p).expanduser() for p in paths) if path.exists()]
