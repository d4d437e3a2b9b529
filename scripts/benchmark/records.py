"""What a delta says in a benchmark, and what its reader makes of it.

A delta's text is a record: the call, the delta's number in it, and when upstream wrote it, by the
clock that all processes of a Linux machine share. `read_answer` takes what a client read, with the
time of each read, and returns how late each delta came and what was wrong: lost, doubled,
reordered, of another call, or cut off.

Pure and shared by the simulator and its readers. Knows chunked coding, but no sockets.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf
from typing import Literal

RECORD_FORMAT = b"%04x %04x %016x;"
RECORD_BYTES = 27
MAX_NUMBER = 0xFFFF

_RECORD = re.compile(rb"([0-9a-f]{4}) ([0-9a-f]{4}) ([0-9a-f]{16});x*")
_PROMPT = re.compile(
    rb"benchmark call=(\d+) deltas=(\d+) gap_ms=(\d+) phase_ms=(\d+) record_bytes=(\d+)"
    rb" silent_after=(\d+)"
)

Framing = Literal["chat", "completions", "plain"]
"""chat: chunked text; completions: chunked server-sent events; plain: text, as curl prints it."""

Read = tuple[int, bytes]
"""What one read of a client brought, and when (time.monotonic_ns)."""


@dataclass(frozen=True)
class Plan:
    """What the simulator is to answer; it travels as the prompt.

    Attributes:
        gap_ms: between two deltas; 0 is as fast as the connection takes them.
        phase_ms: before the first one, so that calls at once do not speak in chorus.
        record_bytes: the length of a delta's text, filled up with x.
        silent_after: so many deltas upstream says nothing until it is told to go on; 0 is never.
    """

    call: int
    deltas: int
    gap_ms: int
    phase_ms: int = 0
    record_bytes: int = RECORD_BYTES
    silent_after: int = 0

    def prompt(self) -> str:
        return (
            f"benchmark call={self.call} deltas={self.deltas} gap_ms={self.gap_ms}"
            f" phase_ms={self.phase_ms} record_bytes={self.record_bytes}"
            f" silent_after={self.silent_after}"
        )

    @classmethod
    def find(cls, body: bytes) -> Plan | None:
        """The plan whose prompt is in a request's body."""
        found = _PROMPT.search(body)
        return cls(*map(int, found.groups())) if found else None


@dataclass
class Answer:
    """One call's answer as its client saw it; index by index one delta."""

    sent_ns: list[int] = field(default_factory=list)
    arrived_ns: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def read_answer(plan: Plan, reads: Sequence[Read], framing: Framing) -> Answer:
    """Checks every byte of an answer and times every delta in it."""
    answer = Answer()
    raw = b"".join(data for _, data in reads)
    if framing == "plain":
        pieces, whole = [(0, len(raw))], True
    elif raw.startswith(b"HTTP/1.1 200 "):
        pieces, whole = _dechunk(raw)
    else:
        answer.errors[raw[:40].partition(b"\r\n")[0].decode("latin-1") or "no answer"] += 1
        return answer
    body = b"".join(raw[start : start + size] for start, size in pieces)
    if not whole or (framing == "completions" and b"data: [DONE]" not in body):
        answer.errors["cut off"] += 1
    records = list(_RECORD.finditer(body))
    if framing != "completions" and sum(r.end() - r.start() for r in records) != len(body):
        answer.errors["garbled"] += 1
    _check_order(plan, records, answer.errors)
    ends_in_body = list(accumulate(size for _, size in pieces))
    ends_in_raw = list(accumulate(len(data) for _, data in reads))
    for record in records:
        last = record.end() - 1
        piece = bisect_right(ends_in_body, last)
        start, size = pieces[piece]
        last_in_raw = start + last - (ends_in_body[piece] - size)
        answer.arrived_ns.append(reads[bisect_right(ends_in_raw, last_in_raw)][0])
        answer.sent_ns.append(int(record[3], 16))
    return answer


def late_ms(answers: Iterable[Answer], from_ns: int = 0, to_ns: float = inf) -> list[float]:
    """How long after upstream's write each delta of that time came."""
    return [
        (arrived_ns - sent_ns) / 1e6
        for answer in answers
        for arrived_ns, sent_ns in zip(answer.arrived_ns, answer.sent_ns, strict=True)
        if from_ns <= sent_ns <= to_ns
    ]


def steady_late_ms(answers: Sequence[Answer]) -> list[float]:
    """The same of deltas sent while all calls were under way: without what starting them costs."""
    begun = [answer for answer in answers if answer.sent_ns]
    if not begun:
        return []
    all_begun_ns = max(answer.arrived_ns[0] for answer in begun)
    first_over_ns = min(answer.sent_ns[-1] for answer in begun)
    return late_ms(begun, all_begun_ns, first_over_ns)


def gaps_ms(answers: Iterable[Answer]) -> list[float]:
    """How long each delta but the first came after the one before it, of the same call."""
    return [
        (later_ns - earlier_ns) / 1e6
        for answer in answers
        for earlier_ns, later_ns in pairwise(answer.arrived_ns)
    ]


def has_delta(raw: bytes) -> bool:
    """Whether there is a whole record in what was read."""
    return _RECORD.search(raw) is not None


def _check_order(plan: Plan, records: Sequence[re.Match[bytes]], errors: Counter[str]) -> None:
    seen: set[int] = set()
    highest = -1
    for record in records:
        number = int(record[2], 16)
        if int(record[1], 16) != plan.call:
            errors["mixed"] += 1
            continue
        if number in seen:
            errors["doubled"] += 1
        elif number < highest:
            errors["reordered"] += 1
        seen.add(number)
        highest = max(highest, number)
    if lost := plan.deltas - len(seen):
        errors["lost"] += lost


def _dechunk(raw: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Where in a response the pieces of its body are (start, size), and whether it is whole."""
    pieces: list[tuple[int, int]] = []
    at = raw.find(b"\r\n\r\n") + 4
    if at < 4:
        return pieces, False  # not even a whole head
    while (line_end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:line_end], 16)
        if size == 0:
            # Behind the last chunk: trailers, and an empty line.
            return pieces, raw.endswith(b"\r\n\r\n", line_end)
        start = line_end + 2
        if start + size > len(raw):
            pieces.append((start, len(raw) - start))
            break
        pieces.append((start, size))
        at = start + size + 2
    return pieces, False
