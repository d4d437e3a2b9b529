"""The host of the demo as its parent sees it: started, described, ended.

Nothing here logs in: what a Machine holds is what a person would give `llmrelay serve` for a host
of their own. Knows how to talk to host.py's process and nothing of what it does there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunnerBroken
from ..values import HostAddress

# Python and asyncssh load within a second, on a slow disk within some.
START_S = 20.0
# Longer than host.END_S, within which it kills what does not end.
END_S = 5.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A running host.

    Attributes:
        identity, known_hosts, ssh_config: files that log in there; the host removes them.
        base_url: the upstream, as commands there reach it.
    """

    address: HostAddress
    identity: Path
    known_hosts: Path
    ssh_config: Path
    base_url: str


@contextlib.asynccontextmanager
async def started_host(real_url: str | None) -> AsyncIterator[Machine]:
    """A host on this machine; on exit it is gone, and all that was started on it.

    Args:
        real_url: the upstream; None for a simulated one, on the host.

    Raises:
        RunnerBroken: it did not start.
    """
    # A session of its own: Ctrl-C on our terminal is for us, and we end the host when we are done.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "llmrelay.demo.host",
        *(["--simulate-upstream"] if real_url is None else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield await _announced(process, real_url)
    finally:
        await _end(process)


async def _announced(process: asyncio.subprocess.Process, real_url: str | None) -> Machine:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise RunnerBroken(f"The demo's SSH server did not start within {START_S:g} s.") from None
    if not line:
        raise RunnerBroken("The demo's SSH server did not start; it said why above.")
    said = json.loads(line)
    return Machine(
        HostAddress("127.0.0.1", "demo", said["port"]),
        Path(said["identity"]),
        Path(said["known_hosts"]),
        Path(said["ssh_config"]),
        real_url or said["base_url"],
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    finally:
        # Also if we are not given the time: the end of its stdin has it end by itself.
        if process.returncode is None:
            process.terminate()
