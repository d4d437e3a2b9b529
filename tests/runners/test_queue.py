"""Who waits for a place, in which order they get one, and how long that takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmrelay.runners.queue import MAX_RETRY_S, MIN_RETRY_S, FairQueue, FreeRate

Waiter = tuple[str, int]  # its client, and a number


def anyone(_: Waiter) -> bool:
    return True


def queue_of(*waiters: Waiter) -> FairQueue[Waiter]:
    queue: FairQueue[Waiter] = FairQueue()
    for waiter in waiters:
        queue.push(waiter[0], waiter)
    return queue


def popped(queue: FairQueue[Waiter]) -> list[Waiter]:
    out = []
    while (waiter := queue.pop(anyone)) is not None:
        out.append(waiter)
    return out


def test_one_clients_calls_are_served_in_order() -> None:
    assert popped(queue_of(("a", 1), ("a", 2), ("a", 3))) == [("a", 1), ("a", 2), ("a", 3)]


def test_clients_take_turns() -> None:
    queue = queue_of(("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1))
    order = "".join(client for client, _ in popped(queue))
    assert order == "abcaba"


def test_a_thousand_calls_of_one_client_delay_anothers_first_by_one_turn() -> None:
    queue = queue_of(*[("greedy", number) for number in range(1000)])
    for _ in range(10):
        assert queue.pop(anyone)
    queue.push("other", ("other", 1))
    assert ("other", 1) in {queue.pop(anyone), queue.pop(anyone)}


def test_who_comes_to_the_front_is_its_clients_next() -> None:
    queue = queue_of(("a", 1), ("a", 2), ("b", 1))
    queue.push("a", ("a", 0), front=True)
    assert popped(queue) == [("a", 0), ("b", 1), ("a", 1), ("a", 2)]


def test_a_place_goes_to_the_first_whom_it_suits_and_nobody_else_loses_a_turn() -> None:
    queue = queue_of(("a", 1), ("b", 1), ("c", 1), ("c", 2))
    assert queue.pop(lambda waiter: waiter == ("c", 2)) == ("c", 2)
    assert popped(queue) == [("a", 1), ("b", 1), ("c", 1)]


def test_a_place_that_suits_nobody_changes_nothing() -> None:
    queue = queue_of(("a", 1), ("b", 1))
    assert queue.pop(lambda _: False) is None
    assert popped(queue) == [("a", 1), ("b", 1)]


def test_who_leaves_is_not_served_and_leaves_nothing_behind() -> None:
    queue = queue_of(("a", 1), ("a", 2), ("b", 1))
    queue.remove("a", ("a", 1))
    queue.remove("b", ("b", 1))
    assert len(queue) == 1
    assert popped(queue) == [("a", 2)]
    assert len(queue) == 0
    assert not queue._clients


class QueueMachine(RuleBasedStateMachine):
    """Against a list of all waiters, and the order in which clients had their turns."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Waiter] = FairQueue()
        self.waiting: list[Waiter] = []
        self.turns: list[str] = []
        self.pushed = 0

    @rule(client=st.sampled_from("abc"), front=st.booleans())
    def push(self, client: str, front: bool) -> None:
        self.pushed += 1
        waiter = (client, self.pushed)
        self.queue.push(client, waiter, front=front)
        self.waiting.insert(0 if front else len(self.waiting), waiter)
        if client not in self.turns:
            self.turns.append(client)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.queue.remove(waiter[0], waiter)
        self.waiting.remove(waiter)
        self._forget(waiter[0])

    @rule(served=st.sets(st.sampled_from("abc")), odd=st.booleans())
    def pop(self, served: set[str], odd: bool) -> None:
        def suits(waiter: Waiter) -> bool:
            return waiter[0] in served and (odd or waiter[1] % 2 == 0)

        lines = ([w for w in self.waiting if w[0] == client] for client in self.turns)
        expected = next((w for line in lines for w in line if suits(w)), None)
        assert self.queue.pop(suits) == expected
        if expected is not None:
            self.waiting.remove(expected)
            self.turns.remove(expected[0])
            self.turns.append(expected[0])
            self._forget(expected[0])

    @invariant()
    def its_length_is_that_of_those_who_wait(self) -> None:
        assert len(self.queue) == len(self.waiting)

    def _forget(self, client: str) -> None:
        if all(waiter[0] != client for waiter in self.waiting):
            self.turns.remove(client)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_a_wait_is_for_as_many_places_as_there_are_others_and_one() -> None:
    rate = FreeRate()
    for second in range(20):
        rate.note(second / 2)
    assert rate.retry_after_s(9, 10.0) == pytest.approx(5, abs=1)
    assert rate.retry_after_s(39, 10.0) == pytest.approx(20, abs=1)


def test_where_no_place_came_free_for_long_the_wait_is_longer() -> None:
    rate = FreeRate()
    for second in range(10):
        rate.note(float(second))
    assert rate.retry_after_s(2, 10.0) < rate.retry_after_s(2, 40.0)


def test_only_the_last_places_count() -> None:
    rate = FreeRate()
    rate.note(0.0)
    for number in range(100):
        rate.note(1000.0 + number / 10)
    assert rate.retry_after_s(100, 1010.0) == pytest.approx(11, abs=1)


def test_where_none_ever_came_free_the_wait_is_the_longest() -> None:
    assert FreeRate().retry_after_s(0, 0.0) == MAX_RETRY_S


@given(
    st.lists(st.floats(0, 1e4), max_size=100).map(sorted),
    st.integers(0, 10_000),
    st.floats(0, 1e4),
)
def test_a_wait_is_a_whole_number_of_seconds_within_its_limits(
    freed_at_s: list[float], waiting: int, later_s: float
) -> None:
    rate = FreeRate()
    for at_s in freed_at_s:
        rate.note(at_s)
    wait_s = rate.retry_after_s(waiting, max(freed_at_s, default=0.0) + later_s)
    assert MIN_RETRY_S <= wait_s <= MAX_RETRY_S
    assert wait_s == int(wait_s)
