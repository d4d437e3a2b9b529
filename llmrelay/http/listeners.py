"""The sockets that clients connect to: bound, made ready to listen, and given up again.

Binding comes before any runner is started: an address that cannot be had is said at once, and
whether it is this machine's alone decides who may ask. A socket that is bound and does not listen
refuses, so no client waits for a runner that may not come.

Two front-ends may hold one address during an upgrade (`reuse_port`): the kernel is told to give new
connections to the successor, while those that it gave the one that ends are served. A supervisor
binds for its workers, and lends them the sockets.

Knows no connection and no task. Used by server.py, which runs an asyncio.Server on each socket.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import CannotListen
from ..values import Listen, ListenAddress, UnixAddress
from . import steering

_REASONS: Final = {
    errno.EADDRINUSE: "it is in use: stop the process that holds it, or choose another port",
    errno.EACCES: "this user may not: choose a port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one that it has, or 127.0.0.1",
    errno.EAFNOSUPPORT: "this machine has no such address: choose one that it has, or 127.0.0.1",
}
_UNIX_REASONS: Final = {
    errno.EACCES: "this user may not write into its folder",
    errno.ENOENT: "its folder is not there",
    errno.ENOTDIR: "its folder is not there",
}


@dataclass(slots=True, eq=False)
class Listener:
    """A bound socket.

    Attributes:
        sock: the socket; non-blocking.
        address: where clients connect, with the port that the kernel chose.
        local: only this machine can connect: loopback, or a unix socket.
        handed_in: another process has bound it, and keeps it when we have gone.
        file: a unix socket's file while it is not in its place yet.
        inode: of a unix socket's file that we made; None for all others.
        succeeded: of a socket that a supervisor has lent: what it says of has_successor().
    """

    sock: socket.socket
    address: Listen
    local: bool
    handed_in: bool = False
    file: Path | None = None
    inode: int | None = None
    succeeded: bool | None = None

    @property
    def loopback(self) -> bool:
        """Whether a browser on this machine can be made to connect by a page of another site."""
        return self.local and isinstance(self.address, ListenAddress)

    def publish(self) -> None:
        """To be called once the socket listens: puts a unix socket's file into its place.

        What was there, the socket of another front-end whose place this one takes, is replaced
        without a moment in which nobody listens.

        Raises:
            OSError: its folder has gone meanwhile.
        """
        if self.file is not None and isinstance(self.address, UnixAddress):
            self.file.rename(self.address.path)
            self.file = None

    def has_successor(self) -> bool:
        """Whether another process listens on the address, too, or has it, or will have it."""
        if self.handed_in:
            return True
        if self.succeeded is not None:
            return self.succeeded
        if isinstance(self.address, UnixAddress):
            ours = self.inode is not None and self.file is None
            return ours and self.inode != _inode(self.address.path)
        return steering.listeners_on(self.sock) > 1

    def steer_to_successor(self) -> None:
        """From now on the kernel gives new connections to the successor; what it gave us stays.

        Not for a unix socket, whose path leads to the successor already.
        """
        if self.handed_in or self.succeeded or isinstance(self.address, UnixAddress):
            return
        steering.steer_away([self.sock], closing=True)

    def lent(self) -> Listener:
        """As a worker gets it, which it is handed in to until its supervisor says otherwise."""
        return Listener(self.sock, self.address, self.local, handed_in=True, succeeded=True)

    def another(self) -> Listener:
        """A second socket on the address, for another worker; the same one where there can be none.

        Raises:
            CannotListen: it cannot be had.
        """
        if isinstance(self.address, UnixAddress) or sys.platform != "linux":
            return self  # elsewhere the kernel does not share connections out
        try:
            # Whoever had the address first need not have meant to share it.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock = _tcp_socket(self.sock.family, self.sock.getsockname(), reuse_port=True)
        except OSError as error:
            raise cannot_listen(self.address, error) from error
        return Listener(sock, self.address, self.local)

    def close(self) -> None:
        """Give the address up; a unix socket's file goes with it, if it is still ours."""
        if self.inode is not None and isinstance(self.address, UnixAddress):
            with contextlib.suppress(OSError):
                if self.file is not None:
                    self.file.unlink()
                elif _inode(self.address.path) == self.inode:
                    os.unlink(self.address.path)
        self.sock.close()


def bind(addresses: Iterable[Listen], *, reuse_port: bool, socket_mode: int) -> list[Listener]:
    """Sockets for all of `addresses`, or for none of them.

    Args:
        reuse_port: share the address with another front-end of the same user that does so, too.
        socket_mode: the permissions of a unix socket's file.

    Raises:
        CannotListen: with what to do about it.
    """
    listeners: list[Listener] = []
    with contextlib.ExitStack() as undo:
        for address in addresses:
            if isinstance(address, UnixAddress):
                _check_different([*(each.address for each in listeners), address])
                bound = [_bind_unix(address, socket_mode, take_over=reuse_port)]
            else:
                bound = _bind_tcp(address, reuse_port)
            for listener in bound:
                undo.callback(listener.close)
            listeners += bound
            _check_different([each.address for each in listeners])
        undo.pop_all()
    return listeners


