"""What a benchmark makes of the bytes that its clients read. Pure."""

from __future__ import annotations

import pytest

from scripts.benchmark.records import (
    RECORD_FORMAT,
    Plan,
    Read,
    gaps_ms,
    has_delta,
    late_ms,
    read_answer,
    steady_late_ms,
)

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
MS = 1_000_000


def record(number: int, sent_ms: int, call: int = 7) -> bytes:
    return RECORD_FORMAT % (call, number, sent_ms * MS)


def chunk(*records: bytes) -> bytes:
    data = b"".join(records)
    return b"%x\r\n%b\r\n" % (len(data), data)


def plan(deltas: int) -> Plan:
    return Plan(7, deltas, 10)


WHOLE: list[Read] = [
    (100 * MS, HEAD + chunk(record(0, 90))),
    (120 * MS, chunk(record(1, 110), record(2, 115))),
    (150 * MS, chunk(record(3, 149)) + LAST),
]


def test_every_delta_is_timed_by_the_read_that_brought_its_end() -> None:
    answer = read_answer(plan(4), WHOLE, "chat")
    assert not answer.errors
    assert late_ms([answer]) == [10, 10, 5, 1]


def test_a_gap_is_the_time_between_two_arrivals_of_one_call() -> None:
    answer = read_answer(plan(4), WHOLE, "chat")
    assert gaps_ms([answer, answer]) == [20, 0, 30] * 2


def test_an_answer_of_one_delta_has_no_gap() -> None:
    reads = [(100 * MS, HEAD + chunk(record(0, 90)) + LAST)]
    assert gaps_ms([read_answer(plan(1), reads, "chat")]) == []


def test_steady_is_while_all_calls_are_under_way() -> None:
    late = [(at_ns + 20 * MS, data) for at_ns, data in WHOLE]
    answers = [read_answer(plan(4), reads, "chat") for reads in (WHOLE, late)]
    # All have begun at 120 ms, and the first one's last delta was sent at 149.
    assert steady_late_ms(answers) == [1, 21]


@pytest.mark.parametrize(
    ("records", "errors"),
    [
        ([record(0, 1), record(1, 2)], {}),
        ([record(0, 1)], {"lost": 1}),
        ([record(0, 1), record(1, 2), record(1, 2)], {"doubled": 1}),
        ([record(1, 2), record(0, 1)], {"reordered": 1}),
        ([record(0, 1), record(1, 2), record(0, 1, call=8)], {"mixed": 1}),
        ([record(0, 1), b"?", record(1, 2)], {"garbled": 1}),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(
    records: list[bytes], errors: dict[str, int]
) -> None:
    answer = read_answer(plan(2), [(MS, HEAD + chunk(*records) + LAST)], "chat")
    assert dict(answer.errors) == errors


def test_an_answer_that_ends_anywhere_is_wrong_and_never_a_crash() -> None:
    whole = HEAD + chunk(record(0, 1)) + LAST
    for length in range(1, len(whole)):
        assert read_answer(plan(1), [(MS, whole[:length])], "chat").errors, whole[:length]


def test_a_rewritten_event_still_shows_its_record() -> None:
    event = b'data: {"choices":[{"delta":{"content":"%b","role":null}}]}\n\n' % record(0, 1)
    assert has_delta(event)
    assert not has_delta(event.partition(b";")[0])
    done = chunk(event, b"data: [DONE]\n\n")
    assert not read_answer(plan(1), [(MS, HEAD + done + LAST)], "completions").errors


def test_a_plan_travels_as_its_prompt() -> None:
    silent = Plan(9, 2, 0, phase_ms=3, record_bytes=64, silent_after=1)
    assert Plan.find(b'{"content":"' + silent.prompt().encode() + b'"}') == silent
    assert Plan.find(b"hello") is None
