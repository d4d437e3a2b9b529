"""What went wrong on the way to a host, as what a person has to mend.

Told apart by what asyncssh raised, and said with the command that tries the same by hand.
"""

from __future__ import annotations

import os
import socket

import asyncssh

from ...errors import (
    ChangedHostKey,
    ConnectError,
    HostUnreachable,
    LoginRefused,
    UnknownHostKey,
    UnusableConfig,
)
from ...peer_text import one_line
from .settings import Settings

# What a host has offered that was not trusted: its name, address and port, and the key.
Offered = tuple[str, str, int, asyncssh.SSHKey]


def connect_error(
    error: Exception, hop: Settings, offered: Offered | None, proxy_said: str = ""
) -> ConnectError:
    """What asyncssh raised, told apart.

    Args:
        proxy_said: the last words of the ProxyCommand, if it had any.
    """
    name = str(hop.address)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key_error(error, hop, offered)
    if isinstance(error, asyncssh.PermissionDenied):
        return LoginRefused(
            f"{name} refuses the login of {hop.options.username}."
            f" Check that this logs in without a password: {hop.command}"
        )
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return UnusableConfig(f"The SSH settings for {name} are of no use: {reason_of(error)}.")
    if isinstance(error, TimeoutError):
        reason = f"no answer within {hop.limit_s:g} s"
    elif isinstance(error, socket.gaierror):
        reason = f"the name {hop.options.host} does not resolve ({reason_of(error)})"
    elif isinstance(error, UnicodeError):
        reason = f"{hop.options.host} is no name of a host ({reason_of(error)})"
    elif isinstance(error, asyncssh.ChannelOpenError):
        reason = f"its jump host says: {reason_of(error)}"
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            reason += " (does its sshd_config have AllowTcpForwarding or PermitOpen?)"
    else:
        reason = reason_of(error)
    if proxy_said:
        reason += f"; its ProxyCommand says: {proxy_said.rstrip('.')}"
    return HostUnreachable(f"{name} cannot be reached: {reason}. Try: {hop.command}")


def _host_key_error(error: Exception, hop: Settings, offered: Offered | None) -> ConnectError:
    if offered is None:
        # A certificate, or a key that known_hosts revokes.
        return ChangedHostKey(f"The host key of {hop.address} is not valid: {reason_of(error)}.")
    host, addr, port, key = offered
    known = hop.trusted(host, addr, port)
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
    plain = port == 22 or hop.options.host_key_alias
    entry = host if plain else f"[{host}]:{port}"
    if any(known[:2]):
        return ChangedHostKey(
            f"The host key of {hop.address} has changed: it offers {shown}, known_hosts has"
            " another. Either the host was set up anew or somebody is in between: find out"
            f" which before you remove the old key with: ssh-keygen -R '{entry}'"
        )
    return UnknownHostKey(
        f"The host key of {hop.address} is not known: it offers {shown}."
        f" Compare it with the host's own, then accept it with: {hop.command}"
    )


def reason_of(error: BaseException) -> str:
    """An exception's own words, without a full stop; some are the peer's, before it is verified."""
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    # asyncio puts the address in place of the reason.
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)
    return one_line(text or type(error).__name__, 300).rstrip(".")
