"""`scripts/fuzz inventory`: generated inventories and patterns, each read by us and by Ansible.

Prints on how many both agree, and each difference, the shortest first. One is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.inventory.agreement import Ansible, Listing, ours
from tests.inventory.generated import FLEET, INVENTORIES, PATTERNS

_SHOWN = 10


def run(cases: int, number: int) -> int:
    """Compares so many inventories, and as many patterns; the process's exit status."""
    with Ansible() as ansible:
        differences = _compare(
            "inventories", cases, number, INVENTORIES, lambda text: (ansible.list(text), ours(text))
        )
        differences += _compare(
            "patterns",
            cases,
            number,
            PATTERNS,
            lambda text: (_hosts(ansible.list(FLEET, text)), _hosts(ours(FLEET, text))),
        )
    return 1 if differences else 0


def _hosts(listing: Listing | None) -> object:
    """What a pattern selects; which groups are left empty is of no interest."""
    return listing and listing["groups"]


def _compare(
    what: str,
    cases: int,
    number: int,
    texts: SearchStrategy[str],
    read: Callable[[str], tuple[object, object]],
) -> int:
    """Reads `cases` of `texts` by both; how many were read differently."""
    counts: Counter[str] = Counter()
    differing: dict[str, tuple[object, object]] = {}

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(texts)
    def compare(text: str) -> None:
        theirs, mine = read(text)
        if mine != theirs:
            differing[text] = theirs, mine
        else:
            counts["refused by both" if mine is None else "read alike"] += 1

    compare()
    print(f"{what} {counts.total() + len(differing)} (seed {number}): {dict(counts)},")
    print(f"  differences {len(differing)}")
    for text in sorted(differing, key=len)[:_SHOWN]:
        theirs, mine = differing[text]
        print(f"--- {text!r}\n  ansible: {theirs}\n  here:    {mine}")
    return len(differing)
