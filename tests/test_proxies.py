"""`POST /chat` through nginx and HAProxy, set up as docs/deploy.md says: what their clients see."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrelay.config import Config
from llmrelay.values import MIB
from tests.conftest import Stage
from tests.helpers.answers import read_until
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.proxies import Proxy, account, snippet
from tests.helpers.upstream import (
    Cut,
    Delta,
    Pause,
    ScriptedUpstream,
    Silence,
    Status,
    Step,
    WaitFor,
    answer,
)

HOST = "llm.example.com"
TOKEN = "a-token-of-these-tests"
HEADERS = {"Host": HOST, "Authorization": f"Bearer {TOKEN}"}
# On Linux all of 127.0.0.0/8 is this machine: the client's address is not the proxy's.
CLIENT = "127.0.0.7"


@pytest.fixture(scope="module")
def socket_path() -> Iterator[Path]:
    """A unix socket that the proxies reach, as docs/deploy.md has it."""
    with tempfile.TemporaryDirectory(prefix="llmrelay-") as folder:
        if user := account():
            os.chown(folder, -1, user.pw_gid)
        Path(folder).chmod(0o710)
        yield Path(folder) / "llmrelay.sock"


@pytest.fixture(scope="module")
def shared_stage(
    sshd: OpenSSHServer, socket_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"tests {TOKEN}\n")
    listen = ["--listen", "127.0.0.1:0", "--listen", f"unix:{socket_path}", "--socket-mode", "666"]
    access = ["--auth-tokens", str(tokens), "--allowed-host", HOST]
    trusted = ["--trusted-proxy", "127.0.0.1", "--trusted-proxy", "unix"]
    script = ScriptedUpstream()
    with script.in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url, *access, *trusted]
        with FrontEndProcess(options, listen=listen) as front_end:
            yield Stage(front_end, sshd, script, upstream)


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxy(shared_stage: Stage, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    front_end = shared_stage.front_end
    with Proxy(request.param, f"{front_end.host}:{front_end.port}") as started:
        yield started


def ask(
    where: Proxy | FrontEndProcess, prompt: bytes = b"hi", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """A whole exchange on a connection from CLIENT: the response and its body."""
    connection = http.client.HTTPConnection(
        where.host, where.port, timeout=20, source_address=(CLIENT, 0)
    )
    try:
        connection.request("POST", "/chat", prompt, HEADERS | (headers or {}))
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def post(proxy: Proxy) -> socket.socket:
    """A connection on which a prompt was sent; what comes back is read piece by piece."""
    connection = socket.create_connection((proxy.host, proxy.port), 10)
    fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    connection.sendall(f"POST /chat HTTP/1.1\r\n{fields}Content-Length: 2\r\n\r\nhi".encode())
    return connection


def start_curl(proxy: Proxy) -> subprocess.Popen[bytes]:
    headers = [word for name, value in HEADERS.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-sSN", "--max-time", "20", *headers, "-d", "hi", f"{proxy.url}/chat"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_delta_arrives_at_once_and_before_the_next_is_made(stage: Stage, proxy: Proxy) -> None:
    gates = [f"{proxy.name} {i}" for i in range(5)]
    gated: list[Step] = [step for gate in gates for step in (Delta(f"{gate};"), WaitFor(gate))]
    stage.script.script = [*gated, *answer()]
    waited_s = []
    with post(proxy) as connection:
        read_until(connection, f"{gates[0]};".encode())
        for opened, awaited in itertools.pairwise(gates):
            opened_at = time.monotonic()
            stage.upstream.open(opened)
            read_until(connection, f"{awaited};".encode())
            waited_s.append(time.monotonic() - opened_at)
        stage.upstream.open(gates[-1])
        read_until(connection, b"0\r\n")
    # Without http-no-delay HAProxy has the kernel hold back each of them for 200 ms.
    assert min(waited_s) < 0.15, waited_s


def test_the_finish_reason_passes_haproxy_and_not_nginx(stage: Stage, proxy: Proxy) -> None:
    stage.script.script = answer("half an ans", finish="length")
    with post(proxy) as connection:
        end = read_until(connection, b"\r\n0\r\n").rpartition(b"\r\n0\r\n")[2]
        while not end.endswith(b"\r\n"):
            end += connection.recv(100)
    assert end.strip() == (b"x-finish-reason: length" if proxy.name == "haproxy" else b"")


def test_an_error_keeps_its_status_and_headers(stage: Stage, proxy: Proxy) -> None:
    stage.script.script = [Status(429, {"retry-after": "17"})]
    response, body = ask(proxy)
    assert (response.status, response.headers["Retry-After"]) == (429, "17")
    assert response.headers["X-Error-Code"] == "upstream_rate_limited"
    assert b"429" in body


def test_an_answer_that_breaks_midway_does_not_end_whole(stage: Stage, proxy: Proxy) -> None:
    stage.script.script = [Delta("half an "), WaitFor(f"{proxy.name} break"), Cut()]
    with start_curl(proxy) as curl:
        assert curl.stdout is not None
        assert curl.stdout.read(8) == b"half an "
        stage.upstream.open(f"{proxy.name} break")
        rest, _ = curl.communicate(timeout=20)
    assert (curl.returncode, rest) == (18, b"")


# Midway it is the next chunks that tell, so they have to come.
DRIPPING: list[Step] = [step for _ in range(200) for step in (Delta("x"), Pause(0.05))]


@pytest.mark.parametrize("steps", [[Silence()], DRIPPING], ids=["before", "midway"])
def test_a_client_that_goes_away_cancels_its_call(
    stage: Stage, proxy: Proxy, steps: list[Step]
) -> None:
    stage.script.script = steps
    with start_curl(proxy) as curl:
        [recorded] = stage.upstream.wait_for_requests(1)
        if steps is DRIPPING:
            assert curl.stdout is not None
            assert curl.stdout.read(1) == b"x"
        curl.kill()
    stage.upstream.wait_for(recorded.client_closed)


def logged(stage: Stage, response: http.client.HTTPResponse) -> str:
    """The access log's line of a response."""
    request_id = response.headers["X-Request-Id"]
    log = stage.front_end.wait_for_log(request_id)
    [line] = [line for line in log.splitlines() if request_id in line]
    return line


