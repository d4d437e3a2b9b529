"""Requests that are relayed: what goes up of them, and what comes down.

The first half plays an upstream in memory; the second asks a scripted one over loopback, for what
only the SDK and its HTTP stack decide.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given

from runner_payload import log
from runner_payload.failures import UpstreamFailure
from runner_payload.messages import End, Failure, Request, Response
from runner_payload.protocol import RemoteProtocolError
from runner_payload.relaying import relay
from runner_payload.reply import Reply
from runner_payload.upstream import Upstream
from tests.helpers.bare_runner import a_start
from tests.helpers.upstream import (
    Cut,
    Headers,
    Raw,
    Recorded,
    Script,
    ScriptedUpstream,
    Status,
    answer,
    encode,
)
from tests.runner_payload.splits import PLACES, cut, one_by_one

LIMIT_S = 20.0
KEY = a_start().api_key
CHAT = "chat/completions"
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
COUNT = b'{"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}'


@dataclass
class Asked:
    """What an upstream was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None
    streamed: bool
    retries: int
    native: bool


class PlayedUpstream:
    """Upstream as relaying.py sees it, in memory."""

    def __init__(
        self,
        chunks: list[bytes],
        headers: Mapping[str, str] = JSON,
        status: int = 200,
        **settings: Any,
    ) -> None:
        self.adapter = settings.get("adapter", "")
        self.native = frozenset(settings.get("native", ()))
        self.ask_usage = False
        self.asked: list[Asked] = []
        self._reply = (status, headers, chunks)

    def path_of(self, path: str, model: str) -> str:
        return path

    @asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
        retries: int,
        *,
        native: bool = False,
    ) -> AsyncIterator[Reply]:
        streamed = not isinstance(body, (bytes, type(None)))
        got = b"".join([piece async for piece in body]) if streamed else body  # type: ignore[union-attr]
        self.asked.append(
            Asked(method, path, dict(headers), cast(bytes | None, got), streamed, retries, native)
        )
        status, said, chunks = self._reply

        async def come() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        yield Reply(status, said, come())


