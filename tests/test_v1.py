"""`/v1/…` over OpenSSH, with the scripted upstream: bytes of both sides, and each way to fail.

What real clients make of it is in test_clients.py, and long uploads are in test_uploads.py.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_until
from tests.helpers.asking import wait_until_ready
from tests.helpers.fleet import Fleet
from tests.helpers.front_end import KEY, FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import (
    CleanEnd,
    Cut,
    Done,
    Garbage,
    Headers,
    Pause,
    Raw,
    Script,
    ScriptedUpstream,
    Silence,
    Status,
    Step,
    Usage,
    WaitFor,
    answer,
)

CHAT = "/v1/chat/completions"
STREAMED: dict[str, Any] = {"model": "m", "stream": True, "messages": []}
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
PRIVATE = {
    "set-cookie": "up=1",
    "openai-organization": "org-up",
    "server": "up",
    "x-upstream-secret": "up",
}

# What an upstream has sent, byte for byte: comments, names, line ends of all kinds, text that looks
# like an end, a count, and what comes behind [DONE].
RECORDED = (
    b": OPENROUTER PROCESSING\n\n"
    b'data: {"id":"c-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":'
    b'"assistant","content":""},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{"content":"H\xc3\xa9 \xf0\x9f\x8e\x89"}}],  "usage": null }\n\n'
    b"event: message\r\nid: 7\r\n"
    b'data: {"choices":[{"delta":{"content":"data: [DONE]\\n\\n"}}]}\r\n\r\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":47,"x":78}}\n\n'
    b"data: [DONE]\n\n: behind the end\n"
)


def post(
    front_end: FrontEndProcess,
    fields: object = STREAMED,
    path: str = CHAT,
    headers: Mapping[str, str] = JSON,
) -> tuple[http.client.HTTPResponse, bytes]:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return front_end.request("POST", path, body, headers)


def error_of(response: http.client.HTTPResponse, body: bytes) -> dict[str, Any]:
    """OpenAI's error object, whole and nothing else."""
    assert response.headers["content-type"] == "application/json"
    (error,) = json.loads(body).values()
    assert set(error) == {"message", "type", "param", "code"}
    assert KEY not in body.decode()
    return dict(error)


def raw_post(
    front_end: FrontEndProcess, fields: object = STREAMED, *, window_bytes: int | None = None
) -> socket.socket:
    """A connection on which a request was sent; what comes back is read byte by byte."""
    connection = socket.socket()
    connection.settimeout(30)
    if window_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
    connection.connect((front_end.host, front_end.port))
    body = json.dumps(fields).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


# --- Upstream's bytes ---------------------------------------------------------------------------


def splits_of(stream: bytes) -> dict[str, list[bytes]]:
    found = {"whole": [stream], "bytes": [stream[at : at + 1] for at in range(len(stream))]}
    for seed in range(3):
        places = sorted(random.Random(seed).sample(range(1, len(stream)), 10))
        ends = [*places, len(stream)]
        found[f"split {seed}"] = [stream[a:b] for a, b in zip([0, *places], ends, strict=True)]
    return found


@pytest.mark.parametrize("name", splits_of(RECORDED))
def test_a_recorded_stream_comes_out_identical_in_every_split(stage: Stage, name: str) -> None:
    portions = splits_of(RECORDED)[name]
    stage.script.script = [Headers(), *map(Raw, portions)]
    response, body = post(stage.front_end)
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(RECORDED).hexdigest()


def test_a_stream_without_chunks_comes_out_identical(stage: Stage) -> None:
    stage.script.script = [Headers(chunked=False), Raw(RECORDED), Cut()]
    assert post(stage.front_end)[1] == RECORDED


