"""The doubles themselves, met by real clients: the openai SDK over both of its HTTP stacks, raw
sockets, and OpenSSH's own client.

A double that does not do what its script says makes every test above it worthless, so each fault in
the vocabulary is shown here to arrive as that fault. Nothing of llmrelay is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.helpers.fleet import Fleet, blackhole
from tests.helpers.openssh import (
    LOGIN_SHELLS,
    NOISE,
    NOISY_FORCE_COMMAND,
    OpenSSHServer,
    available,
    children_of,
    descendants_of,
    generate_key,
    known_hosts_line,
    processes_matching,
    require_login_shell,
    require_sshd,
)
from tests.helpers.upstream import (
    HOST,
    CleanEnd,
    Cut,
    Delta,
    Done,
    ErrorEvent,
    Finish,
    Garbage,
    Headers,
    NoAnswer,
    Pause,
    Raw,
    Recorded,
    Script,
    ScriptedUpstream,
    Silence,
    Status,
    Step,
    Usage,
    WaitFor,
    Wire,
    answer,
    encode,
    refused_base_url,
    sse,
    together,
)

STACKS = ("httpx", "aiohttp")
LIMIT_S = 5.0


@contextlib.asynccontextmanager
async def sdk(
    stack: str, base_url: str, *, retries: int = 0, timeout_s: float = LIMIT_S
) -> AsyncIterator[openai.AsyncOpenAI]:
    http_client = openai.DefaultAioHttpClient() if stack == "aiohttp" else None
    async with openai.AsyncOpenAI(
        base_url=base_url,
        api_key="sk-test",
        max_retries=retries,
        timeout=timeout_s,
        http_client=http_client,
    ) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, prompt: str = "hi") -> tuple[str, str | None]:
    """The answer's text and finish_reason."""
    text, reason = "", None
    stream = await client.chat.completions.create(
        model="m-1", messages=[{"role": "user", "content": prompt}], stream=True
    )
    async with stream:
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    return text, reason


def run(stack: str, script: Script, *, timeout_s: float = LIMIT_S) -> tuple[str, str | None]:
    """One prompt with the SDK to an upstream with this script."""

    async def main() -> tuple[str, str | None]:
        async with (
            ScriptedUpstream(script) as upstream,
            sdk(stack, upstream.base_url, timeout_s=timeout_s) as client,
        ):
            return await ask(client)

    return asyncio.run(main())


def raw_answer(script: Script) -> bytes:
    """All bytes of one answer, up to the connection's end."""

    async def main() -> bytes:
        async with ScriptedUpstream(script) as upstream:
            reader, writer = await asyncio.open_connection(HOST, upstream.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n")
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

    return asyncio.run(main())


# --- The scripted upstream: answers -------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_a_whole_answer_reaches_the_sdk_and_is_recorded(stack: str) -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(answer("Grüß ", "dich", "\n")) as upstream,
            sdk(stack, upstream.base_url) as client,
        ):
            assert await ask(client, "hello") == ("Grüß dich\n", "stop")
            [recorded] = upstream.requests
            assert (recorded.method, recorded.path) == ("POST", "/v1/chat/completions")
            assert recorded.headers["authorization"] == "Bearer sk-test"
            assert recorded.json["messages"] == [{"role": "user", "content": "hello"}]
            await asyncio.wait_for(recorded.finished.wait(), LIMIT_S)
            assert recorded.completed
            assert not recorded.client_closed.is_set()
            assert recorded.closed_at is not None
            assert recorded.opened_at <= recorded.closed_at
            assert len(recorded.delta_sent_at) == 3

    asyncio.run(main())


def test_the_role_is_said_once_and_the_model_is_the_one_asked_for() -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(answer("a", "b")) as upstream,
            sdk("httpx", upstream.base_url) as c,
        ):
            stream = await c.chat.completions.create(model="m-1", messages=[], stream=True)
            chunks = [chunk async for chunk in stream]
            assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None]
            assert {chunk.model for chunk in chunks} == {"m-1"}

    asyncio.run(main())


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_the_finish_reason_arrives(reason: str) -> None:
    assert run("httpx", answer("a", finish=reason)) == ("a", reason)


