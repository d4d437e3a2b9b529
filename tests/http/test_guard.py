from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmrelay.config import Config
from llmrelay.errors import (
    BadRequest,
    Forbidden,
    MisdirectedRequest,
    NotFound,
    QueueFull,
    RateLimited,
    Unauthorized,
    UnusableConfig,
)
from llmrelay.http.events import Request
from llmrelay.http.exchange import Exchange, Handler
from llmrelay.http.guard import Admission, Guard, require_credentials
from llmrelay.http.server import Server
from llmrelay.http.tokens import Tokens
from llmrelay.values import ListenAddress, parse_allowed_host

from .conftest import Run
from .live import Client, echo, get, post, render_error
from .parsing import a_request


def check(request: Request, *, loopback: bool, **options: Any) -> Admission:
    return Guard(Config(**options)).check(request, loopback=loopback)


LOOPBACK = [
    "localhost", "LocalHost:8080", "localhost.", "app.localhost", "a.b.localhost:1", "127.0.0.1",
    "127.0.0.1:80", "127.255.0.9:8080", "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]",
]  # fmt: skip
ELSEWHERE = [
    "evil.example", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
    "128.0.0.1", "0.0.0.0", "127.1", "0x7f.0.0.1", "2130706433", "[::]", "[::2]", "192.168.0.1:80",
    "[v1.x]", "[vF.a:b]:80",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_on_loopback_a_loopback_name_passes(host: str) -> None:
    check(a_request(host), loopback=True)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_on_loopback_another_name_is_misdirected_and_elsewhere_it_passes(host: str) -> None:
    with pytest.raises(MisdirectedRequest):
        check(a_request(host), loopback=True)
    check(a_request(host), loopback=False)


def test_the_authority_of_absolute_form_counts_and_not_host() -> None:
    line = "GET http://evil.example/ HTTP/1.1"
    with pytest.raises(MisdirectedRequest):
        check(a_request("localhost", line=line), loopback=True)


def test_http_1_0_without_host_comes_from_no_browser_and_passes() -> None:
    check(a_request("", line="GET / HTTP/1.0"), loopback=True)
    with pytest.raises(Forbidden):
        check(a_request("", "Origin: http://a", line="GET / HTTP/1.0"), loopback=True)


SAME = [
    ("localhost:8080", "http://localhost:8080"),
    ("localhost:8080", "HTTP://LOCALHOST:8080"),
    ("a.example", "http://a.example"),
    ("a.example", "http://a.example:80"),
    ("a.example:80", "http://a.example"),
    ("a.example", "https://a.example"),
    ("a.example:443", "https://a.example"),
    ("[::1]:8080", "http://[::1]:8080"),
]
OTHER = [
    ("localhost:8080", "http://localhost:8081"),
    ("localhost:8080", "http://localhost"),
    ("localhost:8080", "http://127.0.0.1:8080"),
    ("a.example", "http://b.example"),
    ("a.example", "http://a.example.evil"),
    ("a.example", "http://a.example:81"),
    ("a.example:443", "http://a.example"),
    ("a.example", "null"),
    ("a.example", ""),
    ("a.example", "a.example"),
    ("a.example", "chrome-extension://a.example"),
    ("a.example", "http://a.example/"),
    ("a.example", "http://a.example, http://b.example"),
]


@pytest.mark.parametrize(("host", "origin"), SAME)
def test_a_page_of_the_same_origin_may_ask(host: str, origin: str) -> None:
    check(a_request(host, f"Origin: {origin}"), loopback=False)


@pytest.mark.parametrize(("host", "origin"), OTHER)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_may_not_ask(host: str, origin: str, method: str) -> None:
    request = a_request(host, f"Origin: {origin}", line=f"{method} / HTTP/1.1")
    with pytest.raises(Forbidden):
        check(request, loopback=False)


def test_one_good_origin_beside_a_bad_one_is_bad() -> None:
    with pytest.raises(Forbidden):
        check(a_request("a", "Origin: http://a", "Origin: http://b"), loopback=False)


@pytest.mark.parametrize(
    ("site", "may"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)],
)
def test_what_the_browser_says_of_the_page_decides_without_an_origin(site: str, may: bool) -> None:
    request = a_request("localhost", f"Sec-Fetch-Site: {site}")
    if may:
        check(request, loopback=True)
    else:
        with pytest.raises(Forbidden):
            check(request, loopback=True)


def test_curl_sends_neither_and_passes() -> None:
    check(a_request("localhost:8080", "User-Agent: curl/8"), loopback=True)


# --- Names that are allowed ---------------------------------------------------------------------

ALLOWED = tuple(map(parse_allowed_host, ["app.internal", "Other.example.:8443", "[2001:db8::1]"]))