@dataclass
class Answered:
    """The way back, recorded."""

    heads: list[Response] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    end: End | None = None
    failure: Failure | None = None

    def head(self, response: Response) -> None:
        assert not self.heads
        assert not self.pieces
        self.heads.append(response)

    def emit(self, data: bytes) -> bool:
        assert self.heads
        self.pieces.append(data)
        return True

    async def ready(self) -> None:
        """Always."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


async def relayed(
    upstream: Any,
    request: Request,
    body: bytes | list[bytes] = b"",
    *,
    ask_usage: bool = False,
) -> Answered:
    async def pieces(each: list[bytes]) -> AsyncIterator[bytes]:
        for piece in each:
            yield piece

    answered = Answered()
    sent = pieces(body) if isinstance(body, list) else body
    if ask_usage:
        upstream.ask_usage = True
    try:
        answered.end = await relay(upstream, request, sent, answered)
    except UpstreamFailure as error:
        answered.failure = error.failure
    return answered


def sent(request: Request, body: bytes | list[bytes] = b"", **options: bool) -> Asked:
    """What goes up."""
    upstream = PlayedUpstream([b"{}"])
    asyncio.run(relayed(upstream, request, body, **options))
    return upstream.asked[0]


def came(
    chunks: list[bytes], headers: Mapping[str, str] = JSON, request: Request | None = None
) -> Answered:
    """What comes down."""
    upstream = PlayedUpstream(chunks, headers)
    return asyncio.run(relayed(upstream, request or Request("POST", CHAT), b"{}"))


# --- Which requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/models",
        "models/",
        "..",
        "../models",
        "models/..",
        "models/../../admin",
        "models//x",
        ".hidden",
        "models/.env",
        "models/%2e%2e/x",
        "%2e%2e/x",
        "models/a%2Fb",
        "http://elsewhere/v1",
        "//elsewhere/v1",
        "models?x=1",
        "models#x",
        "models/a b",
        "models/a\nb",
        "models\n",
        "models/ä",
        "models\\x",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    upstream = PlayedUpstream([])
    answered = asyncio.run(relayed(upstream, Request("GET", path)))
    assert answered.failure is not None
    assert answered.failure.code == "bad_request"
    assert not upstream.asked


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "get", "GET\r\n", ""])
def test_a_method_that_is_not_relayed_is_refused(method: str) -> None:
    upstream = PlayedUpstream([])
    assert asyncio.run(relayed(upstream, Request(method, "models"))).failure is not None
    assert not upstream.asked


@pytest.mark.parametrize("path", [CHAT, "models/ft:gpt-4o:org::id", "models/@cf/meta/l~1.0_x-y"])
def test_paths_of_apis_are_relayed_as_they_are(path: str) -> None:
    assert sent(Request("DELETE", path)).path == path


def test_the_query_goes_up_as_the_client_wrote_it() -> None:
    assert sent(Request("GET", "files", query="after=a%2Fb&x")).path == "files?after=a%2Fb&x"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_without_a_body_has_none_upstream(method: str) -> None:
    assert sent(Request(method, "files/f-1")).body is None


def test_a_get_never_has_a_body() -> None:
    assert sent(Request("GET", "files"), b"{}").body is None


def test_the_allowed_retries_and_what_is_native_are_passed_on() -> None:
    upstream = PlayedUpstream([b"{}"], native=("messages",))
    asyncio.run(relayed(upstream, Request("POST", "messages", retries=1), b"{}"))
    asyncio.run(relayed(upstream, Request("POST", CHAT, retries=0), b"{}"))
    assert [(asked.retries, asked.native) for asked in upstream.asked] == [(1, True), (0, False)]


def test_the_clients_headers_go_up_and_bytes_are_asked_for_as_they_are() -> None:
    request = Request("POST", CHAT, headers=(("idempotency-key", "k"), ("accept-encoding", "gzip")))
    assert sent(request, b"{}").headers == {"idempotency-key": "k", "accept-encoding": "identity"}


# --- JSON that goes up --------------------------------------------------------------------------

SPACED = b'{ "model":"small",\n"x": 1.50,  "messages": ["\xc3\xa9"] }'


def test_json_that_needs_no_change_goes_up_byte_for_byte() -> None:
    asked = sent(Request("POST", CHAT, model="small", asked_model="small"), SPACED)
    assert (asked.body, asked.streamed) == (SPACED, False)


def test_a_model_with_another_name_upstream_is_renamed_and_nothing_else() -> None:
    body = sent(Request("POST", CHAT, model="big-1", asked_model="small"), SPACED).body
    assert json.loads(body or b"") == json.loads(SPACED) | {"model": "big-1"}


@pytest.mark.parametrize("body", [b"", b"[]", b"no", b'{"a":', b"[" * 100_000])
def test_a_body_that_is_no_object_is_upstreams_to_refuse(body: bytes) -> None:
    request = Request("POST", CHAT, model="big-1", asked_model="small")
    assert sent(request, body, ask_usage=True).body == (body or None)


def test_half_a_surrogate_pair_survives_a_renaming() -> None:
    body = b'{"model": "small", "messages": ["\\ud83d"]}'
    asked = sent(Request("POST", CHAT, model="big-1", asked_model="small"), body)
    assert json.loads(asked.body or b"") == json.loads(body) | {"model": "big-1"}


# --- Usage that is asked for in the client's place ----------------------------------------------


@pytest.mark.parametrize("path", [CHAT, "completions"])
@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"a": 1}}])
def test_usage_is_asked_for_where_the_client_did_not(path: str, options: dict[str, Any]) -> None:
    body = {"stream": True, **options}
    asked = sent(Request("POST", path), json.dumps(body).encode(), ask_usage=True)
    said = json.loads(asked.body or b"")
    wanted = {**(options.get("stream_options") or {}), "include_usage": True}
    assert said == {"stream": True, "stream_options": wanted}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"stream": true, "stream_options": {"include_usage": true}}'),
        (CHAT, b'{"stream": true, "stream_options": "no"}'),
        (CHAT, b'{"stream": false}'),
        (CHAT, b'{"stream": "true"}'),
        (CHAT, b"{}"),
        ("responses", b'{"stream": true}'),
        ("messages", b'{"stream": true}'),
    ],
)
def test_usage_is_not_asked_for_where_it_comes_by_itself_or_cannot(path: str, body: bytes) -> None:
    assert sent(Request("POST", path), body, ask_usage=True).body == body


def test_usage_is_not_asked_for_unless_that_is_wanted() -> None:
    assert sent(Request("POST", CHAT), b'{"stream": true}').body == b'{"stream": true}'


def usage_stream(upstream_said: bytes, body: bytes, *, ask_usage: bool) -> Answered:
    upstream = PlayedUpstream(one_by_one(upstream_said), EVENTS)
    return asyncio.run(relayed(upstream, Request("POST", CHAT), body, ask_usage=ask_usage))


COUNTED = (
    b'data: {"choices": [{"delta": {"content": "a"}}], "usage": null}\n\n'
    b'data: {"choices": [], "usage": ' + COUNT + b"}\n\ndata: [DONE]\n\n"
)


def test_usage_that_only_we_have_asked_for_is_counted_and_does_not_come_down() -> None:
    answered = usage_stream(COUNTED, b'{"stream": true}', ask_usage=True)
    assert answered.body == (
        b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    )
    assert answered.end == End(input_tokens=3, output_tokens=5)


@pytest.mark.parametrize("ask_usage", [True, False])
def test_usage_that_the_client_has_asked_for_comes_down(ask_usage: bool) -> None:
    body = b'{"stream": true, "stream_options": {"include_usage": true}}'
    answered = usage_stream(COUNTED, body, ask_usage=ask_usage)
    assert answered.body == COUNTED
    assert answered.end == End(input_tokens=3, output_tokens=5)


# --- Forms that go up ---------------------------------------------------------------------------

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsmall\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="small"\r\n\r\n\0small\xff\r\n'
    b"--b--\r\n"
)
RENAMED = FORM.replace(b"\r\n\r\nsmall\r\n", b"\r\n\r\na-much-bigger-one\r\n", 1)


def form_request(model: str = "a-much-bigger-one", **more: Any) -> Request:
    at = FORM.index(b"\r\n\r\nsmall") + 4
    return Request(
        "POST", "audio/transcriptions", model=model, asked_model="small", model_at=at, **more
    )


def test_a_form_that_is_held_has_the_models_other_name() -> None:
    assert sent(form_request(), FORM).body == RENAMED
    assert sent(form_request("small"), FORM).body == FORM


@pytest.mark.parametrize("portions", [[FORM], one_by_one(FORM)], ids=["whole", "bytes"])
def test_a_form_that_is_streamed_has_it_too_and_the_length_that_comes_of_it(
    portions: list[bytes],
) -> None:
    asked = sent(form_request(streamed=True, length=len(FORM)), portions)
    assert asked.streamed
    assert asked.body == RENAMED
    assert asked.headers["content-length"] == str(len(RENAMED))


@given(places=PLACES)
def test_a_form_is_renamed_in_any_split(places: list[int]) -> None:
    for name in ("x", "small", "a-much-bigger-one"):
        wanted = FORM.replace(b"\r\n\r\nsmall\r\n", b"\r\n\r\n%b\r\n" % name.encode(), 1)
        assert sent(form_request(name, streamed=True), cut(FORM, places)).body == wanted


def test_a_form_that_keeps_its_name_is_streamed_as_it_is() -> None:
    asked = sent(form_request("small", streamed=True, length=len(FORM)), one_by_one(FORM))
    assert (asked.body, asked.headers["content-length"]) == (FORM, str(len(FORM)))


def test_a_form_of_unknown_length_has_no_length_upstream() -> None:
    assert "content-length" not in sent(form_request(streamed=True), [FORM]).headers


# --- What comes down ----------------------------------------------------------------------------


def test_the_status_and_the_body_come_down_as_they_are() -> None:
    upstream = PlayedUpstream([b"\0\xff", b"sound"], {"content-type": "audio/mpeg"}, 202)
    answered = asyncio.run(relayed(upstream, Request("POST", "audio/speech"), b"{}"))
    assert answered.heads == [Response(202, (("content-type", "audio/mpeg"),))]
    assert answered.body == b"\0\xffsound"
    assert answered.end == End()


def test_only_headers_that_are_the_clients_business_come_down() -> None:
    (head,) = came(
        [b"{}"],
        {
            "content-type": "application/json",
            "set-cookie": "a=b",
            "openai-organization": "org",
            "openai-project": "p",
            "authorization": "Bearer x",
            "www-authenticate": "Bearer",
            "server": "cloudflare",
            "cf-ray": "1",
            "connection": "keep-alive",
            "content-length": "2",
            "transfer-encoding": "chunked",
            "x-powered-by": "php",
            "x-request-id": "req-up",
            "openai-processing-ms": "12",
            "x-ratelimit-remaining-requests": "9",
            "anthropic-ratelimit-tokens-limit": "8",
            "retry-after": "1",
        },
    ).heads
    assert dict(head.headers) == {
        "content-type": "application/json",
        "x-upstream-request-id": "req-up",
        "openai-processing-ms": "12",
        "x-ratelimit-remaining-requests": "9",
        "anthropic-ratelimit-tokens-limit": "8",
        "retry-after": "1",
    }


def test_the_key_is_not_in_any_header_that_comes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", [KEY])
    (head,) = came([b"{}"], {"x-request-id": f"for {KEY}"}).heads
    assert head.headers == (("x-upstream-request-id", "for ***"),)


def test_headers_without_an_end_do_not_come_down() -> None:
    # A frame has a limit, and one over it would end the link and everybody's calls.
    headers = {f"x-ratelimit-{n}": "x" * 8000 for n in range(20)}
    (head,) = came([b"{}"], {**headers, "content-type": "application/json"}).heads
    assert dict(head.headers)["content-type"] == "application/json"
    assert len(head.encode()) < 32 * 1024


def test_a_header_that_is_no_field_does_not_come_down_and_utf_8_stays_so() -> None:
    (head,) = came(
        [b"{}"], {"x-request-id": "a\x01b", "content-disposition": "x; filename=ü€"}
    ).heads
    assert head.headers == (("content-disposition", "x; filename=ü€".encode().decode("latin-1")),)
    assert Response.decode(head.encode()) == head


@pytest.mark.parametrize("pair", [["a b", "x"], ["A", "x"], ["", "x"], ["a", "x\r\ny: z"], ["a"]])
def test_what_is_no_header_field_is_no_message(pair: list[str]) -> None:
    with pytest.raises(RemoteProtocolError, match="no header fields"):
        Response.decode(json.dumps({"status": 200, "headers": [pair]}).encode())


def test_an_event_stream_comes_down_in_whole_events() -> None:
    stream = b"data: 1\n\ndata: 2\n\n"
    answered = came(one_by_one(stream), EVENTS)
    assert [piece for piece in answered.pieces if piece] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert len(answered.pieces) >= len(stream), "every read is a sign of life"


def test_what_is_compressed_in_spite_of_all_comes_down_as_it_is() -> None:
    data = gzip.compress(b"data: 1\n\n")
    answered = came(one_by_one(data), {**EVENTS, "content-encoding": "gzip"})
    assert answered.body == data
    assert ("content-encoding", "gzip") in answered.heads[0].headers


def test_a_whole_answers_usage_is_counted_and_its_bytes_are_left_alone() -> None:
    body = b'{"choices": [{"message": {"content": "' + b"x" * 100_000 + b'"}}], "usage": '
    body += COUNT + b"}"
    answered = came([*cut(body[:-30], list(range(0, len(body), 1000))), *one_by_one(body[-30:])])
    assert answered.body == body
    assert answered.end == End(input_tokens=3, output_tokens=5)


def test_no_usage_is_looked_for_in_what_is_no_json() -> None:
    answered = came([b'"usage": ' + COUNT], {"content-type": "audio/mpeg"})
    assert answered.end == End()


def test_a_transcript_comes_down_as_its_text() -> None:
    request = Request("POST", "audio/transcriptions", transcript=True)
    answered = came([b'{"text": "Hello', b' there"}'], JSON, request)
    assert answered.body == b"Hello there"
    assert answered.heads == [Response(200)]


# --- Over the SDK and its HTTP stack ------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TLS here, and reading them is most of what a client costs."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_args, **_options: None)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)


def ask(
    script: Script,
    request: Request,
    body: bytes | list[bytes] = b"",
    *,
    other: ScriptedUpstream | None = None,
    **settings: object,
) -> tuple[Answered, list[Recorded]]:
    """One request to an upstream that answers by `script`; `other` listens beside it."""
    server = ScriptedUpstream(script)

    async def scene() -> Answered:
        async with asyncio.timeout(LIMIT_S), server, other or ScriptedUpstream():
            if other is not None:
                server.script = [Status(307, {"location": f"{other.base_url}/{CHAT}"})]
            client = Upstream(a_start(server.base_url, **settings), 10)
            try:
                return await relayed(client, request, body)
            finally:
                await client.close()

    return asyncio.run(scene()), server.requests


OK: Script = [Status(200, body=b"{}")]


def test_each_header_goes_up_once_and_the_key_is_ours() -> None:
    headers = (("accept", "text/event-stream"), ("content-type", "application/json; x=y"))
    _, (recorded,) = ask(OK, Request("POST", CHAT, headers=headers), b'{"a":1}')
    assert recorded.headers["accept"] == "text/event-stream"
    assert recorded.headers["content-type"] == "application/json; x=y"
    assert recorded.headers["authorization"] == f"Bearer {KEY}"
    assert recorded.headers["accept-encoding"] == "identity"
    assert "idempotency-key" not in recorded.headers
    assert (recorded.path, recorded.body) == (f"/v1/{CHAT}", b'{"a":1}')


def asked_in_vain(
    *in_vain: Status, request: Request, body: bytes | list[bytes]
) -> tuple[Answered, list[Recorded]]:
    """The requests to an upstream that is well only after that."""
    left = [*in_vain]

    def script(recorded: Recorded) -> Script:
        return [left.pop(0)] if left else OK

    server = ScriptedUpstream(script, paths={"/v1/responses/r": script})

    async def scene() -> Answered:
        async with asyncio.timeout(LIMIT_S), server:
            client = Upstream(a_start(server.base_url), 10)
            try:
                return await relayed(client, request, body)
            finally:
                await client.close()

    return asyncio.run(scene()), server.requests


def test_what_upstream_gives_one_client_is_not_for_the_next() -> None:
    given = Headers(headers={"set-cookie": "session=of-one; Path=/", "content-type": "x/y"})
    server = ScriptedUpstream([given, Raw(b"{}")])

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), server:
            # Jars keep no cookies of addresses.
            client = Upstream(a_start(server.base_url.replace("127.0.0.1", "localhost")), 10)
            try:
                for _ in range(2):
                    answered = await relayed(client, Request("POST", CHAT), b"{}")
                    assert answered.failure is None
                    assert "of-one" not in str(answered.heads)
            finally:
                await client.close()

    asyncio.run(scene())
    assert ["cookie" in recorded.headers for recorded in server.requests] == [False, False]


def test_an_idempotency_key_is_the_same_for_all_retries() -> None:
    request = Request("POST", CHAT, headers=(("idempotency-key", "k-1"),))
    answered, requests = asked_in_vain(Status(500), Status(500), request=request, body=b"{}")
    assert answered.end == End(retries=2)
    assert [r.headers["idempotency-key"] for r in requests] == ["k-1"] * 3


def test_what_has_no_body_or_a_whole_one_is_asked_again_and_a_streamed_one_is_not() -> None:
    def count(method: str, path: str, body: bytes | list[bytes], retries: int = 2) -> int:
        request = Request(method, path, streamed=isinstance(body, list), retries=retries)
        return len(asked_in_vain(Status(500), request=request, body=body)[1])

    assert count("POST", CHAT, b"{}") == 2
    assert count("POST", CHAT, b"{}", retries=0) == 1
    assert count("GET", "responses/r", b"") == 2
    assert count("DELETE", "responses/r", b"", retries=0) == 1
    assert count("POST", CHAT, [b"{", b"}"]) == 1


def test_a_streamed_form_goes_up_with_its_boundary_and_its_length() -> None:
    request = Request(
        "POST",
        CHAT,
        headers=(("content-type", "multipart/form-data; boundary=b"),),
        model="a-much-bigger-one",
        asked_model="small",
        model_at=form_request().model_at,
        streamed=True,
        length=len(FORM),
    )
    _, (recorded,) = ask(OK, request, cut(FORM, [10, 60, 100]))
    assert recorded.headers["content-type"] == "multipart/form-data; boundary=b"
    assert recorded.headers["content-length"] == str(len(RENAMED))
    assert "transfer-encoding" not in recorded.headers
    assert recorded.body == RENAMED


@pytest.mark.parametrize("settings", [{}, {"key_header": "x-api-key", "native": CHAT}])
def test_a_redirect_does_not_carry_the_key_elsewhere(settings: dict[str, str]) -> None:
    elsewhere = ScriptedUpstream(OK)
    answered, (first,) = ask(OK, Request("POST", CHAT), b"{}", other=elsewhere, **settings)
    assert KEY in str(first.headers)
    assert answered.end == End()
    (second,) = elsewhere.requests
    assert KEY not in str(second.headers)


def test_an_errors_body_that_was_compressed_is_not_said_to_be() -> None:
    body = gzip.compress(b'{"error": {"message": "too long"}}')
    script: Script = [Status(400, {"content-encoding": "gzip"}, body)]
    answered, _ = ask(script, Request("POST", CHAT), b"{}")
    assert answered.failure is not None
    assert answered.failure.body == '{"error": {"message": "too long"}}'
    assert "content-encoding" not in dict(answered.failure.headers)


def test_an_answer_that_breaks_off_is_a_failure_and_no_end() -> None:
    answered, _ = ask([Headers(), Raw(b"data: 1\n\ndata"), Cut()], Request("POST", CHAT), b"{}")
    assert answered.body == b"data: 1\n\n"
    assert answered.failure is not None
    assert answered.failure.code == "upstream_broken"


@pytest.mark.parametrize("split", [lambda d: [d], one_by_one, lambda d: cut(d, [3, 70, 71, 300])])
def test_a_recorded_stream_comes_down_identical(split: Callable[[bytes], list[bytes]]) -> None:
    stream = b": hi\n\n" + b"".join(map(encode, cast(Any, answer("Hé", "llo 🎉"))))
    answered, _ = ask([Raw(piece) for piece in split(stream)], Request("POST", CHAT), b"{}")
    assert answered.body == stream
