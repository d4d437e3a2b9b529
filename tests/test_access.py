"""`serve --auth-tokens` over OpenSSH: what clients with and without a token see, and the log."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmrelay.http.tokens import make_line, make_token
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import Delta, ScriptedUpstream, ThreadedUpstream, WaitFor, answer


@dataclass
class Asked:
    """A front-end that asks for tokens: alice's has no limit, bob's one request a minute."""

    front_end: FrontEndProcess
    upstream: ThreadedUpstream
    file: Path
    alice: str
    bob: str


@pytest.fixture(scope="module")
def asking(sshd: OpenSSHServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    alice, bob = make_token(), make_token()
    file = tmp_path_factory.mktemp("access") / "tokens"
    file.write_text(f"{make_line('alice', alice, None, None)}\n{make_line('bob', bob, None, 1)}\n")
    with ScriptedUpstream().in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url]
        # Without --allow-anonymous: tokens are what it takes to listen for others.
        options += ["--auth-tokens", str(file), "--listen", "0.0.0.0:0"]
        with FrontEndProcess(options) as front_end:
            yield Asked(front_end, upstream, file, alice, bob)
            assert alice not in front_end.log
            assert bob not in front_end.log


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_nothing_is_asked_of_a_runner(asking: Asked) -> None:
    response, body = asking.front_end.request("POST", "/chat", "hi")
    assert response.status == 401
    assert response.headers["X-Error-Code"] == "unauthorized"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="llmrelay"'
    assert body == b"A token is needed here: send `Authorization: Bearer TOKEN`.\n"
    response, _ = asking.front_end.request("POST", "/chat", "hi", bearer(make_token()))
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    assert asking.upstream.requests == []


def test_a_known_token_is_answered_and_its_name_logged(asking: Asked) -> None:
    response, body = asking.front_end.request("POST", "/chat", "hi", bearer(asking.alice))
    assert (response.status, body) == (200, b"Hello, world")
    assert "POST /chat 200" in asking.front_end.wait_for_log(" token=alice")
    assert "whoever reaches" not in asking.front_end.log


def test_a_token_s_limit_is_told_with_when_it_ends(asking: Asked) -> None:
    statuses = []
    for _ in range(2):
        response, body = asking.front_end.request("GET", "/nothing", None, bearer(asking.bob))
        statuses.append(response.status)
    assert statuses == [404, 429]
    assert response.headers["X-Error-Code"] == "rate_limited"
    assert 55 <= int(response.headers["Retry-After"]) <= 60
    assert body == b"The limit of bob's token, 1 a minute, is reached.\n"


def test_health_is_told_to_all_and_the_runner_to_those_with_a_token(asking: Asked) -> None:
    response, body = asking.front_end.request("GET", "/healthz")
    assert (response.status, json.loads(body)) == (200, {"status": "ok"})
    response, body = asking.front_end.request("GET", "/healthz", None, bearer(asking.alice))
    assert json.loads(body)["runners"][asking.front_end.runner]["state"] == "ready"
    # A wrong one is told so.
    response, _ = asking.front_end.request("GET", "/healthz", None, bearer("wrong"))
    assert response.status == 401


def test_sighup_takes_up_the_file_and_keeps_answers_that_are_under_way(asking: Asked) -> None:
    asking.upstream.upstream.queue.append([Delta("first, "), WaitFor("go"), *answer("last")])
    carol = make_token()
    connection = asking.front_end.connect()
    connection.request("POST", "/chat", "hi", bearer(asking.alice))
    response = connection.getresponse()
    assert response.read1() == b"first, "

    asking.file.write_text(make_line("carol", carol, None, None))
    asking.front_end.signal(signal.SIGHUP)
    asking.front_end.wait_for_log(f"reloaded: {asking.file}")
    # Alice's token is gone; her answer is not.
    assert asking.front_end.request("GET", "/", None, bearer(asking.alice))[0].status == 401
    assert asking.front_end.request("GET", "/", None, bearer(carol))[0].status == 404
    asking.upstream.open("go")
    assert response.read() == b"last"
    connection.close()

    asking.file.write_text("dave\n")
    asking.front_end.signal(signal.SIGHUP)
    asking.front_end.wait_for_log(f"nothing is reloaded: --auth-tokens {asking.file}:1: ")
    assert asking.front_end.request("GET", "/", None, bearer(carol))[0].status == 404