@pytest.mark.parametrize(
    "host",
    [
        "app.internal", "APP.internal:81", "app.internal.", "other.example:8443",
        "[2001:DB8:0::1]:80", "localhost:8080", "127.0.0.1",
    ],
)  # fmt: skip
def test_a_name_that_is_allowed_passes_beside_those_of_loopback(host: str) -> None:
    for loopback in (True, False):
        check(a_request(host), loopback=loopback, allowed_hosts=ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "x.app.internal", "other.example", "other.example:80", "internal",
        "[v1.app.internal]",
    ],
)  # fmt: skip
def test_any_other_name_is_misdirected_on_every_listener(host: str) -> None:
    for loopback in (True, False):
        with pytest.raises(MisdirectedRequest):
            check(a_request(host), loopback=loopback, allowed_hosts=ALLOWED)


def test_a_port_that_goes_unsaid_is_the_scheme_s() -> None:
    for port in (80, 443):
        allowed = (parse_allowed_host(f"app.internal:{port}"),)
        check(a_request("app.internal"), loopback=True, allowed_hosts=allowed)


@pytest.mark.parametrize("host", ["192.0.2.1:80", "[2001:db8::2]"])
def test_an_address_passes_only_where_others_may_connect(host: str) -> None:
    """Health checks go by address; no page's name can become one."""
    check(a_request(host), loopback=False, allowed_hosts=ALLOWED)
    with pytest.raises(MisdirectedRequest):
        check(a_request(host), loopback=True, allowed_hosts=ALLOWED)


# --- Pages of named origins ---------------------------------------------------------------------

APP = "https://app.example"
FROM_APP = f"Origin: {APP}"
CROSS_SITE = "Sec-Fetch-Site: cross-site"


def test_a_page_of_a_named_origin_may_ask_whatever_the_browser_calls_it() -> None:
    request = a_request("localhost", FROM_APP, CROSS_SITE)
    assert not check(request, loopback=True, cors_origins=(APP,)).preflight
    with pytest.raises(Forbidden):
        check(request, loopback=True, cors_origins=("https://b.example",))


def test_a_page_that_is_not_named_stays_out() -> None:
    for fields in ([CROSS_SITE], ["Origin: null"], ["Origin: http://app.example"]):
        with pytest.raises(Forbidden):
            check(a_request("localhost", *fields), loopback=True, cors_origins=(APP,))
    for fields in ([CROSS_SITE], ["Origin: null"], ["Origin: http://app.example"]):
        check(a_request("localhost", *fields), loopback=True, cors_origins=("*",))


def test_pages_of_this_server_pass_beside_named_ones() -> None:
    same = a_request("localhost:80", "Origin: http://localhost", "Sec-Fetch-Site: same-origin")
    check(same, loopback=True, cors_origins=(APP,))


def test_a_named_origin_opens_no_other_name_of_the_server() -> None:
    with pytest.raises(MisdirectedRequest):
        check(a_request("evil.example", FROM_APP), loopback=True, cors_origins=("*",))


PREFLIGHT = "OPTIONS /chat HTTP/1.1"
ASKED = "Access-Control-Request-Method: POST"


def test_a_preflight_is_told_from_a_request_and_refused_without_a_named_origin() -> None:
    request = a_request("localhost", FROM_APP, ASKED, line=PREFLIGHT)
    assert check(request, loopback=True, cors_origins=(APP,)).preflight
    with pytest.raises(Forbidden):
        check(request, loopback=True)


# --- Tokens -------------------------------------------------------------------------------------

ALICE, BOB = "alice-has-this-one", "bob/has+this.one~=="


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """Asks for tokens everywhere but at /healthz."""
    file = tmp_path / "tokens"
    file.write_text(f"alice {ALICE} calls=1\nbob {BOB}\n")
    file.chmod(0o600)
    tokens = Tokens(file)
    tokens.load()
    return Guard(Config(cors_origins=(APP,), allow_anonymous=True), tokens, ["/healthz"])


def with_token(*values: str, path: str = "/chat") -> Request:
    fields = [f"Authorization: {value}" for value in values]
    return a_request("localhost", *fields, line=f"GET {path} HTTP/1.1")


@pytest.mark.parametrize(
    ("credentials", "name"),
    [
        (f"Bearer {ALICE}", "alice"),
        (f"bearer {ALICE}", "alice"),
        (f"BEARER   {BOB}", "bob"),
    ],
)
def test_a_known_token_says_who_asks(guard: Guard, credentials: str, name: str) -> None:
    for path in ("/chat", "/healthz"):
        admission = guard.check(with_token(credentials, path=path), loopback=False)
        assert admission.caller is not None
        assert admission.caller.name == name
        assert admission.trusted


