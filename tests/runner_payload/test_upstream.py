"""Calls to the API, against a scripted upstream, over our connections and
over the SDK's client, which is asked where there is a proxy."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from runner_payload import chatting, log, upstream
from runner_payload.chatting import MAX_RETRIES
from runner_payload.failures import UpstreamFailure
from runner_payload.messages import Call, End, Failure, Request, Response
from runner_payload.relaying import relay
from runner_payload.upstream import Upstream
from tests.helpers.bare_runner import a_start
from tests.helpers.upstream import (
    CleanEnd,
    Cut,
    Delta,
    Done,
    ErrorEvent,
    Finish,
    Garbage,
    Headers,
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
    refused_base_url,
    sse,
    together,
)

LIMIT_S = 20.0
KEY = a_start().api_key
CALL = Call("m-1")
OK = answer("fine")


@pytest.fixture(autouse=True, params=["own", "sdk"])
def stack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs over our connections and over the SDK's client; no retry waits long."""
    monkeypatch.setattr(chatting, "RETRY_DELAY_S", 0.005)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr(log, "_secrets", [KEY])
    # No TLS here, and reading the certificates is most of what a client costs.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_args, **_options: None)
    if request.param == "sdk":
        monkeypatch.setattr(upstream, "proxied", lambda _base_url: True)
    return str(request.param)


class Asked:
    """One call's outcome."""

    def __init__(self) -> None:
        self.heads: list[Response] = []
        self.pieces: list[bytes] = []
        self.end: End | None = None
        self.failure: Failure | None = None

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    def head(self, response: Response) -> None:
        self.heads.append(response)

    def emit(self, data: bytes) -> bool:
        self.pieces.append(data)
        return True

    async def ready(self) -> None:
        """Always."""


class Told:
    """A destination that tells a function."""

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell

    def emit(self, data: bytes) -> bool:
        self._tell(data)
        return True

    async def ready(self) -> None:
        """Always."""


@asynccontextmanager
async def client_of(base_url: str, **settings: object) -> AsyncIterator[Upstream]:
    client = Upstream(a_start(base_url, **settings), max_connections=1000)
    try:
        yield client
    finally:
        await client.close()


async def stream(client: Upstream, call: Call = CALL, prompt: str = "hi") -> Asked:
    asked = Asked()
    try:
        asked.end = await client.stream(call, prompt, asked)
    except UpstreamFailure as error:
        asked.failure = error.failure
    assert KEY not in str(asked.failure)
    return asked


def limited(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scene()

    asyncio.run(main())


def ask(*scripts: Script, call: Call = CALL, prompt: str = "hi") -> tuple[Asked, ScriptedUpstream]:
    """One call to an upstream that answers its requests with one script after the other."""
    server = ScriptedUpstream(scripts[-1], queue=scripts[:-1])
    outcome: list[Asked] = []

    async def scene() -> None:
        async with server, client_of(server.base_url) as client:
            outcome.append(await stream(client, call, prompt))

    limited(scene)
    return outcome[0], server


# --- What is asked ------------------------------------------------------------------------------


def test_a_prompt_is_asked_and_its_answer_copied() -> None:
    asked, server = ask(answer("Grüße", ", ", "世界 😀"), prompt="Wie geht's? 😀\n")
    assert asked.text == "Grüße, 世界 😀"
    assert asked.end == End("stop", 0)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Wie geht's? 😀\n"}],
        "stream": True,
        "max_tokens": 1024,
    }


def test_parameters_are_sent_when_they_are_given_and_zero_is_given() -> None:
    call = Call("m-2", system="be brief", max_tokens=5, temperature=0.0, top_p=0.25)
    _asked, server = ask(OK, call=call)
    sent = server.requests[0].json
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    assert (sent["model"], sent["max_tokens"]) == ("m-2", 5)
    assert (sent["temperature"], sent["top_p"]) == (0.0, 0.25)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_goes_by_the_name_that_upstream_gives_it(name: str) -> None:
    async def scene() -> None:
        async with client_of("http://127.0.0.1:8000/v1", max_tokens_field=name) as client:
            parameters = chatting._parameters(client, CALL, "hi")
            assert {key for key in parameters if "tokens" in key} == {name}
            assert parameters[name] == 1024

    limited(scene)


