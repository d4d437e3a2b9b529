"""Which of several sockets on one TCP address the kernel gives new connections to (SO_REUSEPORT).

A socket that is closed resets what the kernel has queued on it, so one that still gets connections
cannot be closed without a loss. A classic BPF program for all sockets of an address says which of
them is chosen, by index (socket(7), SO_ATTACH_REUSEPORT_CBPF; Linux 4.5); without one, or if there
is no such index, it is a choice by hash. Where that cannot be had, nothing here does anything.

Knows sockets and no front-end. Used by listeners.py, and for a supervisor's workers.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Final

# linux/socket.h, linux/filter.h and linux/bpf_common.h; not in Python's socket module.
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_LOAD_RANDOM: Final = (0x20, 0, 0, 2**32 - 0x1000 + 56)
_MODULO: Final = 0x94
_SKIP_UNLESS_EQUAL: Final = (0x15, 0, 1)
_RETURN: Final = 0x06

# A segment's size that no connection within a machine has by itself: what a listening socket that
# is set to it leads to shows at the other end. Clients that come in that moment take no harm.
_MARK_BYTES: Final = 1000
# A connection from this machine to itself, unless a queue is full.
_PROBE_S: Final = 0.1


def listeners_on(sock: socket.socket) -> int:
    """How many sockets listen on the TCP address of `sock`, itself included; 0 if unknown."""
    table = "/proc/net/tcp6" if sock.family == socket.AF_INET6 else "/proc/net/tcp"
    host, port, *_ = sock.getsockname()
    packed = socket.inet_pton(sock.family, host.partition("%")[0])
    # Words of the address in the machine's order: proc(5).
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    wanted = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    try:
        with open(table, encoding="ascii") as file:
            rows = (line.split(None, 4) for line in file)
            return sum(row[1] == wanted and row[3] == "0A" for row in rows)
    except OSError:
        return 0


def steer_away(leaving: Sequence[socket.socket], *, closing: bool) -> None:
    """From now on others on the address of `leaving` get its new connections; what came stays.

    The newest comes last, unless an older one has gone: then the kernel has put the last into its
    place. So each index is tried with a connection of our own, which shows where that leads.

    Args:
        closing: they will be gone soon. Then it goes by indexes that there will be none of by
            then, if it can, so that those who stay have the kernel's own choice between them.
    """
    with contextlib.suppress(OSError):
        count = listeners_on(leaving[0])
        if count < 2:
            return
        for sock in leaving:
            _mark(sock, _MARK_BYTES)
        try:
            others = [index for index in range(count) if not _is_marked(leaving[0], index)]
        finally:
            for sock in leaving:
                _mark(sock, 0)
        last = [index for index in others if closing and index >= count - len(leaving)]
        _choose(leaving[0], last or others or range(count))


def deal_to_all(sock: socket.socket) -> None:
    """From now on all that listen on the address of `sock` get its new connections."""
    if count := listeners_on(sock):
        with contextlib.suppress(OSError):
            _choose(sock, range(count))


def _mark(sock: socket.socket, size_bytes: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size_bytes)


def _is_marked(sock: socket.socket, index: int) -> bool:
    """Whether the socket of that index is a marked one; so it is taken to be if its queue is full.

    Raises:
        OSError: this kernel cannot be told.
    """
    _choose(sock, [index])
    with socket.socket(sock.family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(sock.getsockname())
        except OSError:
            return True
        return probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= _MARK_BYTES


def _choose(sock: socket.socket, indexes: Sequence[int]) -> None:
    """One of `indexes` at random, each time."""
    program = [_LOAD_RANDOM, (_MODULO, 0, 0, len(indexes))]
    for place, index in enumerate(indexes[:-1]):
        program += [(*_SKIP_UNLESS_EQUAL, place), (_RETURN, 0, 0, index)]
    program.append((_RETURN, 0, 0, indexes[-1]))
    filters = array.array("Q", b"".join(struct.pack("=HBBI", *each) for each in program))
    pointer = struct.pack("HP", len(filters), filters.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, pointer)