def test_each_event_is_there_before_the_next_is_made(stage: Stage) -> None:
    stage.script.script = [
        Raw(b"data: 1\n\nda"), WaitFor("v1 two"), Raw(b"ta: 2\n\n"), WaitFor("v1 end"), Done(),
    ]  # fmt: skip
    with raw_post(stage.front_end) as connection:
        assert read_until(connection, b"data: 1\n\n").endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
        stage.upstream.open("v1 two")
        read_until(connection, b"9\r\ndata: 2\n\n\r\n")
        stage.upstream.open("v1 end")
        read_until(connection, b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_json_comes_down_byte_for_byte_and_is_counted(stage: Stage) -> None:
    body = b'{ "choices":[], "usage" : {"prompt_tokens":41,\n"completion_tokens":43} }\n\n '
    stage.script.script = [Status(201, body=body)]
    response, got = post(stage.front_end, b'{ "model":"m-json",\r\n "n":1.0 }')
    assert (response.status, got) == (201, body)
    assert response.headers["content-type"] == "application/json"
    # And goes up so.
    assert stage.upstream.requests[0].body == b'{ "model":"m-json",\r\n "n":1.0 }'
    log = stage.front_end.wait_for_log("input_tokens=41")
    line = next(line for line in log.splitlines() if "input_tokens=41" in line)
    assert "output_tokens=43" in line
    assert "model=m-json" in line
    assert CHAT in line


def test_sound_and_whatever_else_comes_down_as_it_is(stage: Stage) -> None:
    sound = random.Random(1).randbytes(300_000)
    kind = {"content-type": "audio/mpeg", "content-disposition": "x; filename=ü€.mp3"}
    stage.script.paths["/v1/audio/speech"] = [
        Headers(200, {n: v.encode().decode("latin-1") for n, v in kind.items()}), Raw(sound),
    ]  # fmt: skip
    response, body = post(stage.front_end, {"model": "tts", "input": "hi"}, "/v1/audio/speech")
    assert response.headers["content-type"] == "audio/mpeg"
    assert (
        response.headers["content-disposition"].encode("latin-1").decode() == "x; filename=ü€.mp3"
    )
    assert body == sound


def test_http_1_0_gets_the_same_bytes(stage: Stage) -> None:
    stage.script.script = [Headers(), Raw(RECORDED)]
    url = f"{stage.front_end.url}{CHAT}"
    ran = stage.front_end.curl("--http1.0", "-d", json.dumps(STREAMED), url)
    assert (ran.returncode, ran.stdout) == (0, RECORDED)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_without_a_body_is_relayed_with_its_query(stage: Stage, method: str) -> None:
    stage.script.paths["/v1/responses/r-1"] = [Status(200, body=b'{"id":"r-1"}')]
    response, body = stage.front_end.request(method, "/v1/responses/r-1?include=a%26b&x")
    assert (response.status, body) == (200, b'{"id":"r-1"}')
    (recorded,) = stage.upstream.requests
    assert (recorded.method, recorded.body) == (method, b"")
    assert recorded.path == "/v1/responses/r-1?include=a%26b&x"
    assert "transfer-encoding" not in recorded.headers


def test_an_answer_without_a_body_is_one(stage: Stage) -> None:
    stage.script.paths["/v1/responses/r-1"] = [Status(204, body=b"")]
    response, body = stage.front_end.request("DELETE", "/v1/responses/r-1")
    assert (response.status, body) == (204, b"")
    assert "transfer-encoding" not in response.headers


# --- Headers ------------------------------------------------------------------------------------


def test_what_is_the_clients_or_ours_never_goes_up(stage: Stage) -> None:
    given = {
        **JSON,
        "Authorization": "Bearer client-token",
        "X-Api-Key": "client-token",
        "Cookie": "client=1",
        "OpenAI-Organization": "client-org",
        "X-Forwarded-For": "1.2.3.4",
        "User-Agent": "client-agent",
        "X-Stainless-Lang": "client-lang",
    }
    up = {"Idempotency-Key": "k 1", "X-Client-Request-Id": "mine", "OpenAI-Beta": "assistants=v2"}
    post(stage.front_end, headers=given | up)
    (recorded,) = stage.upstream.requests
    assert recorded.headers["authorization"] == f"Bearer {KEY}"
    assert "client" not in str(recorded.headers).replace("x-client-request-id", "")
    assert {name: recorded.headers[name.lower()] for name in up} == up
    assert "1.2.3.4" not in str(recorded.headers)


@pytest.mark.parametrize(
    "script", [[Status(200, PRIVATE)], [Headers(200, PRIVATE), *answer()], [Status(400, PRIVATE)]]
)
def test_what_is_upstreams_never_comes_down(stage: Stage, script: Script) -> None:
    stage.script.script = script
    response, _ = post(stage.front_end)
    for name in PRIVATE:
        assert name not in response.headers
    assert KEY not in str(response.headers)


def test_both_request_ids_are_told_and_ours_is_the_one_in_the_log(stage: Stage) -> None:
    stage.script.script = [Status(200, {"x-request-id": "req-up-1", "openai-processing-ms": "9"})]
    response, _ = post(stage.front_end)
    ours = response.headers["x-request-id"]
    assert ours.startswith("req_")
    assert response.headers["x-upstream-request-id"] == "req-up-1"
    assert response.headers["openai-processing-ms"] == "9"
    assert stage.upstream.requests[0].headers["x-client-request-id"] == ours
    log = stage.front_end.wait_for_log(ours)
    assert "req-up-1" in next(line for line in log.splitlines() if ours in line)


def test_a_header_that_cannot_go_up_is_400_and_no_runners_fault(stage: Stage) -> None:
    response, body = post(stage.front_end, headers=JSON | {"X-Title": "caf\xe9"})
    assert response.status == 400
    assert "x-title" in error_of(response, body)["message"]
    assert not stage.upstream.requests


# --- Errors before the first byte ---------------------------------------------------------------

HTML = {"content-type": "text/html", "x-should-retry": "false"}
OWN_ERROR = b'{ "error": {"message":"no  way", "type":"x","param":"p","code":"c"}, "more":1 }\n'


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_an_error_that_the_client_can_mend_passes_byte_for_byte(stage: Stage, status: int) -> None:
    stage.script.script = [Status(status, {"x-should-retry": "false"}, OWN_ERROR)]
    response, body = post(stage.front_end)
    assert (response.status, body) == (status, OWN_ERROR)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"].startswith("req_")
    assert len(stage.upstream.requests) == 1


def test_429_passes_with_when_to_come_back_and_what_is_left(stage: Stage) -> None:
    given = {"retry-after": "17", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset": "1s"}
    stage.script.script = [Status(429, given, OWN_ERROR)]
    response, body = post(stage.front_end)
    assert (response.status, body) == (429, OWN_ERROR)
    assert {name: response.headers.get_all(name) for name in given} == {
        name: [value] for name, value in given.items()
    }


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_the_operators_and_nothing_of_it_is_shown(
    stage: Stage, status: int
) -> None:
    said = {"error": {"message": f"Incorrect key {KEY[:12]}***", "code": "invalid_api_key"}}
    stage.script.script = [Status(status, {"x-ratelimit-limit-tokens": "1"}, said)]
    response, body = post(stage.front_end)
    assert response.status == 502
    error = error_of(response, body)
    assert (error["type"], error["code"]) == ("server_error", "upstream_auth")
    assert "operator" in error["message"]
    assert "Incorrect" not in body.decode()
    assert KEY[:12] not in body.decode()
    assert "x-ratelimit-limit-tokens" not in response.headers


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        (
            [Status(500, {"content-type": "text/html"}, "<h1>down</h1>")],
            502,
            "upstream_unavailable",
        ),
        ([Status(503, HTML, "")], 502, "upstream_unavailable"),
        ([Status(400, HTML, "<h1>no</h1>")], 400, "upstream_bad_request"),
        ([Status(404, {"content-type": "text/plain"}, "no")], 404, "upstream_not_found"),
        ([Status(422, body='{"detail": "bad"}')], 422, "upstream_unprocessable"),
        ([Status(422, body='[{"error": 1}]')], 422, "upstream_unprocessable"),
        ([Garbage()], 502, "upstream_"),
    ],
)
def test_what_is_no_answer_of_the_api_is_openais_error_object(
    stage: Stage, steps: list[Step], status: int, code: str
) -> None:
    stage.script.script = steps
    response, body = post(stage.front_end, {"model": "m"})
    assert response.status == status
    error = error_of(response, body)
    assert str(error["code"]).startswith(code)
    assert response.headers["x-error-code"] == error["code"]