def test_the_access_log_names_the_client_whatever_it_claims(stage: Stage, proxy: Proxy) -> None:
    forged = {"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.1"}
    for headers in ({}, forged):
        line = logged(stage, ask(proxy, headers=headers)[0])
        assert f" llmrelay.access: {CLIENT} POST /chat 200 " in line
        assert " via=127.0.0.1:" in line
    # And this peer is no trusted proxy.
    line = logged(stage, ask(stage.front_end, headers=forged)[0])
    assert f" llmrelay.access: {CLIENT}:" in line
    assert " via=" not in line


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_proxy_can_use_a_unix_socket(stage: Stage, socket_path: Path, name: str) -> None:
    with Proxy(name, f"unix:{socket_path}") as proxy:
        response, body = ask(proxy)
    assert body == b"Hello, world"
    line = logged(stage, response)
    assert f" llmrelay.access: {CLIENT} POST /chat 200 " in line
    assert " via=unix" in line


def test_pages_of_the_proxys_own_origin_may_ask_and_no_others(stage: Stage, proxy: Proxy) -> None:
    assert ask(proxy, headers={"Origin": f"https://{HOST}"})[0].status == 200
    assert ask(proxy, headers={"Origin": "https://other.example"})[0].status == 403
    assert ask(proxy, headers={"Host": "other.example"})[0].status == 421
    assert ask(proxy, headers={"Authorization": "Bearer guessed"})[0].status == 401


def test_requests_share_a_connection_to_the_front_end(stage: Stage, proxy: Proxy) -> None:
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)
    vias = set()
    for _ in range(30):
        connection.request("POST", "/chat", b"hi", HEADERS)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"Hello, world")
        vias.add(logged(stage, response).rpartition(" via=")[2])
    connection.close()
    # HAProxy sends the first request of a client over a connection of its own.
    assert len(vias) <= 2


def test_a_prompt_may_be_as_large_as_the_front_end_takes(stage: Stage, proxy: Proxy) -> None:
    assert ask(proxy, b"x" * 4 * MIB)[0].status == 200
    assert ask(proxy, b"x" * (8 * MIB + 1))[0].status == 413
    [recorded] = stage.upstream.requests
    assert recorded.json["messages"][-1]["content"] == "x" * 4 * MIB


def test_the_limits_of_the_snippets_fit_those_of_the_front_end() -> None:
    config = Config()
    nginx, haproxy = snippet("nginx"), snippet("haproxy")

    def number(pattern: str, text: str) -> int:
        [found] = re.findall(pattern, text)
        return int(found)

    # A connection that the front-end closes as nginx writes a request into it is a 502.
    assert number(r"keepalive_timeout (\d+)s;", nginx) < config.keep_alive_s
    assert number(r"client_max_body_size (\d+)m;", nginx) * MIB == config.max_body_bytes
    longest_silence_s = config.queue_timeout_s + config.timeout_s
    assert number(r"proxy_read_timeout (\d+)s;", nginx) > longest_silence_s
    assert number(r"timeout server (\d+)s", haproxy) > longest_silence_s