def adopt(sock: socket.socket) -> Listener:
    """A listening socket that another process has bound: systemd's socket activation.

    Raises:
        CannotListen: it is no listening stream socket of TCP or of the unix kind.
    """
    sock.setblocking(False)
    name = sock.getsockname()
    if sock.type != socket.SOCK_STREAM:
        raise CannotListen("A socket that was handed in is no stream socket (ListenStream=).")
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise CannotListen("A socket that was handed in is neither TCP nor unix.")
    if not listens(sock):
        raise CannotListen("A socket that was handed in is a connection (Accept=no is needed).")
    if sock.family == socket.AF_UNIX:
        return Listener(sock, UnixAddress(_text(name)), local=True, handed_in=True)
    return _tcp_listener(sock, handed_in=True)


def listens(sock: socket.socket) -> bool:
    """Whether clients can connect to it."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def cannot_listen(address: Listen, error: OSError) -> CannotListen:
    """What an operating system's error means for `address`, and what to do about it."""
    reasons = _REASONS | (_UNIX_REASONS if isinstance(address, UnixAddress) else {})
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    if isinstance(error, socket.gaierror):
        reason = "the name does not resolve: choose an address of this machine"
    return CannotListen(f"Cannot listen on {address}: {reason} (--listen).")


def _check_different(addresses: Sequence[Listen]) -> None:
    """The kernel lets a process have one twice, until it listens or for good."""
    for address in addresses:
        if addresses.count(address) > 1:
            raise CannotListen(f"Cannot listen on {address} twice: leave one out (--listen).")


# --- TCP ----------------------------------------------------------------------------------------


def _bind_tcp(address: ListenAddress, reuse_port: bool) -> list[Listener]:
    listeners: list[Listener] = []
    with contextlib.ExitStack() as undo:
        try:
            for family, where in _resolve(address):
                sock = _tcp_socket(family, where, reuse_port=reuse_port)
                undo.callback(sock.close)
                listeners.append(_tcp_listener(sock))
        except OSError as error:
            raise cannot_listen(address, error) from error
        undo.pop_all()
    return listeners


def _tcp_socket(family: int, where: Any, *, reuse_port: bool) -> socket.socket:
    """A socket that is bound there.

    Raises:
        OSError: it cannot be had.
    """
    # asyncio sets TCP_NODELAY only where the protocol is said.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setblocking(False)
        # Connections of a front-end that has just ended do not hold the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # `[::]` beside `0.0.0.0`, and no IPv4 address in IPv6's clothes.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        undo.pop_all()
    return sock


def _resolve(address: ListenAddress) -> Iterable[tuple[int, Any]]:
    """Family and socket address of each address that the host's name stands for."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError:  # it is no name at all: an empty label, or one that is too long
        raise socket.gaierror(socket.EAI_NONAME, "no name") from None
    return dict.fromkeys((family, where) for family, _, _, _, where in found)


def _tcp_listener(sock: socket.socket, *, handed_in: bool = False) -> Listener:
    host, port, *_ = sock.getsockname()
    local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return Listener(sock, ListenAddress(host, port), local, handed_in)


# --- Unix ---------------------------------------------------------------------------------------


def _bind_unix(address: UnixAddress, mode: int, *, take_over: bool) -> Listener:
    """Bound beside its place, so that it is never there with other permissions: see publish()."""
    path = Path(address.path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.ExitStack() as undo:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(sock.close)
        try:
            sock.setblocking(False)
            if not take_over or not _is_socket(path):
                _remove_stale(address)
            # Of a process that was killed here, and whose number is ours now.
            beside.unlink(missing_ok=True)
            sock.bind(str(beside))
            undo.callback(beside.unlink)
            beside.chmod(mode)
            inode = beside.lstat().st_ino
        except OSError as error:
            # The length is bounded by sockaddr_un, and Python says so without a number.
            if error.errno is None:
                raise CannotListen(
                    f"Cannot listen on {address}: {error}; choose one of 90 bytes at most"
                    " (--listen)."
                ) from error
            raise cannot_listen(address, error) from error
        undo.pop_all()
    return Listener(sock, address, local=True, file=beside, inode=inode)


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _is_socket(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.lstat().st_mode)


def _remove_stale(address: UnixAddress) -> None:
    """Removes the socket of a front-end that was killed; nothing else.

    Raises:
        CannotListen: somebody listens there, or it is no socket.
        OSError: it cannot be looked at.
    """
    path = Path(address.path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotListen(
            f"Cannot listen on {address}: there is a file that is no socket; choose another path"
            " (--listen)."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full: somebody is there
    raise OSError(errno.EADDRINUSE, "in use")


def _text(name: str | bytes) -> str:
    # An abstract address begins with NUL.
    return os.fsdecode(name).replace("\0", "@") if isinstance(name, bytes) else name