def test_the_key_that_upstream_repeats_does_not_come_down(stage: Stage) -> None:
    for script in ([Status(400, message=f"bad {KEY}")], [Status(200, {"x-request-id": KEY})]):
        stage.script.script = script
        response, body = post(stage.front_end, {"model": "m"})
        assert KEY not in str(response.headers)
        assert KEY not in body.decode()


def test_before_the_first_byte_upstream_is_asked_again(stage: Stage) -> None:
    stage.script.queue.append([Status(500)])
    stage.script.script = [Headers(), Raw(RECORDED)]
    given = JSON | {"Idempotency-Key": "k-2"}
    assert post(stage.front_end, headers=given)[1] == RECORDED
    assert [each.headers["idempotency-key"] for each in stage.upstream.requests] == ["k-2"] * 2


# --- Errors midway ------------------------------------------------------------------------------


def curl_stream(stage: Stage) -> subprocess.CompletedProcess[bytes]:
    given = ["-d", json.dumps(STREAMED), f"{stage.front_end.url}{CHAT}"]
    return stage.front_end.curl(*given)


@pytest.mark.parametrize("ending", [Cut(), Cut(reset=True)], ids=["cut", "reset"])
def test_a_stream_that_breaks_tells_of_it_and_never_ends_whole(stage: Stage, ending: Cut) -> None:
    begun = b'data: {"choices":[]}\n\n'
    name = f"v1 {ending}"
    stage.script.script = [Raw(begun), WaitFor(name), Raw(b'data: {"half'), ending]
    with raw_post(stage.front_end) as connection:
        got = read_until(connection, begun)
        stage.upstream.open(name)
        got += b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"half" not in got
    assert b"[DONE]" not in got
    assert not got.endswith(b"0\r\n\r\n")
    told = got.partition(b"event: error\ndata: ")[2].partition(b"\n\n")[0]
    error = json.loads(told)["error"]
    assert (error["type"], error["code"]) == ("server_error", "upstream_broken")
    stage.front_end.wait_for_log("error=upstream_broken")
    assert len(stage.upstream.requests) == 1, "no retry after the first byte"


