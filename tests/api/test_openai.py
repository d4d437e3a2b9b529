"""What `/v1/…` takes, what of it goes up, and which model it is about."""

from __future__ import annotations

import contextlib
import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.api import openai
from llmrelay.api.openai import Subject
from llmrelay.config import Config
from llmrelay.errors import BadRequest, MethodNotAllowed, NotFound, UnsupportedMediaType
from llmrelay.http.events import Request
from runner_payload.messages import Request as UpstreamRequest
from tests.api.requests import a_request
from tests.runner_payload.forms import form

CONFIG = Config()
FORM = ("content-type", "multipart/form-data; boundary=xYzZY")


def request(path: str = "/v1/chat/completions", *headers: tuple[str, str], **said: Any) -> Request:
    return a_request(path, *headers, **said)


def goes_up(
    asked: Request, subject: Subject | None = None, *, streamed: bool = False
) -> UpstreamRequest:
    path = openai.check_head(asked, CONFIG)
    return openai.upstream_request(asked, path, subject or Subject(), "req_1", streamed=streamed)


# --- Paths and methods --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "chat/completions",
        "completions",
        "responses",
        "responses/resp_1",
        "responses/resp_1/cancel",
        "embeddings",
        "moderations",
        "images/generations",
        "images/edits",
        "audio/transcriptions",
        "audio/translations",
        "audio/speech",
        "rerank",
        "messages",
        "messages/count_tokens",
    ],
)
def test_what_clients_of_the_api_ask_for_is_there(path: str) -> None:
    assert openai.check_head(request(f"/v1/{path}"), CONFIG) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "files",
        "fine_tuning/jobs",
        "chat",
        "chat/completions/",
        "chat/completions/x",
        "chat//completions",
        "/chat/completions",
        "./chat/completions",
        "../v1/chat/completions",
        "chat/../chat/completions",
        "chat/%2e%2e/completions",
        "chat%2Fcompletions",
        "images/..",
        "images/.env",
        "images/%2e%2e",
        "images/a;b",
        "images/a\\b",
        "images/a@b",
        "audio",
        "audio/speech/x",
        "CHAT/COMPLETIONS",
    ],
)
def test_every_other_path_is_404(path: str) -> None:
    with pytest.raises(NotFound, match="--allow-path"):
        openai.check_head(request(f"/v1/{path}"), CONFIG)


def test_allow_path_says_what_there_is() -> None:
    config = Config(allowed_paths=("files/*", "x.y"))
    assert openai.check_head(request("/v1/files/f-1"), config) == "files/f-1"
    for path in ("files", "files/a/b", "files/.x", "xzy", "chat/completions"):
        with pytest.raises(NotFound):
            openai.check_head(request(f"/v1/{path}"), config)


