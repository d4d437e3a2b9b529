"""What operators ask: is it there, and can it serve.

Pure: the state in, bytes out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

JSON_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


def health(
    runners: Mapping[str, Mapping[str, object]], in_flight: int, queued: int, *, detailed: bool
) -> tuple[int, bytes]:
    """Status and body of `GET /healthz`: 200 if a runner is ready, else 503.

    Args:
        runners: each runner's name and what is known of it, its `state` in any case.
        in_flight: calls that have a place on a runner.
        queued: calls that wait for one.
        detailed: whether all that is told; strangers learn the status alone.
    """
    ready = any(runner["state"] == "ready" for runner in runners.values())
    body: dict[str, object] = {"status": "ok" if ready else "unavailable"}
    if detailed:
        body |= {"runners": runners, "in_flight": in_flight, "queued": queued}
    return (200 if ready else 503), json.dumps(body).encode() + b"\n"