def test_the_usage_event_has_empty_choices() -> None:
    assert run("httpx", [Delta("a"), Finish(), Usage(1, 2), Done()]) == ("a", "stop")
    assert b'"choices": []' in encode(Usage())


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_an_error_status_arrives_with_its_headers_and_body(
    stack: str, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        run(stack, [Status(status, {"Retry-After": "7"}, message="no luck", code="some_code")])
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.code == "some_code"
    assert "no luck" in str(caught.value)


def test_an_error_may_have_any_body_and_type() -> None:
    html = {"Content-Type": "text/html"}
    data = raw_answer([Status(502, html, body="<h1>Bad Gateway</h1>")])
    assert data.startswith(b"HTTP/1.1 502 ")
    assert b"content-type: text/html\r\ncontent-length: 20\r\n" in data
    assert data.endswith(b"\r\n\r\n<h1>Bad Gateway</h1>")


def test_the_queue_answers_first_and_the_script_afterwards_on_one_connection() -> None:
    async def main() -> None:
        soon = {"retry-after-ms": "1"}
        async with (
            ScriptedUpstream(answer("ok"), queue=[[Status(500, soon)]]) as upstream,
            sdk("httpx", upstream.base_url, retries=2) as client,
        ):
            assert await ask(client) == ("ok", "stop")
            assert await ask(client) == ("ok", "stop")
            assert [recorded.number for recorded in upstream.requests] == [1, 2, 3]
            # The SDK drops the connection of an answer that it retries.
            assert upstream.requests[1].connection == upstream.requests[2].connection

    asyncio.run(main())


def test_a_function_may_choose_the_script_by_the_request() -> None:
    def echo(recorded: Recorded) -> Script:
        return answer(recorded.json["messages"][0]["content"])

    async def main() -> None:
        async with ScriptedUpstream(echo) as upstream, sdk("httpx", upstream.base_url) as client:
            assert await ask(client, "one") == ("one", "stop")
            assert await ask(client, "two") == ("two", "stop")

    asyncio.run(main())


def test_models_are_listed_and_other_paths_are_not_found() -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(models=["a", "b"]) as upstream,
            sdk("httpx", upstream.base_url) as client,
        ):
            assert [model.id async for model in client.models.list()] == ["a", "b"]
            with pytest.raises(openai.NotFoundError):
                await client.files.list()

    asyncio.run(main())


# --- The scripted upstream: events in odd shapes ------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_an_event_may_be_split_amid_a_utf8_character(stack: str) -> None:
    event = encode(Delta("é"))
    middle = event.index("é".encode()) + 1
    assert run(stack, [Raw(event[:middle]), Raw(event[middle:]), Finish(), Done()])[0] == "é"


def test_comments_crlf_and_several_events_in_one_write_are_possible() -> None:
    crlf = encode(Delta("b")).replace(b"\n", b"\r\n")
    script: list[Step] = [
        Raw(b": keep-alive\n\n"),
        Delta("a"),
        Raw(crlf),
        together(Delta("c"), Delta("d")),
    ]
    assert run("httpx", [*script, Finish(), Done()]) == ("abcd", "stop")


def test_an_event_that_is_no_json_is_sent_as_it_is() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        run("httpx", [Delta("a"), Raw(sse("{not json"))])


def test_an_error_event_breaks_the_stream() -> None:
    with pytest.raises(openai.APIError, match="out of memory"):
        run("httpx", [Delta("a"), ErrorEvent("out of memory", "oom")])


def test_an_answer_may_end_cleanly_without_done() -> None:
    assert run("httpx", [Delta("a"), CleanEnd(), Delta("never")]) == ("a", None)
    assert raw_answer([Delta("a"), CleanEnd()]).endswith(b"\n\n\r\n0\r\n\r\n")


def test_done_alone_does_not_end_the_transfer() -> None:
    assert raw_answer([Done(), Cut()]).endswith(b"data: [DONE]\n\n\r\n")