def test_a_slash_at_the_end_of_the_base_url_does_no_harm() -> None:
    async def scene() -> None:
        async with ScriptedUpstream(OK) as server, client_of(server.base_url + "/") as client:
            assert (await stream(client)).text == "fine"
            assert server.requests[0].path == "/v1/chat/completions"

    limited(scene)


# --- Deltas and ends ----------------------------------------------------------------------------


def test_each_delta_is_given_on_as_it_comes() -> None:
    """Upstream says the next one only when the last has arrived."""

    async def scene() -> None:
        script = [
            step for number in range(5) for step in (Delta(str(number)), WaitFor(str(number)))
        ]
        async with (
            ScriptedUpstream([*script, Finish(), Done()]) as server,
            client_of(server.base_url) as client,
        ):
            arrived: list[str] = []

            def emit(text: bytes) -> None:
                if text:
                    arrived.append(text.decode())
                    server.open(arrived[-1])

            assert await client.stream(CALL, "hi", Told(emit)) == End("stop")
            assert arrived == ["0", "1", "2", "3", "4"]

    limited(scene)


def test_an_event_without_text_is_passed_on_as_none_and_a_comment_is_not_an_event() -> None:
    async def scene() -> None:
        role = Raw(b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n')
        script = [Raw(b": queued\n\n"), role, WaitFor("heard"), *OK]
        async with ScriptedUpstream(script) as server, client_of(server.base_url) as client:
            pieces: list[bytes] = []

            def emit(text: bytes) -> None:
                pieces.append(text)
                server.open("heard")

            assert await client.stream(CALL, "hi", Told(emit)) == End("stop")
            assert pieces[0] == b""

    limited(scene)


def test_several_deltas_in_one_read_are_given_on_together() -> None:
    asked, _server = ask([together(Delta("a"), Delta("b"), Delta("c")), Finish(), Done()])
    assert asked.pieces[0] == b"abc"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_finish_reasons_are_told_apart(reason: str) -> None:
    asked, server = ask(answer("so far", finish=reason))
    assert (asked.text, asked.end) == ("so far", End(reason))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        [Delta("x"), Finish(), CleanEnd()],
        [Delta("x"), Finish(), Usage(), CleanEnd()],
        [Headers(chunked=False), Delta("x"), Finish(), Done()],
        [Delta("x"), Done()],
    ],
)
def test_an_answer_is_whole_with_a_finish_reason_or_a_done(script: Script) -> None:
    asked, _server = ask(script)
    assert asked.text == "x"
    assert asked.end is not None


def test_an_empty_answer_is_an_answer() -> None:
    asked, server = ask([Finish(), Done()])
    assert (asked.text, asked.end, len(server.requests)) == ("", End("stop"), 1)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ([CleanEnd()], "upstream_incomplete"),
        ([Raw(sse({"choices": []})[:9]), CleanEnd()], "upstream_incomplete"),
        ([Cut()], "upstream_broken"),
        ([Cut(reset=True)], "upstream_broken"),
        ([Raw(b"data: rubbish\n\n"), Silence()], "upstream_broken"),
        ([Raw(sse([1])), Silence()], "upstream_broken"),
        ([ErrorEvent("overloaded"), Silence()], "upstream_error_event"),
        ([ErrorEvent("overloaded"), Done()], "upstream_error_event"),
    ],
)
def test_a_broken_answer_fails_with_its_cause_and_is_never_retried(
    ending: Script, code: str
) -> None:
    async def scene() -> None:
        script = [Delta("half"), WaitFor("read"), *ending]
        async with (
            ScriptedUpstream(OK, queue=[script]) as server,
            client_of(server.base_url) as client,
        ):
            asked = Asked()

            def emit(text: bytes) -> None:
                asked.pieces.append(text)
                server.open("read")

            with pytest.raises(UpstreamFailure) as caught:
                await client.stream(CALL, "hi", Told(emit))
            assert caught.value.failure.code == code
            assert asked.text == "half"
            assert len(server.requests) == 1

    limited(scene)


def test_a_broken_chunk_size_never_passes_for_a_whole_answers_end() -> None:
    async def scene() -> None:
        script: list[Step] = [
            Delta("half"),
            Finish(),
            WaitFor("read"),
            Wire(b"no chunk size\r\n"),
            Cut(),
        ]
        async with ScriptedUpstream(script) as server, client_of(server.base_url) as client:

            def emit(_text: bytes) -> None:
                server.open("read")

            with pytest.raises(UpstreamFailure):
                await client.stream(CALL, "hi", Told(emit))

    limited(scene)