def test_x_api_key_is_the_token_where_there_is_no_authorization(guard: Guard) -> None:
    def asked(*fields: str) -> Admission:
        return guard.check(a_request("localhost", *fields), loopback=False)

    admission = asked(f"X-Api-Key: {ALICE}")
    assert admission.caller is not None
    assert admission.caller.name == "alice"
    both = asked(f"X-Api-Key: {ALICE}", f"Authorization: Bearer {BOB}")
    assert both.caller is not None
    assert both.caller.name == "bob"
    with pytest.raises(Unauthorized):
        asked("X-Api-Key: unknown-unknown-unknown")
    with pytest.raises(BadRequest, match="twice"):
        asked(f"X-Api-Key: {ALICE}", f"X-Api-Key: {BOB}")


@pytest.mark.parametrize("values", [[], ["Basic YWxpY2U6eA=="], ["Negotiate"], [""]])
def test_without_a_token_the_challenge_says_that_one_is_needed_and_no_more(
    guard: Guard, values: list[str]
) -> None:
    with pytest.raises(Unauthorized) as refused:
        guard.check(with_token(*values), loopback=True)
    assert refused.value.challenge == 'Bearer realm="llmrelay"'


@pytest.mark.parametrize("token", [ALICE[:-1], ALICE + "x", ALICE.upper(), "x" * 1000])
def test_an_unknown_token_is_invalid(guard: Guard, token: str) -> None:
    for path in ("/chat", "/healthz"):
        with pytest.raises(Unauthorized) as refused:
            guard.check(with_token(f"Bearer {token}", path=path), loopback=True)
        assert refused.value.challenge == 'Bearer realm="llmrelay", error="invalid_token"'
        assert token not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["Bearer "],
        [f"Bearer {ALICE} {BOB}"],
        [f"Bearer {ALICE}, Bearer {BOB}"],
        [f'Bearer "{ALICE}"'],
        ["Bearer tökentökentöken"],
        [f"Bearer {ALICE}", f"Bearer {ALICE}"],
        [f"Bearer {ALICE}", "Basic eA=="],
    ],
)
def test_malformed_or_repeated_credentials_are_a_bad_request(
    guard: Guard, values: list[str]
) -> None:
    """RFC 6750, section 3.1: invalid_request."""
    with pytest.raises(BadRequest) as refused:
        guard.check(with_token(*values), loopback=True)
    assert refused.value.challenge == 'Bearer realm="llmrelay", error="invalid_request"'
    assert ALICE not in str(refused.value)


def test_a_token_in_the_query_is_none(guard: Guard) -> None:
    with pytest.raises(Unauthorized):
        guard.check(with_token(path=f"/chat?access_token={ALICE}"), loopback=True)


def test_an_open_path_needs_no_token_and_then_tells_strangers_little(guard: Guard) -> None:
    for path in ("/healthz", "/healthz?x"):
        assert guard.check(with_token(path=path), loopback=True) == Admission()
    for path in ("/healthz/", "/%68ealthz", "//healthz", "/Healthz", "*"):
        with pytest.raises(Unauthorized):
            guard.check(a_request("localhost", line=f"OPTIONS {path} HTTP/1.1"), loopback=True)


def test_a_call_counts_and_a_look_at_an_open_path_does_not(guard: Guard) -> None:
    call = guard.check(with_token(f"Bearer {ALICE}"), loopback=True)
    look = guard.check(with_token(f"Bearer {ALICE}", path="/healthz"), loopback=True)
    with call.calling(0.0), look.calling(0.0), pytest.raises(RateLimited), call.calling(0.0):
        pass
    with call.calling(0.0):
        pass


def test_a_preflight_carries_no_token_and_needs_none(guard: Guard) -> None:
    request = a_request("localhost", FROM_APP, ASKED, line=PREFLIGHT)
    assert guard.check(request, loopback=True) == Admission(preflight=True)


def test_the_page_is_looked_at_before_its_token(guard: Guard) -> None:
    with pytest.raises(Forbidden):
        guard.check(a_request("localhost", "Origin: http://b.example"), loopback=True)
    with pytest.raises(MisdirectedRequest):
        guard.check(a_request("evil.example", FROM_APP), loopback=True)
    with pytest.raises(Unauthorized):
        guard.check(a_request("localhost", FROM_APP), loopback=True)


def test_where_nobody_is_asked_a_token_means_nothing_and_loopback_is_trusted() -> None:
    """OpenAI's SDKs always send one."""
    request = with_token("Bearer x", "Bearer y")
    assert check(request, loopback=True, allow_anonymous=True) == Admission(trusted=True)
    assert check(request, loopback=False, allow_anonymous=True) == Admission(trusted=False)


# --- Who may listen -----------------------------------------------------------------------------