def test_curl_says_that_a_broken_stream_is_one(stage: Stage) -> None:
    stage.script.script = [Raw(b"data: 1\n\n"), Pause(0.05), Cut()]
    ran = curl_stream(stage)
    assert ran.returncode == 18
    assert ran.stdout.startswith(b"data: 1\n\nevent: error\ndata: {")


def test_an_object_that_breaks_is_cut_without_a_word(stage: Stage) -> None:
    stage.script.script = [Headers(200, JSON), Raw(b'{"choices": ['), Pause(0.05), Cut()]
    ran = curl_stream(stage)
    assert (ran.returncode, ran.stdout) == (18, b'{"choices": [')


def test_an_error_event_of_upstreams_own_is_upstreams(stage: Stage) -> None:
    said = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    stage.script.script = [Raw(b"data: 1\n\n"), Raw(said), CleanEnd()]
    ran = curl_stream(stage)
    assert (ran.returncode, ran.stdout) == (0, b"data: 1\n\n" + said)


# --- Clients that leave, or do not read ---------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["before", "midway"])
def test_a_client_that_leaves_closes_upstreams_connection(stage: Stage, begun: bool) -> None:
    dripping = [step for _ in range(200) for step in (Raw(b"data: x\n\n"), Pause(0.05))]
    stage.script.script = dripping if begun else [Silence()]
    with raw_post(stage.front_end) as connection:
        recorded = stage.upstream.wait_for_requests(1)[0]
        if begun:
            read_until(connection, b"data: x\n\n")
    stage.upstream.wait_for(recorded.client_closed)


def test_a_client_that_does_not_read_holds_up_only_itself(stage: Stage) -> None:
    piece = random.Random(2).randbytes(64 * 1024)
    count = 384  # more than fits into all buffers on the way
    stage.script.queue.append([Headers(200, {"content-type": "x/y"}), *[Raw(piece)] * count])
    with raw_post(stage.front_end, {"model": "m"}, window_bytes=16 * 1024) as slow:
        recorded = stage.upstream.wait_for_requests(1)[0]
        sent = [-1]
        # It stands still when asking others has taken a while.
        while sent[-1] != recorded.sent_bytes:
            sent.append(recorded.sent_bytes)
            for _ in range(5):
                assert post(stage.front_end)[0].status == 200
        assert recorded.sent_bytes < count * len(piece)
        got = hashlib.sha256()
        response = http.client.HTTPResponse(slow, method="POST")
        response.begin()
        while part := response.read(1 << 16):
            got.update(part)
    assert got.hexdigest() == hashlib.sha256(piece * count).hexdigest()
    assert recorded.completed


