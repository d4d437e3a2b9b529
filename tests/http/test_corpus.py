from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from llmrelay.errors import BadRequest
from llmrelay.http.events import Request
from llmrelay.http.server import Server
from llmrelay.values import ListenAddress

from .conftest import Run
from .corpus import (
    CASES,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    SECOND,
    Case,
    by_file,
    load,
)
from .live import Client, echo, serving
from .parsing import one_by_one, parse

REFUSED = load("refused")
TAKEN = load("taken")
# Of the live server: for a head, a body, an idle connection. Nothing but a stalled request waits.
LIMIT_S = 1.0


def _portions(raw: bytes) -> dict[str, list[bytes]]:
    """The same bytes as they may arrive."""
    lines = raw.splitlines(keepends=True)
    if len(raw) > 10_000:  # limits, at which single bytes make no other case
        edges = [*range(0, len(raw), 777), len(raw)]
        return {"whole": [raw], "in parts": [raw[a:b] for a, b in pairwise(edges)], "lines": lines}
    return {"whole": [raw], "byte by byte": one_by_one(raw), "lines": lines}


def _as_in_a_case(request: Request, key: str) -> Any:
    """A field of the Request as a TOML file can say it."""
    value = getattr(request, key)
    if key == "headers":
        return [list(pair) for pair in value]
    if key == "version":
        return list(value)
    return "none" if value is None else value


def test_every_file_names_its_rule_and_where_it_comes_from() -> None:
    assert len(list(CASES.glob("*.toml"))) > 20
    for path in CASES.glob("*.toml"):
        text = path.read_text()
        assert text.startswith("rule = "), path.name
        assert "\nsource = " in text, path.name


def each_file(cases: list[Case]) -> pytest.MarkDecorator:
    """A test for the cases of each file; what fails names its case."""
    files = by_file(cases)
    return pytest.mark.parametrize("cases", files.values(), ids=files)


@each_file(REFUSED)
def test_what_the_rfc_forbids_is_refused_however_it_arrives(cases: list[Case]) -> None:
    for case in cases:
        for behind in (b"", SECOND):
            for how, portions in _portions(case.raw + behind).items():
                parsed = parse(portions)
                assert parsed.error is not None, (case.name, how)
                assert parsed.error.status == case.status, (case.name, how)
                assert not any(message.whole for message in parsed.messages), (case.name, how)


@each_file(REFUSED)
def test_a_good_request_before_a_refused_one_is_whole_first(cases: list[Case]) -> None:
    for case in cases:
        for how, portions in _portions(SECOND + case.raw).items():
            parsed = parse(portions)
            assert parsed.error is not None, (case.name, how)
            assert parsed.error.status == case.status, (case.name, how)
            first = parsed.messages[0]
            assert (first.whole, first.body) == (True, b"ok"), (case.name, how)


@each_file(TAKEN)
def test_what_the_rfc_allows_is_taken_however_it_arrives(cases: list[Case]) -> None:
    for case in cases:
        for how, portions in _portions(case.raw + SECOND).items():
            parsed = parse(portions, end=True)
            assert parsed.error is None, (case.name, how)
            first, second = parsed.messages
            read = {key: _as_in_a_case(first.request, key) for key in case.request}
            assert read == case.request, (case.name, how)
            assert (first.body, first.whole) == (case.body, True), (case.name, how)
            behind = (second.request.path, second.body, second.whole)
            assert behind == ("/second", b"ok", True), (case.name, how)


@each_file([case for case in TAKEN if len(case.raw) < 500])
def test_an_end_inside_a_request_is_an_error_and_between_two_is_none(cases: list[Case]) -> None:
    for case in cases:
        raw = case.raw
        head_start = len(raw) - len(raw.lstrip(b"\r\n"))
        for size in range(len(raw) + 1):
            between = size == len(raw) or size <= head_start
            error = None if between else BadRequest
            assert parse([raw[:size]], end=True).error is error, (case.name, size)