def test_an_error_event_is_passed_on_before_the_first_delta_too_and_not_repeated() -> None:
    asked, server = ask([ErrorEvent(f"overloaded, {KEY}", 503)], OK)
    assert asked.failure == Failure(
        "upstream_error_event", "The upstream reported: overloaded, ***"
    )
    assert len(server.requests) == 1


def test_the_call_ends_with_done_although_upstream_keeps_the_body_open() -> None:
    async def scene() -> None:
        script = [*answer("whole"), Silence()]
        async with ScriptedUpstream(script) as server, client_of(server.base_url) as client:
            begun_at = time.monotonic()
            assert (await stream(client)).end == End("stop")
            assert time.monotonic() - begun_at < 5
            async with asyncio.timeout(5):
                await server.requests[0].client_closed.wait()

    limited(scene)


def test_connections_are_used_again() -> None:
    async def scene() -> None:
        async with ScriptedUpstream(OK) as server, client_of(server.base_url) as client:
            for _ in range(10):
                assert (await stream(client)).text == "fine"
            # A call that begins while the last one's connection is still read out takes another.
            assert server.connections_total <= 3

    limited(scene)


@pytest.mark.parametrize(
    "fault",
    [
        [Status(400, message="what now?")],
        [Status(401)],
        [Status(404)],
        [Status(429, {"retry-after": "30"})],
        [Status(429, {"retry-after": "0.001"})],
        [Status(500)],
        [Cut()],
        [Delta("x"), Cut()],
        [Headers(headers={"content-encoding": "gzip"}), Raw(gzip.compress(sse({"choices": []})))],
    ],
)
def test_a_call_ends_alike_whether_one_like_it_was_asked_before_or_not(fault: Script) -> None:
    async def ending(before: int) -> tuple[object, ...]:
        server = ScriptedUpstream(fault, queue=[OK] * before)
        async with server, client_of(server.base_url) as client:
            for _ in range(before):
                assert (await stream(client)).text == "fine"
            asked = await stream(client)
        counted = [request.headers.get("x-stainless-retry-count") for request in server.requests]
        failure = str(asked.failure).replace(server.base_url, "")
        return asked.text, asked.end, failure, counted[before:]

    async def scene() -> None:
        assert await ending(before=2) == await ending(before=0)

    limited(scene)


def test_a_redirect_is_followed_though_one_like_it_was_answered_before() -> None:
    async def scene() -> None:
        moved = [Status(307, {"location": "/v1/elsewhere"})]
        server = ScriptedUpstream(moved, queue=[OK], paths={"/v1/elsewhere": answer("there")})
        async with server, client_of(server.base_url) as client:
            assert [(await stream(client)).text for _ in range(3)] == ["fine", "there", "there"]

    limited(scene)


def test_more_calls_than_any_librarys_default_limit_are_under_way_at_once() -> None:
    async def scene() -> None:
        script = [Headers(), WaitFor("all"), *OK]
        async with ScriptedUpstream(script) as server, client_of(server.base_url) as client:
            calls = [asyncio.create_task(stream(client)) for _ in range(120)]
            await server.wait_for_requests(120)
            server.open("all")
            assert {(await call).text for call in calls} == {"fine"}

    limited(scene)


def test_cancelling_a_call_closes_its_connection_in_every_phase() -> None:
    async def scene() -> None:
        phases: list[Script] = [[Silence()], [Headers(), Silence()], [Delta("x"), Silence()]]
        async with ScriptedUpstream(queue=phases) as server, client_of(server.base_url) as client:
            for number in range(len(phases)):
                begun = asyncio.Event()

                def emit(_text: bytes, begun: asyncio.Event = begun) -> None:
                    begun.set()

                call = asyncio.create_task(client.stream(CALL, "hi", Told(emit)))
                await server.wait_for_requests(number + 1)
                request = server.requests[number]
                if number == 2:
                    await begun.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                async with asyncio.timeout(5):
                    await request.client_closed.wait()
            assert (await stream(client)).end == End("stop")

    limited(scene)


# --- Retries ------------------------------------------------------------------------------------

