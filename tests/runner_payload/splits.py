"""The portions in which every parser test feeds its bytes."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` cut at `places`, each taken modulo its length."""
    at = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


PLACES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=8)
