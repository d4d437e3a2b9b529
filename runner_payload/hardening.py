"""Keeps the key out of core dumps, on both sides.

Shared by front-end and runner because a process that holds the key has to do the same on either;
knows neither of them. Standard library only.
"""

from __future__ import annotations

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
