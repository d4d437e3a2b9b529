"""`POST /chat` over OpenSSH, with the scripted upstream: what the client sees."""

from __future__ import annotations

import json
import socket
import subprocess
import time

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_until
from tests.helpers.front_end import KEY, FrontEndProcess, runner_options
from tests.helpers.upstream import (
    CleanEnd,
    Cut,
    Delta,
    Done,
    ErrorEvent,
    Finish,
    Garbage,
    Headers,
    Pause,
    Raw,
    Silence,
    Status,
    Step,
    WaitFor,
    answer,
    refused_base_url,
)

SENTENCE = "Explain SSH in one sentence."


def raw_post(stage: Stage, prompt: bytes, path: str = "/chat") -> socket.socket:
    """A connection on which a prompt was sent; what comes back is read byte by byte."""
    connection = socket.create_connection((stage.front_end.host, stage.front_end.port), 10)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(prompt)}\r\n\r\n"
    connection.sendall(head.encode() + prompt)
    return connection


# --- A whole answer -----------------------------------------------------------------------------


def test_the_answer_is_streamed_text(stage: Stage) -> None:
    response, body = stage.front_end.chat(SENTENCE)
    assert (response.status, body) == (200, b"Hello, world")
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req_")
    assert "content-length" not in headers


def test_each_delta_is_a_chunk_that_arrives_before_the_next_is_made(stage: Stage) -> None:
    stage.script.script = [Delta("one"), WaitFor("two"), Delta("two"), WaitFor("end"), *answer()]
    with raw_post(stage, b"hi") as connection:
        read_until(connection, b"\r\n\r\n3\r\none\r\n")
        stage.upstream.open("two")
        read_until(connection, b"3\r\ntwo\r\n")
        stage.upstream.open("end")
        read_until(connection, b"0\r\nX-Finish-Reason: stop\r\n\r\n")


def test_the_body_is_the_prompt_byte_for_byte(stage: Stage) -> None:
    prompt = "a=1&b=%20+ünïcødé\r\n\ttabs \x00 and 日本語 🎉"
    for content_type in ("application/x-www-form-urlencoded", "application/octet-stream", "x/y"):
        stage.front_end.request("POST", "/chat", prompt.encode(), {"Content-Type": content_type})
    for recorded in stage.upstream.requests:
        assert recorded.json["messages"][-1] == {"role": "user", "content": prompt}
    assert len(stage.upstream.requests) == 3


def test_curl_needs_nothing_but_data(stage: Stage) -> None:
    ran = stage.front_end.curl("-d", SENTENCE, f"{stage.front_end.url}/chat")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"Hello, world", b"")
    assert stage.upstream.requests[0].json["messages"][1]["content"] == SENTENCE


def test_the_defaults_reach_upstream(stage: Stage) -> None:
    stage.front_end.chat()
    recorded = stage.upstream.requests[0]
    assert recorded.headers["authorization"] == f"Bearer {KEY}"
    body = recorded.json
    assert body["model"] == "gpt-4o-mini"
    assert body["stream"] is True
    assert body["max_tokens"] == 1024
    assert "temperature" not in body
    assert "top_p" not in body
    assert body["messages"][0] == {
        "role": "system",
        "content": "You are a concise and helpful assistant.",
    }


def test_the_query_overrides_the_defaults(stage: Stage) -> None:
    stage.front_end.chat(
        "hi", "?model=m%2F1&system=Be+brief.&temperature=0.5&max_tokens=7&top_p=0.25"
    )
    body = stage.upstream.requests[0].json
    assert body["model"] == "m/1"
    assert body["messages"][0]["content"] == "Be brief."
    assert (body["temperature"], body["max_tokens"], body["top_p"]) == (0.5, 7, 0.25)


def test_a_prompt_of_megabytes_goes_through(stage: Stage) -> None:
    prompt = "0123456789abcdef" * (4 * 1024 * 64)
    response, body = stage.front_end.chat(prompt)
    assert (response.status, body) == (200, b"Hello, world")
    assert stage.upstream.requests[0].json["messages"][1]["content"] == prompt


def test_an_answer_larger_than_every_window_arrives_whole(stage: Stage) -> None:
    pieces = [f"{i:07d} " for i in range(200_000)]
    stage.script.script = lambda recorded: [
        *(Delta("".join(pieces[at : at + 1000])) for at in range(0, len(pieces), 1000)),
        Finish(),
        Done(),
    ]
    _, body = stage.front_end.chat()
    assert body == "".join(pieces).encode()


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_the_finish_reason_comes_in_the_trailer(stage: Stage, reason: str) -> None:
    stage.script.script = answer("half an ans", finish=reason)
    with raw_post(stage, b"hi") as connection:
        read_until(connection, f"0\r\nX-Finish-Reason: {reason}\r\n\r\n".encode())
    stage.front_end.wait_for_log(f"finish_reason={reason}")


