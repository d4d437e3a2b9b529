"""Notices that a file has changed, so that nobody has to send SIGHUP.

Looks at the files' metadata once a second, which costs next to nothing and holds everywhere: change
notifications of a kernel do not come over NFS, and miss a ConfigMap whose folder is replaced.
Knows nothing of what is in the files. Used by serve.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

INTERVAL_S = 1.0

_Stamp = tuple[int, int, int] | None


async def watch(files: Callable[[], Iterable[Path]], on_change: Callable[[], None]) -> None:
    """Calls `on_change` when one of `files` has changed and then stayed as it is for a moment.

    Args:
        files: what to look at; asked anew each time, as a reload may read others.
    """
    known = _stamps(files())
    settled = True
    while True:
        await asyncio.sleep(INTERVAL_S)
        before, known = known, _stamps(files())
        changed = any(path in before and before[path] != stamp for path, stamp in known.items())
        # Whoever writes it may not be through yet.
        if not changed and not settled:
            on_change()
        settled = not changed


def _stamps(files: Iterable[Path]) -> dict[Path, _Stamp]:
    return {path: _stamp(path) for path in files}


def _stamp(path: Path) -> _Stamp:
    """What differs when the file does; None while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
