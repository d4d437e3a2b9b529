"""Whether a call that failed before its first byte is tried again, and where.

An error says whether another runner may do better; a budget keeps a bad day from doubling itself:
where all fail, retries would be as many calls again for upstreams that cannot bear the first ones.
Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import RelayError, Retry
from .spec import HostSpec, RunnerSpec

# Retries that may come at once: the calls of a busy runner that is lost.
_BURST = 100.0


class RetryBudget:
    """Retries for all calls together: a share of them, on average.

    Args:
        ratio: retries per call; 0 for none at all.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._left = _BURST if ratio else 0.0

    def deposit(self) -> None:
        """A call begins."""
        self._left = min(self._left + self._ratio, _BURST)

    def withdraw(self) -> bool:
        """Whether there is a retry left, which is taken then."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def unfit(error: RelayError, failed: RunnerSpec, others: Iterable[RunnerSpec]) -> set[str] | None:
    """Names of `others` that would not do better than the runner that failed with `error`.

    None if no runner would.
    """
    match error.retry:
        case Retry.NEVER:
            return None
        case Retry.OTHER_RUNNER:
            return set()
        case Retry.OTHER_UPSTREAM:
            return {spec.name for spec in others if same_upstream(spec.host, failed.host)}


def same_upstream(one: HostSpec, other: HostSpec) -> bool:
    """Whether two runners ask the same upstream with the same key, and so share its limits."""
    if (one.base_url, one.key) != (other.base_url, other.key):
        return False
    return one.address == other.address or not _is_loopback(one.base_url)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