def test_an_empty_script_is_an_empty_stream() -> None:
    assert run("httpx", []) == ("", None)


def test_an_answer_may_be_delimited_by_the_end_of_its_connection() -> None:
    data = raw_answer([Headers(headers={"X-More": "1"}, chunked=False), *answer("a")])
    assert b"x-more: 1\r\n" in data
    assert b"chunked" not in data
    assert data.endswith(b"data: [DONE]\n\n")


# --- The scripted upstream: faults --------------------------------------------------------------


async def deltas_until_error(stack: str, script: Script, error: type[Exception]) -> list[str]:
    """The deltas that arrived before the stream broke with this error. It has to break."""
    found: list[str] = []

    async def read(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="m", messages=[], stream=True)
        async for chunk in stream:
            found.append(chunk.choices[0].delta.content or "")

    async with ScriptedUpstream(script) as upstream, sdk(stack, upstream.base_url) as client:
        with pytest.raises(error):
            await asyncio.wait_for(read(client), LIMIT_S)
        assert upstream.requests[0].completed
        assert not upstream.requests[0].client_closed.is_set()
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_a_cut_midway_is_an_error_after_every_delta_before_it(stack: str) -> None:
    script: Script = [Delta("a"), Delta("b"), Cut()]
    found = asyncio.run(deltas_until_error(stack, script, openai.APIConnectionError))
    assert found == ["a", "b"]


@pytest.mark.parametrize("stack", STACKS)
def test_a_reset_midway_is_an_error(stack: str) -> None:
    script: Script = [Delta("a"), Cut(reset=True)]
    asyncio.run(deltas_until_error(stack, script, openai.APIConnectionError))


def test_a_broken_chunk_size_is_an_error() -> None:
    script: Script = [Delta("a"), Wire(b"zz\r\nnot a chunk\r\n"), Cut()]
    found = asyncio.run(deltas_until_error("httpx", script, openai.APIConnectionError))
    assert found == ["a"]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("step", [Cut(), Cut(reset=True)], ids=str)
def test_no_answer_at_all_is_a_connection_error(stack: str, step: Cut) -> None:
    with pytest.raises(openai.APIConnectionError):
        run(stack, [step])


@pytest.mark.parametrize("stack", STACKS)
def test_garbage_is_an_error(stack: str) -> None:
    # aiohttp's own, which the SDK (3.54) does not map to one of its errors.
    error = aiohttp.ClientResponseError if stack == "aiohttp" else openai.APIConnectionError
    with pytest.raises(error):
        run(stack, [Garbage()])


@pytest.mark.parametrize("stack", STACKS)
def test_a_refused_connection_is_a_connection_error(stack: str) -> None:
    async def main() -> None:
        with refused_base_url() as base_url:
            async with sdk(stack, base_url) as client:
                with pytest.raises(openai.APIConnectionError):
                    await ask(client)

    asyncio.run(main())


@pytest.mark.parametrize("stack", STACKS)
def test_no_head_makes_the_client_time_out(stack: str) -> None:
    with pytest.raises(openai.APITimeoutError):
        run(stack, [NoAnswer()], timeout_s=0.05)


@pytest.mark.parametrize(
    "before", [[], [Headers()], [Delta("a")]], ids=["request", "head", "delta"]
)
@pytest.mark.parametrize("step", [Silence(), Pause(60), WaitFor("never")], ids=str)
def test_a_client_that_leaves_is_noticed_at_once_in_every_phase(
    before: list[Delta | Headers], step: Silence | Pause | WaitFor
) -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream([*before, step, *answer("b")]) as upstream,
            sdk("aiohttp", upstream.base_url) as client,
        ):
            asking = asyncio.create_task(ask(client))
            [recorded] = await upstream.wait_for_requests(1)
            await asyncio.sleep(0.005)
            assert not recorded.client_closed.is_set()
            asking.cancel()
            left_at = time.monotonic()
            await asyncio.wait_for(recorded.client_closed.wait(), LIMIT_S)
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert recorded.closed_at is not None
            assert recorded.closed_at - left_at < 0.5
            assert not recorded.completed
            assert len(recorded.delta_sent_at) == before.count(Delta("a"))

    asyncio.run(main())


