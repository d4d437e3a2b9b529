"""`scripts/fuzz compare`: many mutated requests, each read by us, h11 and llhttp.

Prints on how many all agree, and each kind of disagreement with its count, its shortest example
and the reason that tests/http/differential_reasons.py gives. One without a reason is a failure.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from random import Random

from tests.http.differential import Disagreement, Outcome, compare
from tests.http.differential_reasons import REASONS, explain
from tests.http.mutations import stream


def run(cases: int, seed: int) -> int:
    """Compare so many streams; the process's exit status."""
    agreements: Counter[str] = Counter()
    explained: defaultdict[tuple[str, str], list[Disagreement]] = defaultdict(list)
    unexplained: list[Disagreement] = []
    for number in range(cases):
        raw = stream(Random(f"{seed} {number}"))
        ours, theirs, found = compare(raw)
        if not found:
            agreements[_agreement(ours, list(theirs.values()))] += 1
        for one in found:
            reason = explain(one)
            if reason is None:
                unexplained.append(one)
            else:
                explained[reason.name, one.peer].append(one)
    disagreeing = cases - agreements.total()
    print(f"cases {cases} (seed {seed}), agreements {agreements.total()}:")
    for kind, count in agreements.most_common():
        print(f"  {count:6}  {kind}")
    print(f"cases with a disagreement {disagreeing}, by peer and reason:")
    for reason in REASONS:
        for peer in sorted(reason.peers):
            if group := explained.get((reason.name, peer)):
                _print_group(f"{peer}: {reason.name}", group, reason.source)
    print(f"disagreements without a reason {len(unexplained)}")
    for one in unexplained[:10]:
        print(f"  {one.peer}: {one.kind}: {one.raw!r}\n    {one.detail}")
    return 1 if unexplained else 0


def _agreement(ours: Outcome, theirs: list[Outcome]) -> str:
    refusing = sum(bool(outcome.refused) for outcome in theirs)
    if ours.refused:
        return {
            0: "refused by us alone",
            1: "refused by us and one of them",
            2: "refused by all three",
        }[refusing]
    return "cut short, so that none has all of it" if ours.cut else "read alike by all three"


def _print_group(title: str, group: list[Disagreement], source: str) -> None:
    example = min((one.raw for one in group), key=lambda raw: (len(raw), raw))
    print(f"  {len(group):6}  {title} ({group[0].kind})")
    print(f"          for example {example!r}")
    for line in textwrap.wrap(source, 86):
        print(f"          {line}")
