"""The benchmark's own ends: simulator and load generator, as processes over loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.benchmark.child import Child
from scripts.benchmark.load import encode_request
from scripts.benchmark.records import RECORD_FORMAT, Plan, read_answer
from scripts.benchmark.rounds import Load

LIMIT_S = 20.0


class Simulator(Child):
    port = 0


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.module("simulator") as child:
        child.port = int(child.line(LIMIT_S))
        yield child


def loaded(simulator: Simulator, *arguments: str) -> Any:
    where = [f"--port={simulator.port}", "--framing=completions"]
    with Child.module("load", *where, *arguments) as load:
        assert load.line(LIMIT_S) == "connected"
        load.say("go")
        assert load.line(LIMIT_S) == "done"
        return json.loads(load.line(LIMIT_S))


def asked(simulator: Simulator, plan: Plan) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", simulator.port), LIMIT_S)
    client.sendall(encode_request(plan, "completions", simulator.port))
    return client


def read_to_end(client: socket.socket, raw: bytes = b"") -> bytes:
    while not raw.endswith(b"0\r\n\r\n"):
        data = client.recv(65536)
        assert data, raw
        raw += data
    return raw


def test_calls_in_turn_are_all_checked_and_timed(simulator: Simulator) -> None:
    for fresh in (False, True):
        result = loaded(simulator, *Load(5, 3, 1, in_turn=True, fresh=fresh).arguments())
        assert result["errors"] == {}
        assert (result["calls"], result["deltas"]) == (5, 15)
        assert 0 < result["first_delta_ms"]["p50"] <= result["first_delta_ms"]["max"]
        # Calls that follow each other are never under way together: the gaps are within one.
        assert 0 <= result["gap_ms"]["max"] < 1000 * result["elapsed_s"]


def test_calls_in_turn_keep_one_connection_unless_fresh_ones_are_asked_for() -> None:
    for fresh in (False, True):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(LIMIT_S)
            where = [f"--port={server.getsockname()[1]}", "--framing=chat"]
            options = Load(3, 1, 0, in_turn=True, fresh=fresh).arguments()
            with Child.module("load", *where, *options) as load:
                assert load.line(LIMIT_S) == "connected"
                load.say("go")
                if fresh:
                    for _ in range(3):
                        serve(server, 1)
                else:
                    serve(server, 3)
                assert load.line(LIMIT_S) == "done"
                assert json.loads(load.line(LIMIT_S))["errors"] == {}


def serve(server: socket.socket, calls: int) -> None:
    """Accepts a connection, and answers so many calls on it with a delta each."""
    connection, _ = server.accept()
    connection.settimeout(LIMIT_S)
    with connection:
        for _ in range(calls):
            plan = None
            asked = b""
            while plan is None:
                data = connection.recv(65536)
                assert data, "the connection was not kept"
                asked += data
                plan = Plan.find(asked)
            record = RECORD_FORMAT % (plan.call, 0, 0)
            head = b"HTTP/1.1 200 OK\r\n\r\n"
            connection.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(record), record))


def test_a_call_that_does_not_end_within_the_limit_is_unfinished_and_nothing_else(
    simulator: Simulator,
) -> None:
    forever = ["--calls=2", "--deltas=2", "--gap-ms=60000", "--limit-s=0.3"]
    at_once = loaded(simulator, *forever)
    assert at_once["errors"] == {"unfinished": 2}
    in_turn = loaded(simulator, *forever, "--in-turn")
    assert in_turn["errors"] == {"unfinished": 2}
    assert in_turn["deltas"] == 1  # the second was never asked


def test_a_silent_call_says_nothing_until_upstream_is_told_to_go_on(
    simulator: Simulator,
) -> None:
    plan = Plan(3, 4, 0, silent_after=2)
    with asked(simulator, plan) as silent:
        raw = b""
        while raw.count(b";") < 2:
            raw += silent.recv(65536)
        # Another call has its whole answer meanwhile.
        with asked(simulator, Plan(4, 200, 0)) as other:
            read_to_end(other)
        assert raw.count(b";") == 2
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)
        silent.settimeout(LIMIT_S)
        simulator.say("go on")
        answer = read_answer(plan, [(1, read_to_end(silent, raw))], "completions")
    assert not answer.errors
    assert len(answer.sent_ns) == 4
