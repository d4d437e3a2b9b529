from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .corpus import SECOND, Case, by_file, load
from .differential import (
    DIFFERENT,
    THEY_REFUSE,
    THEY_WAIT,
    WE_WAIT,
    Outcome,
    Read,
    compare,
    difference,
)
from .differential_reasons import REASONS, Reason, explain
from .mutations import stream


def _unexplained(raw: bytes) -> list[str]:
    _, _, found = compare(raw)
    return [f"{one.peer}: {one.kind}: {one.detail}" for one in found if explain(one) is None]


@given(st.randoms(use_true_random=False))
def test_what_h11_or_llhttp_refuses_we_refuse_and_what_all_take_is_the_same(random: Random) -> None:
    raw = stream(random)
    assert _unexplained(raw) == [], raw


FILES = by_file(load("refused", "taken", "ended", "stalled"))


@pytest.mark.parametrize("cases", FILES.values(), ids=FILES)
def test_h11_and_llhttp_have_no_case_that_we_read_worse(cases: list[Case]) -> None:
    worse = {case.name: _unexplained(case.raw + SECOND) for case in cases}
    assert {name: how for name, how in worse.items() if how} == {}


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_each_reason_explains_its_own_example(reason: Reason) -> None:
    _, _, found = compare(reason.example)
    assert {explain(one) for one in found} == {reason}
    assert {one.peer for one in found} == reason.peers


_ONE, _OTHER = Read(b"GET", b"/"), Read(b"GET", b"/", body=b"x")


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        (Outcome([_ONE]), Outcome([_OTHER]), DIFFERENT),
        (Outcome([_ONE]), Outcome(refused="no"), THEY_REFUSE),
        (Outcome([_ONE], refused="no"), Outcome(refused="no"), THEY_REFUSE),
        (Outcome([_ONE]), Outcome([_ONE], refused="no"), THEY_REFUSE),
        (Outcome([_ONE, _ONE]), Outcome([_ONE]), THEY_WAIT),
        (Outcome([_ONE], cut=True), Outcome([_ONE, _ONE]), WE_WAIT),
        (Outcome([_ONE]), Outcome([_ONE]), None),
        (Outcome(refused="no"), Outcome([_ONE]), None),
        (Outcome([_ONE], refused="no"), Outcome([_ONE, _OTHER]), None),
        (Outcome([_ONE], cut=True), Outcome([_ONE], refused="no"), None),
        (Outcome([_ONE], closed=True), Outcome([_ONE, _ONE]), None),
        (Outcome([_ONE, _ONE]), Outcome([_ONE], closed=True), None),
    ],
)
def test_a_difference_is_one_only_where_a_message_could_be_taken_for_another(
    ours: Outcome, theirs: Outcome, kind: str | None
) -> None:
    assert [found for found, _, _ in difference(ours, theirs)] == ([kind] if kind else [])


def test_a_seed_names_a_stream_and_streams_are_of_every_kind() -> None:
    streams = [stream(Random(seed)) for seed in range(300)]
    assert streams == [stream(Random(seed)) for seed in range(300)]
    outcomes = [compare(raw)[0] for raw in streams]
    assert sum(bool(outcome.refused) for outcome in outcomes) > 50
    assert sum(len(outcome.requests) > 0 for outcome in outcomes) > 50