# --- Requests that are none ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", CHAT, b"{no", 400, "not JSON"),
        ("POST", CHAT, b"\xff", 400, "not JSON"),
        ("POST", CHAT, b"[]", 400, "no object"),
        ("POST", CHAT, b'{"model": 7}', 400, "model has to be"),
        ("POST", CHAT, b'{"model": "\\ud83d"}', 400, "model has to be"),
        ("PUT", CHAT, b"{}", 405, "GET, POST, DELETE"),
        ("PATCH", CHAT, b"{}", 405, "GET, POST, DELETE"),
        ("DELETE", "/v1/models/m", None, 405, "GET"),
        ("GET", "/v1/", None, 404, "--allow-path"),
        ("GET", "/v1/files", None, 404, "--allow-path"),
        ("GET", "/v1/../healthz", None, 404, "--allow-path"),
        ("GET", "/v1/models/../../healthz", None, 404, "serves the model"),
        ("POST", "/v1//chat/completions", b"{}", 404, "--allow-path"),
        ("POST", "/v1/chat//completions", b"{}", 404, "--allow-path"),
        ("POST", "/v1/chat/completions/", b"{}", 404, "--allow-path"),
        ("POST", "/v1/images/%2e%2e", b"{}", 404, "--allow-path"),
        ("POST", "/v1/images/..", b"{}", 404, "--allow-path"),
        ("POST", "/v1/images/%2e%2e%2fadmin", b"{}", 404, "--allow-path"),
    ],
)
def test_a_bad_request_is_refused_in_openais_words_before_a_runner_has_it(
    stage: Stage, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    response, got = stage.front_end.request(method, path, body, JSON)
    assert response.status == status, got
    error = error_of(response, got)
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not [each for each in stage.upstream.requests if not each.path.endswith("/models")]
    if status == 405:
        assert response.headers["Allow"]


def test_head_is_405_without_a_body(stage: Stage) -> None:
    response, body = stage.front_end.request("HEAD", "/v1/models")
    assert (response.status, body) == (405, b"")


def test_a_compressed_body_is_415(stage: Stage) -> None:
    response, body = post(stage.front_end, headers=JSON | {"Content-Encoding": "gzip"})
    assert response.status == 415
    assert "Content-Encoding" in error_of(response, body)["message"]


def test_a_group_is_named_in_a_header_as_the_query_is_upstreams(stage: Stage) -> None:
    stage.script.script = [Status(200, body=b"{}")]
    name = "X-LLMRelay-Group"
    response, body = post(stage.front_end, path=f"{CHAT}?group=none")
    assert (response.status, body) == (200, b"{}")
    assert stage.upstream.requests[0].path == f"{CHAT}?group=none"
    for group in ("a\tb", "none"):
        response, body = post(stage.front_end, headers=JSON | {name: group})
        assert response.status == 400
        assert "group" in error_of(response, body)["message"].lower()
    assert len(stage.upstream.requests) == 1


def test_a_connection_is_kept_whatever_upstream_answers(stage: Stage) -> None:
    stage.script.queue.extend([[Status(404, body=OWN_ERROR)], [Status(403)], [Raw(RECORDED)]])
    connection = stage.front_end.connect()
    connection.connect()
    own_end = connection.sock
    said = []
    for _ in range(3):
        connection.request("POST", CHAT, json.dumps(STREAMED), JSON)
        response = connection.getresponse()
        said.append((response.status, response.read()))
    assert said[0] == (404, OWN_ERROR)
    assert said[1][0] == 502
    assert said[2] == (200, RECORDED)
    assert connection.sock is own_end
    connection.close()


def test_curl_needs_no_content_type(stage: Stage) -> None:
    stage.script.script = [Status(200, body=b"{}")]
    ran = stage.front_end.curl("-d", '{"model":"m"}', f"{stage.front_end.url}{CHAT}")
    assert (ran.returncode, ran.stdout) == (0, b"{}")
    assert stage.upstream.requests[0].headers["content-type"] == "application/json"


# --- Options ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_odd(sshd: OpenSSHServer) -> Iterator[Stage]:
    """A front-end with most options of /v1 set."""
    script = ScriptedUpstream()
    with script.in_thread() as upstream:
        options = [
            *runner_options(sshd), "--base-url", upstream.base_url, "--heartbeat", "200ms",
            "--usage", "on", "--max-body", "2KiB", "--models-ttl", "0",
            "--allow-path", "chat/completions", "--allow-path", "files/*",
            "--allow-path", "models", "--allow-path", "models/*",
        ]  # fmt: skip
        with FrontEndProcess(options) as front_end:
            yield Stage(front_end, sshd, script, upstream)


@pytest.fixture
def odd(shared_odd: Stage) -> Stage:
    shared_odd.script.queue.clear()
    shared_odd.script.paths.clear()
    shared_odd.script.requests.clear()
    return shared_odd


HEARTBEAT = b": waiting for upstream\n\n"


def test_a_silent_upstream_is_waited_for_with_comments_and_then_answers(odd: Stage) -> None:
    # And is silent once more, behind its first byte.
    odd.script.script = [
        WaitFor("beat"), Headers(), Raw(b"data: 1\n\n"), Pause(0.5), Raw(RECORDED),
    ]  # fmt: skip
    with raw_post(odd.front_end) as connection:
        head = read_until(connection, HEARTBEAT)
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8")
        assert b"\r\nX-Accel-Buffering: no\r\n" in head
        read_until(connection, HEARTBEAT)
        odd.upstream.open("beat")
        rest = read_until(connection, b"0\r\n\r\n")
    # Nothing but the stream follows: no second head, and no more comments.
    assert b"HTTP/1.1" not in rest
    assert b"data: [DONE]\n\n" in rest
    assert HEARTBEAT not in rest.partition(b"data: 1\n\n")[2]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Status(429, {"x-should-retry": "false"}, OWN_ERROR), "c"),
        (Status(403), "upstream_auth"),
        (Status(200, body=b'{"an": "object"}'), "upstream_broken"),
    ],
    ids=["429", "403", "object"],
)
def test_behind_a_heartbeat_an_error_comes_in_the_stream(odd: Stage, step: Step, code: str) -> None:
    name = f"in band {code}"
    odd.script.script = [WaitFor(name), step]
    with raw_post(odd.front_end) as connection:
        got = read_until(connection, HEARTBEAT)
        odd.upstream.open(name)
        got += b"".join(iter(lambda: connection.recv(65536), b""))
    assert got.count(b"HTTP/1.1") == 1
    told = got.partition(b"event: error\ndata: ")[2].partition(b"\n\n")[0]
    assert json.loads(told)["error"]["code"] == code
    assert b"[DONE]" not in got
    assert not got.endswith(b"0\r\n\r\n")