@pytest.mark.parametrize("reason", ["fin\nished", "\x1b[31mstop", "停止", "two words"])
def test_a_finish_reason_that_fits_into_no_header_is_unknown(stage: Stage, reason: str) -> None:
    stage.script.script = answer("whole", finish=reason)
    with raw_post(stage, b"hi") as connection:
        read_until(connection, b"0\r\nX-Finish-Reason: unknown\r\n\r\n")
    # Nobody else's call suffers.
    assert stage.front_end.chat()[0].status == 200
    assert "\x1b" not in stage.front_end.log


def test_a_model_name_cannot_forge_a_field_of_the_log(stage: Stage) -> None:
    stage.front_end.chat("hi", "?model=x%20error=forged%22")
    log = stage.front_end.wait_for_log("forged")
    assert 'model="x error=forged\\""' in log


def test_an_empty_answer_is_a_whole_one(stage: Stage) -> None:
    stage.script.script = answer()
    response, body = stage.front_end.chat()
    assert (response.status, body) == (200, b"")


def test_http_1_0_gets_a_close_delimited_answer(stage: Stage) -> None:
    ran = stage.front_end.curl("--http1.0", "-i", "-d", "hi", f"{stage.front_end.url}/chat")
    head, _, body = ran.stdout.partition(b"\r\n\r\n")
    assert body == b"Hello, world"
    assert b"chunked" not in head


def test_a_retry_before_the_first_delta_is_not_seen_by_the_client(stage: Stage) -> None:
    stage.script.queue.append([Status(500)])
    response, body = stage.front_end.chat()
    assert (response.status, body) == (200, b"Hello, world")
    assert len(stage.upstream.requests) == 2


# --- No answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "status", "code", "said"),
    [
        ([Status(401, message=f"Incorrect API key: {KEY}")], 502, "upstream_auth", "operator"),
        ([Status(403)], 502, "upstream_auth", "operator"),
        ([Status(400, message="context too long")], 400, "upstream_bad_request", "too long"),
        ([Status(404, message="no such model")], 404, "upstream_not_found", "no such model"),
        ([Status(422, message="bad top_p")], 422, "upstream_unprocessable", "bad top_p"),
        ([Status(429, {"retry-after": "17"})], 429, "upstream_rate_limited", "429"),
        ([Status(500, message="it burns")], 502, "upstream_unavailable", "it burns"),
        ([Garbage(b"SSH-2.0-OpenSSH_9.2\r\n")], 502, "upstream_", "upstream"),
        ([Raw(b"data: {nonsense}\n\n")], 502, "upstream_broken", "not JSON"),
        ([ErrorEvent("model is loading")], 502, "upstream_error_event", "model is loading"),
        ([CleanEnd()], 502, "upstream_incomplete", "before the answer was whole"),
        ([Cut()], 502, "upstream_", "upstream"),
    ],
)
def test_a_failure_before_the_first_byte_is_a_status(
    stage: Stage, steps: list[Step], status: int, code: str, said: str
) -> None:
    stage.script.script = steps
    response, body = stage.front_end.chat()
    assert response.status == status
    assert response.headers["X-Error-Code"].startswith(code)
    assert said in body.decode()
    assert body.count(b"\n") == 1
    assert KEY not in body.decode()
    if status == 429:
        assert response.headers["Retry-After"] == "17"


def test_upstream_that_is_not_there_is_502(stage: Stage) -> None:
    with refused_base_url() as base_url:
        options = [*runner_options(stage.server), "--base-url", base_url]
        with FrontEndProcess(options) as front_end:
            response, body = front_end.chat()
    assert response.status == 502
    assert response.headers["X-Error-Code"] == "upstream_unavailable"
    assert "--base-url" in body.decode()


def test_a_silent_upstream_is_504(stage: Stage) -> None:
    stage.script.queue.extend([[Headers(), Silence()], [Delta("x"), Silence()]])
    options = [*runner_options(stage.server), "--base-url", stage.upstream.base_url]
    limits = ["--timeout", "0.5", "--delta-timeout", "0.4"]
    with FrontEndProcess([*options, *limits]) as front_end:
        response, body = front_end.chat()
        assert (response.status, response.headers["X-Error-Code"]) == (504, "upstream_timeout")
        assert b"0.5 s before its first delta" in body
        # After the first byte silence is a cut.
        ran = front_end.curl("-d", "hi", f"{front_end.url}/chat")
        assert (ran.returncode, ran.stdout) == (18, b"x")
    for recorded in stage.upstream.requests:
        stage.upstream.wait_for(recorded.client_closed)