def test_answers_cuts_and_disconnects_are_the_same_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        queue: list[Script] = [answer("a"), [Delta("b"), Cut()], [Cut(reset=True)], [Silence()]]
        async with ScriptedUpstream(queue=queue) as upstream:
            for number in range(1, 5):
                reader, writer = await asyncio.open_connection(HOST, upstream.port)
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n")
                recorded = (await upstream.wait_for_requests(number))[-1]
                if number < 4:
                    with contextlib.suppress(ConnectionError):
                        data = await reader.read()
                        assert data.endswith(b"\r\n0\r\n\r\n") == (number == 1)
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
                await asyncio.wait_for(recorded.finished.wait(), LIMIT_S)
                assert recorded.completed == (number < 4)
                assert recorded.client_closed.is_set() == (number == 4)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_client_that_does_not_read_stops_the_script() -> None:
    async def main() -> None:
        def endless(_: Recorded) -> Script:
            return itertools.repeat(Delta("x" * 10_000))

        async with ScriptedUpstream(endless, send_buffer_bytes=8192) as upstream:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                sock.connect((HOST, upstream.port))
                sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
                [recorded] = await upstream.wait_for_requests(1)
                seen = -1
                while seen != recorded.sent_bytes:
                    seen = recorded.sent_bytes
                    await asyncio.sleep(0.02)
                assert 0 < seen < 1_000_000
            await asyncio.wait_for(recorded.client_closed.wait(), LIMIT_S)

    asyncio.run(main())


# --- The scripted upstream: the server ----------------------------------------------------------


def test_gates_hold_the_script_until_they_are_opened() -> None:
    async def main() -> None:
        own = asyncio.Event()
        script = [WaitFor("head"), Delta("a"), WaitFor(own), *answer("b")]
        async with ScriptedUpstream(script) as upstream, sdk("httpx", upstream.base_url) as client:
            asking = asyncio.create_task(ask(client))
            [recorded] = await upstream.wait_for_requests(1)
            assert recorded.sent_bytes == 0
            upstream.open("head")
            await asyncio.sleep(0.02)
            assert len(recorded.delta_sent_at) == 1
            assert not asking.done()
            own.set()
            assert await asking == ("ab", "stop")

    asyncio.run(main())