@pytest.mark.parametrize(
    "name", ["gpt-4o", "ft:gpt-4o:org::id", "meta/llama-3", "meta%2Fllama-3", "@cf/x"]
)
def test_a_model_may_have_any_name(name: str) -> None:
    asked = request(f"/v1/models/{name}", method="GET", framing=None)
    assert openai.check_head(asked, CONFIG) == f"models/{name}"
    with pytest.raises(NotFound):
        openai.check_head(asked, Config(allowed_paths=("models",)))


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "OPTIONS"])
def test_a_method_that_the_api_does_not_have_is_405_and_says_which_there_are(method: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        openai.check_head(request(method=method), CONFIG)
    assert caught.value.allow == ("GET", "POST", "DELETE")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_list_of_models_can_only_be_read(path: str, method: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        openai.check_head(request(path, method=method), CONFIG)
    assert caught.value.allow == ("GET",)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        openai.check_head(request("/v1/responses", ("content-encoding", "gzip")), CONFIG)


@pytest.mark.parametrize(
    ("path", "headers", "repeatable"),
    [
        ("chat/completions", (), True),
        ("images/generations", (), True),
        ("audio/speech", (), True),
        ("files", (), False),
        ("batches", (), False),
        ("batches", (("idempotency-key", "k"),), True),
    ],
)
def test_only_what_does_no_more_than_cost_is_asked_twice(
    path: str, headers: tuple[tuple[str, str], ...], repeatable: bool
) -> None:
    asked = request(f"/v1/{path}", *headers)
    assert openai.is_repeatable(asked, path) is repeatable
    sent = openai.upstream_request(asked, path, Subject(), "req_1", streamed=False)
    assert sent.retries == (2 if repeatable else 0)


# --- What goes up -------------------------------------------------------------------------------


def test_of_the_clients_headers_only_those_for_upstream_go_up() -> None:
    up = {
        "accept": "text/event-stream",
        "anthropic-beta": "a",
        "anthropic-version": "b",
        "idempotency-key": "k 1",
        "openai-beta": "c",
        "x-client-request-id": "mine",
        "http-referer": "https://x.example",
        "x-title": "d",
    }
    stays = {
        "authorization": "Bearer token",
        "x-api-key": "token",
        "api-key": "token",
        "cookie": "a=b",
        "host": "localhost",
        "openai-organization": "org",
        "openai-project": "p",
        "x-forwarded-for": "1.2.3.4",
        "forwarded": "for=x",
        "via": "1.1 x",
        "connection": "close",
        "content-length": "2",
        "transfer-encoding": "chunked",
        "expect": "100-continue",
        "accept-encoding": "gzip",
        "user-agent": "x",
        "origin": "https://x.example",
        "x-stainless-lang": "python",
        "x-request-id": "forged",
        "proxy-authorization": "Basic x",
    }
    sent = goes_up(request("/v1/responses", *(up | stays).items()))
    assert dict(sent.headers) == up | {"content-type": "application/json"}


def test_the_request_has_our_id_as_the_clients_unless_it_has_one() -> None:
    assert dict(goes_up(request()).headers)["x-client-request-id"] == "req_1"


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_no_form_is_json_whatever_the_client_calls_it(kind: str | None) -> None:
    headers = () if kind is None else (("content-type", kind),)
    sent = goes_up(request("/v1/responses", *headers))
    assert dict(sent.headers)["content-type"] == "application/json"


def test_a_form_keeps_its_type_and_a_request_without_body_has_none() -> None:
    assert ("content-type", FORM[1]) in goes_up(request("/v1/images/edits", FORM)).headers
    bare = goes_up(request("/v1/responses/r", method="GET", framing=None))
    assert "content-type" not in dict(bare.headers)


@pytest.mark.parametrize("value", ["caf\xe9", "a\xffb"])
def test_a_header_that_cannot_go_up_is_the_clients_error(value: str) -> None:
    with pytest.raises(BadRequest, match="x-title"):
        goes_up(request("/v1/responses", ("x-title", value)))
    # One that does not go up anyway may have anything.
    assert goes_up(request("/v1/responses", ("user-agent", value)))


def test_the_upstream_request_is_the_clients() -> None:
    sent = goes_up(request(query="a=%2F&b"), Subject("m", None, True))
    assert (sent.method, sent.path, sent.query) == ("POST", "chat/completions", "a=%2F&b")
    assert (sent.model, sent.asked_model, sent.model_at) == ("m", "m", None)
    assert (sent.streamed, sent.length, sent.transcript) == (False, 2, False)
    chunked = request("/v1/images/edits", FORM, framing="chunked")
    sent = goes_up(chunked, Subject("m", 99), streamed=True)
    assert (sent.model_at, sent.streamed, sent.length) == (99, True, None)


# --- Which model: JSON --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (b"{}", Subject()),
        (b'{"model": "m"}', Subject("m")),
        (b'{"model": null, "stream": true}', Subject(None, None, True)),
        (b'{"model": "a/b:c d", "stream": false}', Subject("a/b:c d")),
        (b'{"stream": 1}', Subject()),
        (b'{"stream": "true"}', Subject()),
        ('{"model": "模型"}'.encode(), Subject("模型")),
        (b'{"messages": [{"model": "not this"}]}', Subject()),
    ],
)
def test_a_json_body_names_its_model(body: bytes, subject: Subject) -> None:
    assert openai.subject_of_json(body) == subject


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no", "not JSON"),
        (b'{"a": }', "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": -Infinity}', "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"[]", "no object"),
        (b'"x"', "no object"),
        (b"null", "no object"),
        (b'{"model": 1}', "model has to be"),
        (b'{"model": ""}', "model has to be"),
        (b'{"model": ["m"]}', "model has to be"),
        (b'{"model": "' + b"x" * 257 + b'"}', "model has to be"),
        (b'{"model": "\\ud83d"}', "model has to be"),
    ],
)
def test_a_body_that_is_no_request_is_400_and_says_why(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        openai.subject_of_json(body)


def test_a_long_body_of_nothing_but_lists_is_refused_unread_and_the_collector_goes_on() -> None:
    # To read it would hold up everybody for seconds.
    with pytest.raises(BadRequest, match="lists and objects"):
        openai.subject_of_json(b'{"a": [' + b"[]," * (1024 * 1024) + b"1]}")
    for body in (b'{"model": "m", "a": "%b"}', b'{"model": "m", "a": "%b}'):
        with contextlib.suppress(BadRequest):
            assert openai.subject_of_json(body % (b"x" * 100_000)) == Subject("m")
        assert gc.isenabled()


@given(
    st.binary(max_size=200) | st.text(max_size=50).map(lambda t: json.dumps({"model": t}).encode())
)
def test_any_body_has_a_subject_or_is_a_bad_request(body: bytes) -> None:
    try:
        subject = openai.subject_of_json(body)
    except BadRequest:
        pass
    else:
        assert subject.model is None or subject.model.encode()


# --- Which model: forms -------------------------------------------------------------------------


def field(name: str, value: bytes, filename: str = "") -> bytes:
    more = f'; filename="{filename}"' if filename else ""
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value


def subject_of(body: bytes, *, whole: bool = True) -> Subject:
    return openai.subject_of_form(request("/v1/x", FORM), body, whole=whole)


def test_a_form_names_its_model_and_where_that_stands() -> None:
    body = form(
        field("file", b"model", "a.wav"), field("model", b"whisper-1"), field("stream", b"True")
    )
    subject = subject_of(body)
    assert subject == Subject("whisper-1", body.index(b"whisper-1"), True)


@pytest.mark.parametrize(
    ("parts", "subject"),
    [
        ((), Subject()),
        ((field("stream", b"false"),), Subject()),
        ((field("model", b"a file", "model"),), Subject()),
        ((field("file", b"x", "stream"), field("stream", b"true", "x")), Subject()),
    ],
)
def test_a_form_need_not_name_one(parts: tuple[bytes, ...], subject: Subject) -> None:
    assert subject_of(form(*parts)) == subject


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form(field("model", b"a"), field("model", b"b")), "two models"),
        (form(field("model", b"")), "model has to be"),
        (form(field("model", b"x" * 257)), "model has to be"),
        (form(field("model", b"m"), end=b""), "closing boundary"),
        (b"no form", "boundary"),
    ],
)
def test_a_form_that_is_none_is_400_and_says_why(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        subject_of(body)


def test_a_form_without_a_boundary_in_its_type_is_400() -> None:
    bare = request("/v1/x", ("content-type", "multipart/form-data"))
    with pytest.raises(BadRequest, match="boundary"):
        openai.subject_of_form(bare, b"", whole=True)


def test_the_beginning_of_a_long_form_is_enough() -> None:
    body = form(field("model", b"m"), field("file", b"x" * 1000, "a.wav"))
    assert subject_of(body[:300], whole=False) == Subject("m", body.index(b"m\r\n--"))
    cut_short = body[: body.index(b"m\r\n--") + 1]
    assert subject_of(cut_short, whole=False) == Subject(), "its name may go on"


# --- The list of models -------------------------------------------------------------------------


def test_models_are_listed_as_openai_lists_them() -> None:
    model = {"id": "m", "object": "model", "created": 0, "owned_by": "x", "runners": ["gpu01"]}
    assert json.loads(openai.model_list({"m": model})) == {"object": "list", "data": [model]}
    assert json.loads(openai.one_model(model)) == model
