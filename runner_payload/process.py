"""What front-end and runner each do to their own process: no core dumps, enough descriptors.

Shared by both sides, because a process that holds the key, or a thousand connections, has to do the
same on either; knows neither of them. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # prctl(2)


def forbid_core_dumps() -> None:
    """No core file, no core sent to a collector, no reading of memory by the same user's processes.

    RLIMIT_CORE alone is not enough: core(5) says that a core_pattern that is a pipe ignores it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A libc without prctl leaves us with the limit alone.
        prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def allow_descriptors(wanted: int) -> int:
    """Raises the limit of open files as far as `wanted`, if it may; returns what it is then.

    The usual soft limit, 1,024, is there for programs that use select(); each call and each
    connection needs a descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        # Some kernels have a limit of their own below the hard one.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    return soft