def test_an_answer_that_is_no_stream_has_no_heartbeat_and_a_status_of_its_own(odd: Stage) -> None:
    odd.script.script = [Pause(0.5), Status(404, body=OWN_ERROR)]
    response, body = post(odd.front_end, {"model": "m"})
    assert (response.status, body) == (404, OWN_ERROR)


def test_an_object_that_is_slow_to_come_gets_no_comments_though_a_stream_was_asked_for(
    odd: Stage,
) -> None:
    odd.script.script = [Headers(200, JSON), Pause(0.5), Raw(b'{"an": "object"}')]
    response, body = post(odd.front_end)
    assert response.headers["content-type"] == "application/json"
    assert body == b'{"an": "object"}'


def test_usage_is_counted_unseen_by_who_did_not_ask(odd: Stage) -> None:
    counted = [*list(answer("a", "b"))[:-1], Usage(53, 59), Done()]
    odd.script.script = counted
    _, body = post(odd.front_end, STREAMED | {"model": "scripted"})
    assert odd.upstream.requests[0].json["stream_options"] == {"include_usage": True}
    assert b"usage" not in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"data: ") == len(counted) - 1
    log = odd.front_end.wait_for_log("input_tokens=53")
    assert "output_tokens=59" in log
    # Who asks has it.
    asking = STREAMED | {"stream_options": {"include_usage": True}}
    assert b'"completion_tokens": 59' in post(odd.front_end, asking)[1]
    assert odd.upstream.requests[1].body == json.dumps(asking).encode()