# --- A broken answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Cut(), "upstream_broken"),
        (Cut(reset=True), "upstream_broken"),
        (CleanEnd(), "upstream_incomplete"),
        (ErrorEvent("out of memory"), "upstream_error_event"),
        (Raw(b"data: nonsense\n\n"), "upstream_broken"),
    ],
)
def test_an_answer_that_breaks_midway_never_ends_whole(
    stage: Stage, ending: Step, code: str
) -> None:
    stage.script.script = [Delta("half an "), WaitFor(code + str(ending)), ending]
    with subprocess.Popen(
        ["curl", "-sSN", "--max-time", "20", "-d", "hi", f"{stage.front_end.url}/chat"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as curl:
        assert curl.stdout is not None
        assert curl.stdout.read(8) == b"half an "
        stage.upstream.open(code + str(ending))
        rest, _ = curl.communicate(timeout=20)
    assert (curl.returncode, rest) == (18, b"")
    stage.front_end.wait_for_log(f"error={code}")
    assert len(stage.upstream.requests) == 1, "no retry after the first delta"


def test_a_broken_answer_to_http_1_0_is_reset(stage: Stage) -> None:
    stage.script.script = [Delta("half"), WaitFor("break 1.0"), Cut()]
    connection = socket.create_connection((stage.front_end.host, stage.front_end.port), 10)
    with connection:
        connection.sendall(b"POST /chat HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        read_until(connection, b"half")
        stage.upstream.open("break 1.0")
        with pytest.raises(ConnectionResetError):
            b"".join(iter(lambda: connection.recv(100), b""))


# --- A client that goes away --------------------------------------------------------------------


# Midway it is the next chunks that tell, so they have to come.
DRIPPING: list[Step] = [step for _ in range(200) for step in (Delta("x"), Pause(0.05))]


@pytest.mark.parametrize("steps", [[Silence()], DRIPPING], ids=["before", "midway"])
def test_a_killed_client_cancels_its_call_within_a_second(stage: Stage, steps: list[Step]) -> None:
    stage.script.script = steps
    with subprocess.Popen(
        ["curl", "-sSN", "-d", "hi", f"{stage.front_end.url}/chat"], stdout=subprocess.PIPE
    ) as curl:
        recorded = stage.upstream.wait_for_requests(1)[0]
        if steps is DRIPPING:
            assert curl.stdout is not None
            assert curl.stdout.read(1) == b"x"
        curl.kill()
    killed_at = time.monotonic()
    stage.upstream.wait_for(recorded.client_closed)
    assert time.monotonic() - killed_at < 1.0
    stage.front_end.wait_for_log("client_gone")


def test_a_half_closed_client_still_gets_its_whole_answer(stage: Stage) -> None:
    stage.script.script = [WaitFor("half-close"), *answer("patience ", "pays")]
    with raw_post(stage, b"hi") as connection:
        connection.shutdown(socket.SHUT_WR)
        # The end of our bytes is noticed, and asked about.
        read_until(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
        stage.upstream.open("half-close")
        data = read_until(connection, b"0\r\nX-Finish-Reason: stop\r\n\r\n")
    assert b"patience " in data
    assert b"pays" in data


# --- A request that is not one ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/chat", b"", 400, "empty"),
        ("POST", "/chat", b"\xff\xfe", 400, "not UTF-8: byte 0xff at 0"),
        ("POST", "/chat?modle=x", b"hi", 400, "did you mean model?"),
        ("POST", "/chat?model=a&model=b", b"hi", 400, "twice"),
        ("POST", "/chat?model=", b"hi", 400, "model name"),
        ("POST", "/chat?temperature=hot", b"hi", 400, "no number"),
        ("POST", "/chat?temperature=nan", b"hi", 400, "temperature"),
        ("POST", "/chat?top_p=1.5", b"hi", 400, "from 0 to 1"),
        ("POST", "/chat?max_tokens=0", b"hi", 400, "from 1"),
        ("POST", "/chat?system=%ff", b"hi", 400, "query"),
        ("GET", "/chat", None, 405, "takes POST"),
        ("post", "/chat", b"hi", 501, "in capitals"),
        ("BREW", "/chat", b"hi", 501, "not known here"),
        ("POST", "/nowhere", b"hi", 404, "/chat"),
        ("POST", "/healthz", b"hi", 405, "takes GET"),
    ],
)
def test_a_wrong_request_hears_what_is_wrong(
    stage: Stage, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    response, text = stage.front_end.request(method, path, body)
    assert response.status == status
    assert said in text.decode()
    assert not stage.upstream.requests
    if status == 405:
        assert response.headers["Allow"]


def test_a_compressed_prompt_is_refused(stage: Stage) -> None:
    response, _ = stage.front_end.request(
        "POST", "/chat", b"\x1f\x8b", {"Content-Encoding": "gzip"}
    )
    assert response.status == 415


def test_healthz_says_what_state_the_runner_is_in(stage: Stage) -> None:
    response, body = stage.front_end.request("GET", "/healthz")
    assert response.status == 200
    said = json.loads(body)
    assert said["status"] == "ok"
    assert said["runners"] == {
        stage.front_end.runner: {"state": "ready", "in_flight": 0, "max_calls": 1024}
    }
    response, body = stage.front_end.request("HEAD", "/healthz")
    assert (response.status, body) == (200, b"")


def test_neither_prompts_nor_answers_nor_queries_are_logged(stage: Stage) -> None:
    stage.script.script = answer("a-secret-answer")
    stage.front_end.chat("a-secret-prompt", "?system=a-secret-system")
    stage.front_end.wait_for_log("POST /chat 200 15 B")
    assert "a-secret" not in stage.front_end.log