BEFORE_THE_FIRST_DELTA: dict[str, Script] = {
    "500": [Status(500)],
    "503": [Status(503)],
    "408": [Status(408)],
    "429 without Retry-After": [Status(429)],
    "429 at once": [Status(429, {"retry-after": "0"})],
    "429 soon": [Status(429, {"retry-after-ms": "5"})],
    "garbage": [Garbage()],
    "cut before the head": [Cut()],
    "cut behind the head": [Headers(), Cut()],
    "no event": [CleanEnd()],
    "role and no more": [Delta(""), CleanEnd()],
    "HTML": [Status(200, {"content-type": "text/html"}, "<html>captive portal</html>")],
    "JSON": [Status(200, body={"choices": []})],
    "rubbish": [Raw(b"data: rubbish\n\n")],
    "no gzip": [Headers(headers={"content-encoding": "gzip"}), Raw(b"data: {}\n\n")],
}


@pytest.mark.parametrize("name", BEFORE_THE_FIRST_DELTA)
def test_before_the_first_delta_a_call_is_tried_three_times(name: str) -> None:
    fault = BEFORE_THE_FIRST_DELTA[name]
    asked, server = ask(fault, fault, OK)
    assert (asked.text, asked.end) == ("fine", End("stop", MAX_RETRIES))
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("500", "upstream_unavailable"),
        ("408", "upstream_timeout"),
        ("429 at once", "upstream_rate_limited"),
        ("cut before the head", "upstream_unavailable"),
        ("cut behind the head", "upstream_broken"),
        ("no event", "upstream_incomplete"),
        ("HTML", "upstream_broken"),
        ("rubbish", "upstream_broken"),
        ("no gzip", "upstream_broken"),
    ],
)
def test_after_two_retries_a_call_fails_with_the_last_cause(name: str, code: str) -> None:
    fault = BEFORE_THE_FIRST_DELTA[name]
    asked, server = ask(fault, fault, fault, OK)
    assert asked.failure is not None
    assert asked.failure.code == code
    assert len(server.requests) == 3


def test_what_is_not_http_is_an_upstream_failure_whichever_stack_reads_it() -> None:
    asked, server = ask([Garbage(KEY.encode() + b" is not HTTP\r\n\r\n")])
    assert asked.failure is not None
    assert asked.failure.code in {"upstream_unavailable", "upstream_broken"}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "names",
    [
        ["500", "cut behind the head", "500"],
        ["500", "500", "cut behind the head"],
        ["cut behind the head", "500", "no event"],
        ["no event", "no event", "500"],
        ["500", "no event", "garbage"],
    ],
)
def test_the_sdks_retries_and_ours_are_two_together(names: list[str]) -> None:
    asked, server = ask(*(BEFORE_THE_FIRST_DELTA[name] for name in names), OK)
    assert asked.failure is not None
    assert len(server.requests) == 3


@pytest.mark.parametrize("allowed", [0, 1])
@pytest.mark.parametrize("name", ["500", "cut behind the head"])
def test_no_more_retries_are_taken_than_the_call_allows(name: str, allowed: int) -> None:
    fault = BEFORE_THE_FIRST_DELTA[name]
    asked, server = ask(*[fault] * (allowed + 1), OK, call=Call("m-1", retries=allowed))
    assert asked.failure is not None
    assert len(server.requests) == allowed + 1


def test_more_retries_than_the_runner_takes_by_itself_are_not_taken() -> None:
    fault = BEFORE_THE_FIRST_DELTA["500"]
    asked, server = ask(*[fault] * 5, OK, call=Call("m-1", retries=5))
    assert asked.failure is not None
    assert len(server.requests) == 1 + MAX_RETRIES