EVERYWHERE = [ListenAddress("0.0.0.0", 80), ListenAddress("::", 80)]


def test_whoever_connects_from_elsewhere_is_asked_for_something_or_let_in_on_purpose(
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = Path("file")
    require_credentials([], Config())
    require_credentials(EVERYWHERE, Config(auth_tokens=file))
    require_credentials(EVERYWHERE, Config(tls_cert=file, tls_client_ca=file))
    assert not caplog.records
    require_credentials(EVERYWHERE, Config(allow_anonymous=True))
    assert "whoever reaches 0.0.0.0:80 or [::]:80 can ask at the key's cost" in caplog.text
    ways_out = r"0\.0\.0\.0:80 or .* --auth-tokens FILE .* --allow-anonymous"
    for config in (Config(), Config(tls_cert=file)):
        with pytest.raises(UnusableConfig, match=ways_out):
            require_credentials(EVERYWHERE, config)


# --- Over a socket ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def guarded(guard: Guard, handler: Handler = echo) -> AsyncIterator[Server]:
    config = Config(listen=(ListenAddress("127.0.0.1", 0),))
    server = Server(config, handler, render_error, guard=guard)
    await server.start()
    try:
        yield server
    finally:
        await server.drain(0)


def test_a_preflight_is_answered_and_the_connection_goes_on(run: Run, guard: Guard) -> None:
    heard = []

    async def handler(exchange: Exchange) -> None:
        heard.append(exchange.request.method)
        await echo(exchange)

    async def subject() -> None:
        async with guarded(guard, handler) as server, Client(server) as client:
            asked = await client.ask(get("/chat", FROM_APP, ASKED, method="OPTIONS"))
            assert (asked.status, asked.body) == (204, b"")
            assert asked.headers["access-control-allow-origin"] == APP
            assert asked.headers["access-control-allow-methods"] == "POST"
            assert heard == []
            answer = await client.ask(post(b"hi", FROM_APP, f"Authorization: Bearer {BOB}"))
            assert (answer.status, answer.body) == (200, b"/ hi")
            assert heard == ["POST"]

    run(subject())


def test_every_answer_to_a_named_origin_can_be_read_there(run: Run, guard: Guard) -> None:
    async def handler(exchange: Exchange) -> None:
        match exchange.request.path:
            case "/streamed":
                exchange.start(200, [])
                exchange.write(b"x")
                exchange.finish()
            case "/none":
                raise NotFound("There is nothing here.")
            case "/full":
                raise QueueFull("Try again.", retry_after_s=1)
            case _:
                raise RuntimeError("a bug")

    async def subject() -> None:
        token = f"Authorization: Bearer {BOB}"
        async with guarded(guard, handler) as server:
            for path, fields, status in [
                ("/streamed", [token], 200),
                ("/none", [token], 404),
                ("/full", [token], 503),
                ("/bug", [token], 500),
                ("/none", [], 401),
                ("/none", ["Authorization: Bearer"], 400),
            ]:
                async with Client(server) as client:
                    response = await client.ask(get(path, FROM_APP, *fields))
                assert response.status == status
                assert response.headers["access-control-allow-origin"] == APP
                assert "X-Error-Code" in response.headers["access-control-expose-headers"]
                assert response.headers["vary"] == "Origin"
                async with Client(server) as client:
                    response = await client.ask(get(path, *fields))
                assert response.status == status
                assert "access-control-allow-origin" not in response.headers
                assert response.headers["vary"] == "Origin"

    run(subject())


def test_limits_hold_while_a_call_is_answered_and_the_log_has_names_alone(
    run: Run, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    going = asyncio.Event()
    gone = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"x")
        going.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async def subject() -> None:
        token = f"Authorization: Bearer {ALICE}"
        async with guarded(guard, handler) as server:
            async with Client(server) as first:
                first.send(get("/chat", token))
                await going.wait()
                async with Client(server) as second:
                    refused = await second.ask(post(b"hi", token))
                    assert (refused.status, refused.body) == (429, b"/ rate_limited")
                    assert refused.headers["retry-after"] == "1"
                    # The body was read, so the connection is good for more.
                    refused = await second.ask(get("/", "Authorization: Bearer unknown"))
                    assert refused.status == 401
                    assert refused.headers["www-authenticate"].endswith('error="invalid_token"')
            # The client left; the place is free again.
            await gone.wait()
            going.clear()
            async with Client(server) as third:
                third.send(get("/chat", token))
                await going.wait()

    run(subject())
    said = [r.getMessage() for r in caplog.records if r.name == "llmrelay.access"]
    assert sum(" token=alice" in line for line in said) == 3
    assert sum(" error=unauthorized" in line for line in said) == 1
    assert ALICE not in caplog.text
    assert "unknown" not in caplog.text
