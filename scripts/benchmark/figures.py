"""Figures out of measurements: percentiles of one run, medians and ranges over rounds.

Pure: numbers in, numbers and their text out. What they are figures of is for others to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

_PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
PERCENTILES = tuple(_PERCENTILES)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The values at p50, p99, p99.9 and the highest; empty without any value."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {name: ordered[round(last * share)] for name, share in _PERCENTILES.items()}


def over_rounds(values: Sequence[float | None], digits: int = 1) -> str:
    """The median, with the range if there is one: `12.3 (11.9-13.0)`."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{median(known):z.{digits}f}"
    least, most = f"{min(known):z.{digits}f}", f"{max(known):z.{digits}f}"
    return text if least == most else f"{text} ({least}-{most})"


def ms_over_rounds(values: Sequence[float | None]) -> str:
    """The same of milliseconds: with as many digits as mean something, and fit into a table."""
    known = [value for value in values if value is not None]
    middle = median(known) if known else 0.0
    return over_rounds(values, 2 if middle < 10 else 1 if middle < 100 else 0)