def test_a_body_over_its_limit_is_413(odd: Stage) -> None:
    response, body = post(odd.front_end, {"model": "m", "input": "x" * 4096})
    assert response.status == 413
    assert error_of(response, body)["code"] == "content_too_large"
    assert not odd.upstream.requests


def test_allow_path_says_what_there_is(odd: Stage) -> None:
    odd.script.paths["/v1/files/f-1"] = [Status(200, body=b'{"id":"f-1"}')]
    assert odd.front_end.request("GET", "/v1/files/f-1")[1] == b'{"id":"f-1"}'
    for path in ("/v1/embeddings", "/v1/files", "/v1/files/f-1/content"):
        assert odd.front_end.request("GET", path)[0].status == 404
    assert len(odd.upstream.requests) == 1


def test_models_are_listed_and_looked_up(odd: Stage) -> None:
    odd.script.models = ("gpt-4o-mini", "meta/llama-3")
    response, body = odd.front_end.request("GET", "/v1/models")
    assert response.headers["content-type"] == "application/json"
    listed = {model["id"]: model for model in json.loads(body)["data"]}
    assert sorted(listed) == ["gpt-4o-mini", "meta/llama-3"]
    assert listed["gpt-4o-mini"]["runners"] == [odd.front_end.runner]
    for path in ("meta/llama-3", "meta%2Fllama-3"):
        _, body = odd.front_end.request("GET", f"/v1/models/{path}")
        assert json.loads(body) == listed["meta/llama-3"]
    response, body = odd.front_end.request("GET", "/v1/models/none")
    assert response.status == 404
    assert error_of(response, body)["code"] == "model_not_found"
    assert len(odd.upstream.requests) == 4, "as often as --models-ttl says"


# --- Several runners ----------------------------------------------------------------------------


def test_runners_share_their_models_and_stand_in_for_each_other(two_hosts: Fleet) -> None:
    a, b = two_hosts.hosts
    a.script.models, b.script.models = ("shared", "only-a"), ("shared", "long-name-of-b")
    two_hosts.write(
        a.line(llmrelay_weight="1000", llmrelay_models="shared,only-a"),
        b.line(llmrelay_model_map="small=long-name-of-b", llmrelay_models="shared"),
    )
    with FrontEndProcess(two_hosts.options()) as front_end:
        wait_until_ready(front_end, "a", "b")
        listed = json.loads(front_end.request("GET", "/v1/models")[1])["data"]
        assert {model["id"]: model["runners"] for model in listed} == {
            "shared": ["a", "b"],
            "only-a": ["a"],
            "small": ["b"],
        }
        assert post(front_end, {"model": "small", "x": 1})[0].status == 200
        assert b.script.requests[-1].json == {"model": "long-name-of-b", "x": 1}
        response, body = post(front_end, {"model": "none"})
        assert response.status == 404
        assert error_of(response, body)["code"] == "model_not_found"
        # An error that another may not have, before the first byte; the runner itself asks once.
        a.script.queue.append([Status(503)])
        b.script.queue.append([Headers(), Raw(RECORDED)])
        assert post(front_end, STREAMED | {"model": "shared"})[1] == RECORDED
        front_end.wait_for_log("failed=a:upstream_unavailable")
        assert [len(host.script.requests) for host in (a, b)] == [2, 3]
        # After it, never.
        a.script.queue.append([Raw(b"data: 1\n\n"), Pause(0.05), Cut()])
        given = ["-d", json.dumps(STREAMED | {"model": "shared"}), f"{front_end.url}{CHAT}"]
        assert front_end.curl(*given).returncode == 18
        assert [len(host.script.requests) for host in (a, b)] == [3, 3]