def test_300_connections_at_once_are_answered_and_nothing_is_left() -> None:
    async def one(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n")
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        return data

    async def main() -> None:
        async with ScriptedUpstream([WaitFor("all"), *answer("a", "b")]) as upstream:
            asking = [asyncio.create_task(one(upstream.port)) for _ in range(300)]
            await upstream.wait_for_requests(300)
            assert upstream.connections_open == 300
            upstream.open("all")
            answers = await asyncio.gather(*asking)
            assert all(data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for data in answers)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_the_end_of_the_context_cuts_what_is_open_and_blames_no_client() -> None:
    async def main() -> None:
        async with ScriptedUpstream([Delta("a"), Silence()]) as upstream:
            reader, writer = await asyncio.open_connection(HOST, upstream.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
            [recorded] = await upstream.wait_for_requests(1)
        assert upstream.connections_open == 0
        assert recorded.finished.is_set()
        assert not recorded.completed
        assert not recorded.client_closed.is_set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_mistake_in_a_script_is_raised_when_the_context_ends() -> None:
    async def main() -> None:
        script: Script = [Delta("a"), Status(500)]
        async with ScriptedUpstream(script) as upstream, sdk("httpx", upstream.base_url) as client:
            with contextlib.suppress(openai.APIConnectionError):
                await ask(client)

    with pytest.raises(ValueError, match="after the head was sent"):
        asyncio.run(main())


def test_a_request_that_is_not_http_is_raised_when_the_context_ends() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as upstream:
            reader, writer = await asyncio.open_connection(HOST, upstream.port)
            writer.write(b"\x16\x03\x01\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    with pytest.raises(ValueError, match="unpack"):
        asyncio.run(main())


def test_a_chunked_request_body_is_read_and_continue_is_said() -> None:
    async def main() -> None:
        async with ScriptedUpstream([Status(200, body="{}")]) as upstream:
            reader, writer = await asyncio.open_connection(HOST, upstream.port)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\n"
                b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n")
            await reader.readuntil(b"{}")
            assert upstream.requests[0].body == b"abcde"
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_it_serves_from_a_thread() -> None:
    with ScriptedUpstream([Delta("a"), WaitFor("more"), *answer("b")]).in_thread() as upstream:
        host, port = upstream.base_url.split("/")[2].split(":")
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("POST", "/v1/chat/completions", b"{}")
        response = connection.getresponse()
        assert b'"a"' in response.readline()
        [recorded] = upstream.wait_for_requests(1)
        upstream.open("more")
        assert response.read().endswith(b"data: [DONE]\n\n")
        upstream.wait_for(recorded.finished)
        connection.close()


def test_a_mistake_in_a_script_reaches_the_test_from_the_thread() -> None:
    def broken(_: Recorded) -> Script:
        raise LookupError("no script for this")

    def ask_once(base_url: str) -> None:
        connection = http.client.HTTPConnection(base_url.split("/")[2])
        connection.request("POST", "/v1/chat/completions", b"{}")
        with pytest.raises(ConnectionError):
            connection.getresponse()
        connection.close()

    with pytest.raises(LookupError), ScriptedUpstream(broken).in_thread() as upstream:
        ask_once(upstream.base_url)


# --- OpenSSH ------------------------------------------------------------------------------------


def ssh(
    server: OpenSSHServer, *remote: str, options: tuple[str, ...] = (), stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = server.ssh_command(*remote)
    command[1:1] = options  # OpenSSH takes the first value of an option
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=20)


def test_a_login_runs_a_command_and_nothing_is_left_afterwards() -> None:
    require_sshd()
    with OpenSSHServer("PermitTTY no", "AllowTcpForwarding no", "MaxSessions 1") as server:
        ran = ssh(server, "cat; exit 3", stdin=b"in and out\x00\xff")
        assert (ran.returncode, ran.stdout, ran.stderr) == (3, b"in and out\x00\xff", b"")
        assert f"Accepted publickey for {server.user}" in server.log
        folder, pid = server.folder, server.pid
        assert processes_matching(str(folder)) == [pid]
    assert not folder.exists()
    assert processes_matching(str(folder)) == []


def test_an_alias_of_the_ssh_config_file_is_enough_to_log_in() -> None:
    require_sshd()
    with OpenSSHServer() as server:
        command = ["ssh", "-F", str(server.ssh_config("box")), "-oBatchMode=yes", "box", "echo hi"]
        ran = subprocess.run(command, capture_output=True, check=False, timeout=20)
        assert ran.stdout == b"hi\n"


def test_options_override_the_defaults_and_every_kind_of_host_key_is_known() -> None:
    require_sshd()
    kinds = ("ed25519", "ecdsa", "rsa")
    with OpenSSHServer("PermitUserEnvironment no", host_key_types=kinds) as server:
        assert len(server.known_hosts.read_text().splitlines()) == 3
        options = ("-oHostKeyAlgorithms=rsa-sha2-512",)
        assert ssh(server, "true", options=options).returncode == 0, server.log


def test_a_changed_host_key_and_a_strangers_key_are_refused(tmp_path: Path) -> None:
    require_sshd()
    stranger = generate_key(tmp_path / "stranger")
    with OpenSSHServer() as server:
        changed = tmp_path / "known_hosts"
        public_key = stranger.with_suffix(".pub")
        changed.write_text(known_hosts_line(server.host, server.port, public_key))
        ran = ssh(server, "true", options=(f"-oUserKnownHostsFile={changed}",))
        assert ran.returncode == 255
        assert b"verification failed" in ran.stderr
        server.authorized_keys.write_text(public_key.read_text())
        ran = ssh(server, "true")
        assert ran.returncode == 255
        assert b"Permission denied" in ran.stderr


def test_a_session_that_still_runs_ends_with_the_server() -> None:
    require_sshd()
    with OpenSSHServer() as server:
        command = server.ssh_command("echo ready; exec sleep 60")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            assert children_of(server.pid)
            sessions = descendants_of(server.pid)
            [sleeper] = [pid for pid in processes_matching("sleep 60") if pid in sessions]
            server.__exit__(None, None, None)
            assert sleeper not in processes_matching("sleep 60")
            assert client.wait(20) == 255


def test_a_host_goes_down_with_its_sessions_and_comes_back_where_it_was() -> None:
    require_sshd()
    with OpenSSHServer(host="127.0.0.2") as server:
        command = server.ssh_command("echo ready; exec sleep 60")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            sessions = descendants_of(server.pid)
            [sleeper] = [pid for pid in processes_matching("sleep 60") if pid in sessions]
            server.stop()
            assert client.wait(20) == 255
        assert sleeper not in processes_matching("sleep 60")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=5)
        server.start_again()
        assert ssh(server, "echo hi").stdout == b"hi\n"
    assert processes_matching(str(server.folder)) == []


def test_a_fleets_hosts_have_an_address_and_an_upstream_each() -> None:
    require_sshd()
    with Fleet(2) as fleet:
        assert [host.server.host for host in fleet.hosts] == ["127.0.0.2", "127.0.0.3"]
        assert len({host.upstream.base_url for host in fleet.hosts}) == 2
        for host in fleet.hosts:
            assert host.line() in fleet.inventory.read_text()
            known = f"-oUserKnownHostsFile={fleet.known_hosts}"
            assert ssh(host.server, "echo hi", options=(known,)).stdout == b"hi\n"


def test_a_blackhole_neither_answers_nor_refuses() -> None:
    with blackhole() as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.1)


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_an_account_with_any_login_shell_is_made_and_removed(shell: str) -> None:
    path = require_login_shell(shell)
    with OpenSSHServer(login_shell=path) as server:
        assert pwd.getpwnam(server.user).pw_shell == path
        show = 'import os; print(os.environ["SHELL"])'
        ran = ssh(server, f"{sys.executable} -c '{show}'; echo ~")
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout.decode().split() == [path, str(server.home)]
    with pytest.raises(KeyError):
        pwd.getpwnam(server.user)


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_a_noisy_login_prints_before_and_after(shell: str) -> None:
    path = require_login_shell(shell)
    with OpenSSHServer(login_shell=path, noisy_rc=True) as server:
        ran = ssh(server, "cat; exit 7", stdin=b"payload\n")
        assert ran.returncode == 7
        assert ran.stdout.endswith(b"\npayload\n")
        assert NOISE.encode() in ran.stdout
        assert NOISE.encode() in ran.stderr
    with OpenSSHServer(NOISY_FORCE_COMMAND, login_shell=path, noisy_rc=True) as server:
        ran = ssh(server, "cat; exit 7", stdin=b"payload\n")
        assert ran.returncode == 7
        before, payload, after = ran.stdout.partition(b"payload\n")
        assert payload
        assert before.count(NOISE.encode()) == (1 if shell == "dash" else 3)
        assert after == f"{NOISE} after\n".encode()


def test_a_server_that_cannot_start_says_why() -> None:
    require_sshd()
    with pytest.raises(RuntimeError, match="NoSuchOption"):
        OpenSSHServer("NoSuchOption yes").__enter__()


def test_a_missing_sshd_is_a_skip_here_and_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(call: Callable[[], object]) -> type[BaseException]:
        with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as caught:
            call()
        return caught.type

    monkeypatch.setattr("tests.helpers.openssh._which", lambda _: None)
    reason = available()
    assert reason is not None
    assert "scripts/install-test-servers" in reason
    monkeypatch.delenv("CI", raising=False)
    assert outcome(require_sshd) is pytest.skip.Exception
    monkeypatch.setenv("CI", "true")
    assert outcome(require_sshd) is pytest.fail.Exception
    assert outcome(lambda: require_login_shell("fish")) is pytest.fail.Exception