def test_a_refused_connection_is_named_with_its_base_url() -> None:
    async def scene() -> None:
        with refused_base_url() as base_url:
            async with client_of(base_url) as client:
                asked = await stream(client)
        assert asked.failure is not None
        assert asked.failure.code == "upstream_unavailable"
        assert base_url in asked.failure.message
        assert "--base-url" in asked.failure.message

    limited(scene)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "upstream_bad_request"),
        (401, "upstream_auth"),
        (402, "upstream_auth"),
        (403, "upstream_auth"),
        (404, "upstream_not_found"),
        (422, "upstream_unprocessable"),
    ],
)
def test_a_refusal_is_passed_on_at_once_without_the_key(status: int, code: str) -> None:
    asked, server = ask([Status(status, message=f"no: {KEY}")], OK)
    assert asked.failure is not None
    assert asked.failure.code == code
    assert KEY not in asked.failure.message
    assert ("no: ***" in asked.failure.message) == (code != "upstream_auth")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [f"plain text {KEY}", f"<html>{KEY}</html>", {"detail": KEY}, {"error": KEY}, "{", b"\xff", ""],
)
def test_a_refusal_whose_body_is_no_openai_error_is_a_whole_sentence_without_the_key(
    body: str | bytes | dict[str, str],
) -> None:
    asked, _server = ask([Status(400, body=body)])
    assert asked.failure is not None
    assert asked.failure.code == "upstream_bad_request"
    assert asked.failure.message.startswith("The upstream answered 400")


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_is_passed_on_at_once_and_not_slept(status: int) -> None:
    begun_at = time.monotonic()
    asked, server = ask([Status(status, {"retry-after": "7"})], OK)
    assert time.monotonic() - begun_at < 3
    assert asked.failure is not None
    assert asked.failure.retry_after_s == (7 if status == 429 else None)
    assert len(server.requests) == 1


def test_a_retry_after_that_makes_no_sense_does_no_harm() -> None:
    nonsense = {"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}
    asked, server = ask([Status(429, nonsense)], OK)
    assert asked.end == End("stop", 1)
    assert len(server.requests) == 2


# --- Another key --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "retried_with"), [("500", KEY), ("cut behind the head", "sk-renewed")]
)
def test_a_renewed_key_is_for_what_is_asked_from_then_on(name: str, retried_with: str) -> None:
    """The SDK's own retries belong to what was asked before."""

    async def scene() -> None:
        fault: Script = [WaitFor("renewed"), *BEFORE_THE_FIRST_DELTA[name]]
        async with (
            ScriptedUpstream(OK, queue=[fault]) as server,
            client_of(server.base_url) as client,
        ):
            before = asyncio.create_task(stream(client))
            await server.wait_for_requests(1)
            client.renew_key("sk-renewed")
            assert (await stream(client)).text == "fine"
            server.open("renewed")
            assert (await before).end == End("stop", 1)
            keys = [request.headers["authorization"] for request in server.requests]
            assert keys == [f"Bearer {KEY}", "Bearer sk-renewed", f"Bearer {retried_with}"]

    limited(scene)


# --- Models -------------------------------------------------------------------------------------


LIST = Request("GET", "models", retries=0)


async def models(client: Upstream) -> Asked:
    asked = Asked()
    try:
        asked.end = await relay(client, LIST, b"", asked)
    except UpstreamFailure as error:
        asked.failure = error.failure
    assert KEY not in str(asked.failure)
    return asked


def ask_models(server: ScriptedUpstream) -> Asked:
    """What an upstream that answers GET /models by its script says."""
    outcome: list[Asked] = []

    async def scene() -> None:
        async with server, client_of(server.base_url) as client:
            outcome.append(await models(client))

    limited(scene)
    return outcome[0]


def test_the_models_are_asked_for_with_the_key_and_their_body_is_passed_on() -> None:
    server = ScriptedUpstream(models=["llama-3", "qwen-2"])
    asked = ask_models(server)
    assert asked.end == End()
    assert [model["id"] for model in json.loads(asked.text)["data"]] == ["llama-3", "qwen-2"]
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([Status(401, message=f"no: {KEY}")], "upstream_auth"),
        ([Status(404, message=f"no: {KEY}")], "upstream_not_found"),
        ([Status(503, message=f"no: {KEY}")], "upstream_unavailable"),
        ([Cut()], "upstream_unavailable"),
        ([Headers(), Raw(b'{"data": ['), Cut()], "upstream_broken"),
    ],
)
def test_models_that_cannot_be_had_fail_as_a_chat_does(script: Script, code: str) -> None:
    asked = ask_models(ModelsUpstream(script))
    assert asked.failure is not None
    assert asked.failure.code == code


class ModelsUpstream(ScriptedUpstream):
    """One whose script answers whatever it is asked."""

    def script_for(self, recorded: Recorded) -> Script:
        assert not callable(self.script)
        return self.script