@each_file(load("ended", "stalled"))
def test_what_is_not_whole_is_an_error_at_its_end_alone(cases: list[Case]) -> None:
    for case in cases:
        for how, portions in _portions(case.raw).items():
            parsed = parse(portions)
            assert parsed.error is None, (case.name, how)
            assert not any(message.whole for message in parsed.messages), (case.name, how)
            error = BadRequest if case.status else None
            assert parse(portions, end=True).error is error, (case.name, how)


# --- On the wire --------------------------------------------------------------------------------


async def _all(cases: list[Case], check: Callable[[Server, Case], Awaitable[None]]) -> None:
    """Check the cases against one server, some at a time; all failures are told."""
    turn = asyncio.Semaphore(50)
    failures: list[str] = []

    async def one(server: Server, case: Case) -> None:
        async with turn:
            try:
                await check(server, case)
            except (AssertionError, OSError, EOFError) as error:
                failures.append(f"{case}: {error!r}")

    limits: dict[str, Any] = {
        # Where others may connect, any Host is taken.
        "listen": (ListenAddress("0.0.0.0", 0),),
        "max_head_bytes": MAX_HEAD_BYTES,
        "max_headers": MAX_HEADERS,
        "max_body_bytes": MAX_BODY_BYTES,
        "head_timeout_s": LIMIT_S,
        "body_timeout_s": LIMIT_S,
        "keep_alive_s": LIMIT_S,
    }
    async with serving(echo, **limits) as server, asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(server, case))
    assert failures == []


async def _ends_with(client: Client, case: Case) -> None:
    """The next answer is the case's, and the last: a FIN comes behind it, and no RST."""
    if case.status:
        response = await client.response("HEAD" if case.raw.startswith(b"HEAD ") else "GET")
        assert (response.status, response.headers["connection"]) == (case.status, "close")
    assert await client.closed() == b""


def _taken(case: Case) -> bytes:
    """What the echo answers."""
    [message] = parse([case.raw]).messages
    return message.request.path.encode() + b" " + case.body


def _method(case: Case) -> str:
    return str(case.request.get("method", "GET"))


def test_a_refused_request_gets_its_status_once_and_then_the_connection_ends(run: Run) -> None:
    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(case.raw + SECOND)
            await _ends_with(client, case)

    run(_all(REFUSED, check))


def test_a_request_before_a_refused_one_is_answered_first(run: Run) -> None:
    """One of each file and status: that the parser has it so in every case is shown above."""
    some = {(case.file, case.status): case for case in REFUSED}

    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(SECOND + case.raw)
            assert (await client.response()).body == b"/second ok"
            await _ends_with(client, case)

    run(_all(list(some.values()), check))


def test_a_taken_request_is_answered_and_one_behind_it_if_it_does_not_close(run: Run) -> None:
    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(case.raw + SECOND)
            response = await client.response(_method(case))
            assert (response.status, response.interim) == (200, [])
            assert response.body == (b"" if _method(case) == "HEAD" else _taken(case))
            if case.keep_alive:
                assert (await client.response()).body == b"/second ok"
            else:
                assert response.headers["connection"] == "close"
                assert await client.closed() == b""

    run(_all(TAKEN, check))


def test_a_client_that_ends_behind_its_request_gets_the_whole_answer(run: Run) -> None:
    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(case.raw)
            client.end()
            response = await client.response(_method(case))
            assert (response.status, response.interim) == (200, [])
            assert response.body == (b"" if _method(case) == "HEAD" else _taken(case))
            assert await client.closed() == b""

    run(_all(TAKEN, check))


def test_a_client_that_ends_inside_a_request_reads_why_it_is_refused(run: Run) -> None:
    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(case.raw)
            client.end()
            await _ends_with(client, case)

    run(_all(load("ended"), check))


def test_a_request_that_stops_coming_is_answered_at_its_deadline(run: Run) -> None:
    async def check(server: Server, case: Case) -> None:
        async with Client(server) as client:
            client.send(case.raw)
            await _ends_with(client, case)

    run(_all(load("stalled"), check))
