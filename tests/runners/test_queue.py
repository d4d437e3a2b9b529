"""Who waits for a place, and when there will be one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmrelay.runners.queue import MAX_RETRY_S, MIN_RETRY_S, FairQueue, FreeRate


def anybody(_: object) -> bool:
    return True


def test_a_client_with_many_calls_holds_another_up_by_one_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.push("greedy", f"greedy{number}")
    queue.push("modest", "modest")
    assert [queue.pop(anybody) for _ in range(3)] == ["greedy0", "modest", "greedy1"]
    assert len(queue) == 998


def test_a_place_goes_to_the_first_whom_it_suits() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a1", "a2"):
        queue.push("a", name)
    queue.push("b", "b1")
    queue.push("b", "b0", front=True)
    assert queue.pop(lambda name: name == "a2") == "a2"
    assert queue.pop(anybody) == "b0"
    assert queue.pop(lambda name: name == "none") is None
    queue.remove("b", "b1")
    assert queue.pop(anybody) == "a1"
    assert len(queue) == 0


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_everybody_gets_a_place_in_the_order_of_its_own_line(clients: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, client in enumerate(clients):
        queue.push(client, (client, number))
    served = [queue.pop(anybody) for _ in clients]
    assert queue.pop(anybody) is None
    for client in "abc":
        own = [each for each in served if each is not None and each[0] == client]
        assert own == [(client, n) for n, each in enumerate(clients) if each == client]


def test_retry_after_is_what_the_rate_of_free_places_says() -> None:
    rate = FreeRate()
    assert rate.retry_after_s(0, 0.0) == MAX_RETRY_S  # nothing is known yet
    for number in range(100):
        rate.note(number * 0.5)
    assert rate.retry_after_s(9, 50.0) == 5
    assert rate.retry_after_s(0, 50.0) == MIN_RETRY_S
    assert rate.retry_after_s(10_000, 50.0) == MAX_RETRY_S
    # None for a long time: that is no rate any more.
    assert rate.retry_after_s(9, 500.0) == MAX_RETRY_S
