"""How long to wait before another attempt."""

from __future__ import annotations

from llmrelay.errors import HostUnreachable, LoginRefused
from llmrelay.runners.backoff import MAX_S, MAX_STUCK_S, MIN_S, STEADY_S, Backoff


def waits(error: HostUnreachable | LoginRefused, count: int) -> list[float]:
    backoff = Backoff()
    return [backoff.next_s(error, 0.0) for _ in range(count)]


def test_waits_grow_to_a_limit_and_begin_soon() -> None:
    first, *_, last = waits(HostUnreachable("gone"), 30)
    assert 0.75 * MIN_S <= first <= 1.25 * MIN_S
    assert 0.75 * MAX_S <= last <= 1.25 * MAX_S


def test_what_does_not_heal_by_itself_is_tried_ever_more_rarely_but_soon_at_first() -> None:
    first, *_, last = waits(LoginRefused("nologin: the host boots"), 30)
    assert first <= 1.25 * MIN_S
    assert 0.75 * MAX_STUCK_S <= last <= 1.25 * MAX_STUCK_S


def test_only_a_life_that_was_long_makes_the_next_loss_the_first_again() -> None:
    error = HostUnreachable("gone")
    backoff = Backoff()
    for _ in range(10):
        backoff.next_s(error, STEADY_S / 2)
    assert backoff.next_s(error, STEADY_S / 2) > 4 * MIN_S
    assert backoff.next_s(error, STEADY_S) <= 1.25 * MIN_S


def test_no_two_that_are_lost_together_come_back_together() -> None:
    assert len({waits(HostUnreachable("gone"), 1)[0] for _ in range(10)}) > 1
