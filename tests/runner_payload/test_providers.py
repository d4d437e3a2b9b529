"""Each provider that is known by name, asked by the runner's own client, over a real socket.

The simulators (tests/helpers/providers.py) check what comes to them: path, the key's header, query,
Content-Type, fields. tests/test_upstreams.py asks some of them through a whole front-end.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from llmrelay.upstreams import UPSTREAMS
from runner_payload import log
from runner_payload.failures import UpstreamFailure
from runner_payload.messages import Call, End, Failure, Request, Response, Start
from runner_payload.relaying import relay
from runner_payload.upstream import Upstream
from tests.helpers import provider_answers as answers
from tests.helpers import provider_errors as errors
from tests.helpers.bare_runner import a_start
from tests.helpers.provider_requests import assert_answered, request_of
from tests.helpers.provider_rows import CASES, ROWS, base_url
from tests.helpers.providers import BREAKS, RATE_LIMITED, REVOKED, Provider

LIMIT_S = 20.0
KEY = a_start().api_key

CHATTING = [name for name, path in CASES if path == "chat/completions"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", [KEY])
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    # No TLS here, and reading the certificates is most of what a client costs.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_args, **_options: None)


def start_of(name: str, provider: Provider) -> Start:
    """What a front-end starts a runner of that upstream with."""
    row = UPSTREAMS[ROWS[name]]
    return replace(
        a_start(),
        base_url=base_url(name, provider),
        sdk=row.sdk,
        adapter=row.adapter,
        native=" ".join(row.native),
        key_header=row.key_header,
        max_tokens_field=row.max_tokens,
        ask_usage=row.usage,
    )


class Taken:
    """What comes of a request."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.end = End()
        self.failure: Failure | None = None
        self.body = b""

    def head(self, response: Response) -> None:
        assert response.status == 200
        self.headers = dict(response.headers)

    def emit(self, data: bytes) -> bool:
        self.body += data
        return True

    async def ready(self) -> None:
        """Always."""


class Asking:
    """A provider, and the runner's client for it."""

    def __init__(self, name: str, provider: Provider) -> None:
        self.provider = provider
        self.start = start_of(name, provider)
        self.upstream = Upstream(self.start, 10)

    async def ask(self, path: str, model: str = "m-1") -> Taken:
        """One request, as it comes from a front-end."""
        as_json = self.provider.takes_json(path)
        method, content_type, body = request_of(path, model, as_json=as_json)
        headers = (("content-type", content_type),) if content_type else ()
        asked_model = model if body else ""
        request = Request(method, path, headers=headers, model=asked_model, asked_model=asked_model)
        taken = Taken()
        try:
            taken.end = await relay(self.upstream, request, body, taken)
        except UpstreamFailure as error:
            taken.failure = error.failure
        assert self.provider.mistakes == []
        return taken

    async def chat(self) -> tuple[str, str | None]:
        """A prompt by the way of /chat: the text, and why it ended."""
        taken = Taken()
        end = await self.upstream.stream(Call("m-1", max_tokens=9), "hi", taken)
        assert self.provider.mistakes == []
        return taken.body.decode(), end.finish_reason


@asynccontextmanager
async def asking(name: str) -> AsyncIterator[Asking]:
    async with asyncio.timeout(LIMIT_S), Provider(name, KEY) as provider:
        each = Asking(name, provider)
        try:
            yield each
        finally:
            await each.upstream.close()


def paths_of(name: str) -> list[str]:
    return [path for case, path in CASES if case == name]


@pytest.mark.parametrize("name", ROWS)
def test_each_path_is_asked_as_the_provider_documents_it_and_answered_as_openai_does(
    name: str,
) -> None:
    async def ask() -> None:
        async with asking(name) as provider:
            for path in paths_of(name):
                taken = await provider.ask(path)
                assert taken.failure is None, path
                assert_answered(path, taken.headers["content-type"], taken.body)
                # Nothing that tells of the account: its cookies, its organization.
                assert taken.headers.keys() <= {"content-type", "x-upstream-request-id"}

    asyncio.run(ask())


@pytest.mark.parametrize("name", CHATTING)
def test_tokens_are_counted_and_not_shown_to_a_client_that_did_not_ask(name: str) -> None:
    async def ask() -> Taken:
        async with asking(name) as provider:
            return await provider.ask("chat/completions")

    taken = asyncio.run(ask())
    counted = (None, None) if name == "cohere" else (3, 5)
    assert (taken.end.input_tokens, taken.end.output_tokens) == counted
    # Those count unasked, or where a client wants the finish_reason.
    if name not in ("openrouter", "mistral", "groq", "deepseek"):
        assert b'"usage"' not in taken.body


@pytest.mark.parametrize("name", CHATTING)
def test_a_prompt_is_answered_with_text_alone(name: str) -> None:
    """By the way of /chat, where the limit of its length is called as the provider calls it."""

    async def ask() -> tuple[str, str | None]:
        async with asking(name) as provider:
            return await provider.chat()

    assert asyncio.run(ask()) == (answers.TEXT, "stop")


@pytest.mark.parametrize("name", ROWS)
def test_errors_are_told_apart_in_whatever_shape_they_come(name: str) -> None:
    # A chat's, and those of the provider's own API.
    paths = {*paths_of(name)[:1], *UPSTREAMS[ROWS[name]].native} - {"models"}

    async def ask() -> None:
        async with asking(name) as provider:
            for path in paths:
                limited = (await provider.ask(path, RATE_LIMITED)).failure
                assert limited is not None
                assert limited.code == "upstream_rate_limited"
                assert "Too many requests." in limited.message
                says_when = errors.says_when(name)
                assert limited.retry_after_s == (errors.RETRY_AFTER_S if says_when else None)
                revoked = (await provider.ask(path, REVOKED)).failure
                assert revoked is not None
                # The operator's concern: what is said of the key is nobody else's.
                assert (revoked.code, revoked.body) == ("upstream_auth", "")

    asyncio.run(ask())


def test_an_error_amid_a_stream_reaches_the_client_as_it_is() -> None:
    async def ask() -> Taken:
        async with asking("openrouter") as provider:
            return await provider.ask("chat/completions", BREAKS)

    last = json.loads(asyncio.run(ask()).body.rsplit(b"data: ", 1)[1])
    assert last["error"] == {
        "code": "server_error", "message": "Provider disconnected unexpectedly",
    }  # fmt: skip


def test_every_path_of_the_table_has_a_simulator() -> None:
    asked = {(ROWS[name], path) for name, path in CASES}
    assert asked == {(name, path) for name, row in UPSTREAMS.items() for path in row.paths}
