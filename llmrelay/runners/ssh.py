"""From a host's address to a byte channel. The one file that imports asyncssh.

Reads ssh_config as `ssh` does (aliases, ProxyJump, ProxyCommand, identities, agents), verifies the
host key on every hop, and turns what asyncssh raises into ConnectErrors that say what to do.
Knows no frames and no payload: whoever opens a channel gives a command and a Receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from ..config import Config
from ..errors import (
    ChangedHostKey,
    ConnectError,
    HostUnreachable,
    LoginRefused,
    RunnerBroken,
    UnknownHostKey,
    UnusableConfig,
)
from ..peer_text import one_line
from ..values import HostAddress, parse_host

# As `ssh` reads them, user's before system's.
_SSH_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
MAX_HOPS = 8

_CLOSE_S = 1.0

# Unsent bytes above which a channel is congested.
_HIGH_WATER_BYTES = 256 * 1024
# Cheaper than asyncssh's first choice, chacha20-poly1305, on any CPU with AES instructions; what
# ssh_config's Ciphers says goes before.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


# Behind those that known_hosts has keys of: a host that offers none of them is then seen to have
# another key, and not merely nothing in common with us.
_HOST_KEYS = (
    "+ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"
    ",rsa-sha2-512,rsa-sha2-256"
)


class Receiver(Protocol):
    """Who gets what a channel brings."""

    def feed(self, data: bytes) -> None:
        """Bytes of stdout."""

    def feed_stderr(self, data: bytes) -> None:
        """Bytes of stderr."""

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        """The channel is closed; called once."""


class Channel(asyncssh.SSHClientSession[bytes]):
    """One exec session: stdin, stdout and stderr of a command on the host."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def congested(self) -> bool:
        """More is unsent than should be; wait for writable() before writing more of a prompt."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Returns when the backlog has gone, or the channel."""
        await self._writable.wait()

    def write(self, data: bytes) -> None:
        """Sends `data` to the command's stdin; to a closed channel, nowhere."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data)

    def close(self) -> None:
        """Ends the session; the command gets end of file."""
        if self._channel is not None:
            self._channel.abort()

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(_HIGH_WATER_BYTES)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._receiver.feed(data)
        else:
            self._receiver.feed_stderr(data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        channel, self._channel = self._channel, None
        ended, status = "it ended", None
        if channel is not None and (signal := channel.get_exit_signal()):
            ended = f"SIG{one_line(signal[0], 20)} ended it"
        elif channel is not None:
            status = channel.get_exit_status()
        self._receiver.channel_lost(_reason(exc) if exc else ended, status)


class Connection:
    """A login on a host."""

    def __init__(self, address: HostAddress, connection: asyncssh.SSHClientConnection) -> None:
        self._address = address
        self._connection = connection

    async def open(self, command: str, receiver: Receiver) -> Channel:
        """Starts `command` on the host, without a terminal and without forwarding.

        Raises:
            RunnerBroken: the host does not let us.
        """
        try:
            _, channel = await self._connection.create_session(
                lambda: Channel(receiver),
                command,
                encoding=None,
                request_pty=False,
                x11_forwarding=False,
            )
        except (asyncssh.Error, OSError) as error:
            raise RunnerBroken(
                f"{self._address} accepts the login but no command: {_reason(error)}."
            ) from error
        assert isinstance(channel, Channel)
        return channel


@contextlib.asynccontextmanager
async def connect(address: HostAddress, config: Config) -> AsyncIterator[Connection]:
    """A connection to `address`, through its jump hosts; closed on exit.

    Raises:
        ConnectError: whatever stands in the way, told apart.
    """
    async with contextlib.AsyncExitStack() as stack:
        connector = _Connector(config, stack)
        yield Connection(address, await connector.connect(address))


class _Connector:
    """Connects to a host over the hosts that ssh_config puts before it.

    asyncssh would connect to jump hosts by itself, but with its own idea of known hosts; here
    every hop is an ordinary connection of ours, verified like the last.
    """

    def __init__(self, config: Config, stack: contextlib.AsyncExitStack) -> None:
        self._config = config
        self._stack = stack
        self._configs = _ssh_configs(config)

    async def connect(
        self,
        address: HostAddress,
        tunnel: asyncssh.SSHClientConnection | None = None,
        hops: int = 0,
    ) -> asyncssh.SSHClientConnection:
        """A verified login on `address`.

        Args:
            tunnel: the hop before, should there be one already.
            hops: how many hosts are being connected to on behalf of another.
        """
        if hops > MAX_HOPS:
            raise UnusableConfig(f"ProxyJump leads to {address} over more than {MAX_HOPS} hosts.")
        arguments: dict[str, Any] = {"config": self._configs}
        if address.user:
            arguments["username"] = address.user
        if address.port:
            arguments["port"] = address.port
        # As with `ssh -i`, jump hosts have their own identities, from ssh_config or the agent.
        if hops == 0 and self._config.identity is not None:
            arguments |= {"client_keys": [str(self._config.identity)], "agent_path": None}
        try:
            options = await asyncssh.SSHClientConnectionOptions.construct(
                None, host=address.host, **arguments
            )
            jump_hosts = [parse_host(hop) for hop in (options.tunnel or "").split(",") if hop]
            known_hosts = _known_hosts(options, self._config)
        except (asyncssh.Error, OSError, ValueError) as error:
            raise UnusableConfig(
                f"The SSH settings for {address} are of no use: {error}"
            ) from error
        # As `ssh -J a,b` does it, b's own ProxyJump does not count: a is in front of it.
        if tunnel is None:
            for hop in jump_hosts:
                tunnel = await self.connect(hop, tunnel, hops + 1)
        return await self._login(
            _Hop(address, options, known_hosts, self._config), arguments, tunnel
        )

    async def _login(
        self,
        hop: _Hop,
        arguments: dict[str, Any],
        tunnel: asyncssh.SSHClientConnection | None,
    ) -> asyncssh.SSHClientConnection:
        witness = _Witness()
        said = hop.options.config.get_options(reload=False)
        if "Ciphers" not in said:
            arguments["encryption_algs"] = _CIPHERS
        if "HostKeyAlgorithms" not in said:
            arguments["server_host_key_algs"] = _HOST_KEYS
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                connection = await asyncssh.connect(
                    hop.address.host,
                    tunnel=tunnel,
                    known_hosts=hop.known_hosts,
                    client_factory=lambda: witness,
                    agent_forwarding=False,
                    **arguments,
                )
        except (asyncssh.Error, OSError) as error:
            raise hop.failure(error, witness) from error
        self._stack.push_async_callback(_close, connection)
        return connection


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    """Says goodbye, but waits for nobody who does not answer."""
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()
        await connection.wait_closed()


class _Witness(asyncssh.SSHClient):
    """Remembers the host key that was not trusted, and trusts none."""

    def __init__(self) -> None:
        self.offered: tuple[str, str, int, asyncssh.SSHKey] | None = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.offered = host, addr, port, key
        return False


class _Hop:
    """What is known of one host on the way, to say what went wrong there."""

    def __init__(
        self,
        address: HostAddress,
        options: asyncssh.SSHClientConnectionOptions,
        known_hosts: asyncssh.SSHKnownHosts,
        config: Config,
    ) -> None:
        self.address = address
        self.options = options
        self.known_hosts = known_hosts
        self._config = config

    def failure(self, error: Exception, witness: _Witness) -> ConnectError:
        """What asyncssh raised, as what a person has to mend."""
        name = str(self.address)
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return self._host_key_failure(error, witness)
        if isinstance(error, asyncssh.PermissionDenied):
            return LoginRefused(
                f"{name} refuses the login of {self.options.username}."
                f" Check that this logs in without a password: {self._ssh()}"
            )
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self._config.connect_timeout_s:g} s"
        elif isinstance(error, socket.gaierror):
            reason = f"the name {self.options.host} does not resolve ({_reason(error)})"
        else:
            reason = _reason(error)
        return HostUnreachable(f"{name} cannot be reached: {reason}. Try: {self._ssh()}")

    def _host_key_failure(self, error: Exception, witness: _Witness) -> ConnectError:
        if witness.offered is None:
            # A certificate, or a key that known_hosts revokes.
            return ChangedHostKey(f"The host key of {self.address} is not valid: {_reason(error)}.")
        host, addr, port, key = witness.offered
        known = self.known_hosts.match(host, addr, port if port != 22 else None)
        offered = f"{key.get_algorithm()} {key.get_fingerprint()}"
        entry = host if port == 22 else f"[{host}]:{port}"
        if any(known[:2]):
            return ChangedHostKey(
                f"The host key of {self.address} has changed: it offers {offered}, known_hosts has"
                " another. Either the host was set up anew or somebody is in between: find out"
                f" which before you remove the old key with: ssh-keygen -R '{entry}'"
            )
        return UnknownHostKey(
            f"The host key of {self.address} is not known: it offers {offered}."
            f" Compare it with the host's own, then accept it with: {self._ssh()}"
        )

    def _ssh(self) -> str:
        """The command with which a person tries the same."""
        port = f"-p {self.address.port} " if self.address.port else ""
        user = f"{self.address.user}@" if self.address.user else ""
        extra = ""
        if self._config.ssh_config is not None:
            extra += f"-F {self._config.ssh_config} "
        if self._config.identity is not None:
            extra += f"-i {self._config.identity} "
        if self._config.known_hosts is not None:
            extra += f"-o UserKnownHostsFile={self._config.known_hosts} "
        return f"ssh {extra}{port}{user}{self.address.host} true"


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


def _reason(error: BaseException) -> str:
    """An exception's own words, without a full stop; some are the peer's, before it is verified."""
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    # asyncio puts the address in place of the reason.
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)
    return one_line(text or type(error).__name__, 300).rstrip(".")
