"""A front-end with several runners, as a test asks it, waits for it, and looks for its runners.

Knows what the front-end says of itself, and the hosts of fleet.py.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.helpers.fleet import Host
from tests.helpers.front_end import FrontEndProcess
from tests.helpers.openssh import descendants_of, processes_matching


def health(front_end: FrontEndProcess) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(front_end.request("GET", "/healthz")[1])
    return said


def wait_until_ready(front_end: FrontEndProcess, *names: str) -> None:
    for name in names:
        front_end.wait_for_log(f"{name} is ready: ")


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits for what nothing tells of, with a limit."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(front_end: FrontEndProcess, count: int = 1, query: str = "") -> Counter[str]:
    """How often each host answered; every answer has to be one."""
    with ThreadPoolExecutor(min(count, 16)) as pool:
        replies = list(pool.map(lambda _: front_end.chat("hi", query), range(count)))
    assert [response.status for response, _ in replies] == [200] * count, replies
    return Counter(body.decode() for _, body in replies)


def runner_pids(host: Host) -> set[int]:
    """The runner processes on a host."""
    return set(processes_matching("llmrelay-runner")) & set(descendants_of(host.server.pid))
