"""Web pages in Chromium that ask a front-end on the same machine.

A person who runs a front-end on loopback also visits web sites. What a page of any site can send
there, with a browser's help, reaches no runner; a page of an origin that is allowed can ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrelay.http.tokens import make_line, make_token
from tests.conftest import Stage
from tests.helpers.browser import PageServer, browsing, require_chromium, text_shown
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import Delta, ScriptedUpstream, WaitFor, answer

# A page that tries everything that a page can, and reports what came of it.
PAGE = """<!doctype html>
<title>A page of another origin</title>
<iframe name="frame"></iframe>
<form target="frame" method="post" enctype="text/plain" action="FRONT_END/chat">
<textarea name="a">form</textarea>
</form>
<iframe id="sandbox" sandbox="allow-forms allow-scripts"></iframe>
<script>
const url = "FRONT_END";

async function read(path, options) {
  try {
    const response = await fetch(url + path, options);
    const text = await response.text();
    return [response.status, text, response.headers.get("X-Request-Id")?.slice(0, 4) ?? null];
  } catch (error) {
    return String(error);
  }
}

function submit() {
  return new Promise(done => {
    document.getElementsByName("frame")[0].onload = () => done("submitted");
    document.forms[0].submit();
  });
}

// The origin of what is in a sandbox is null.
function submitInSandbox() {
  const frame = document.getElementById("sandbox");
  const form = document.forms[0].outerHTML.replace("frame", "_self");
  frame.srcdoc = "<body onload=document.forms[0].submit()>" + form;
  return new Promise(done => {
    frame.onload = () => { frame.onload = () => done("submitted"); };
  });
}

const json = {"Content-Type": "application/json"};

async function run() {
  const result = {
    get: await read("/healthz"),
    text: await read("/chat", {method: "POST", body: "text"}),
    blind: await fetch(url + "/chat", {method: "POST", body: "blind", mode: "no-cors"})
      .then(response => response.type, String),
    json: await read("/chat", {method: "POST", body: '{"prompt": "object"}', headers: json}),
    missing: await read("/missing"),
    form: await submit(),
    sandbox: await submitInSandbox(),
  };
  await fetch("/report", {method: "POST", body: JSON.stringify(result)});
}
run();
</script>
"""

REFUSED = "TypeError: Failed to fetch"


@pytest.fixture
def pages() -> Iterator[PageServer]:
    require_chromium()
    with PageServer() as server:
        yield server


ACCESS = " llmrelay.access: "


def asked(front_end: FrontEndProcess, count: int, before: int = 0) -> list[str]:
    """Method, path and status of `count` requests, behind the first `before`."""
    lines = front_end.wait_for_log(ACCESS, count=before + count).splitlines()
    words = [line.partition(ACCESS)[2].split() for line in lines if ACCESS in line]
    return [" ".join(each[1:4]) for each in words[before:]]


def test_a_page_of_another_origin_reaches_no_runner(stage: Stage, pages: PageServer) -> None:
    pages.html = PAGE.replace("FRONT_END", stage.front_end.url)
    log = stage.front_end.log
    before = log.count(ACCESS)
    with browsing(pages.origin):
        result = pages.report()
    assert result == {
        "get": REFUSED, "text": REFUSED, "blind": "opaque", "json": REFUSED, "missing": REFUSED,
        "form": "submitted", "sandbox": "submitted",
    }  # fmt: skip
    # The browser sent all of it but for the POST behind the preflight.
    assert asked(stage.front_end, 7, before) == [
        "GET /healthz 403",
        "POST /chat 403",
        "POST /chat 403",
        "OPTIONS /chat 403",
        "GET /missing 403",
        "POST /chat 403",
        "POST /chat 403",
    ]
    assert " runner=" not in stage.front_end.log.removeprefix(log)
    assert stage.upstream.requests == []


def test_the_same_page_works_where_its_origin_is_allowed(
    sshd: OpenSSHServer, pages: PageServer
) -> None:
    with ScriptedUpstream(answer("Hello", ", ", "world")).in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url]
        with FrontEndProcess([*options, "--cors-origin", pages.origin]) as front_end:
            pages.html = PAGE.replace("FRONT_END", front_end.url)
            with browsing(pages.origin):
                result = pages.report()
            status, health, request_id = result["get"]
            assert (status, request_id) == (200, "req_")
            assert '"status": "ok"' in health
            for way in ("text", "json"):
                assert result[way] == [200, "Hello, world", "req_"]
            assert result["missing"][0] == 404
            assert asked(front_end, 8) == [
                "GET /healthz 200",
                "POST /chat 200",
                "POST /chat 200",
                "OPTIONS /chat 204",
                "POST /chat 200",
                "GET /missing 404",
                "POST /chat 200",
                "POST /chat 403",  # out of the sandbox
            ]
            prompts = [r.json["messages"][-1]["content"] for r in upstream.requests]
            assert prompts == ["text", "blind", "object", "a=form\r\n"]


STREAMING_PAGE = """<!doctype html>
<title>A page with a token</title>
<script>
async function ask(token) {
  const response = await fetch("FRONT_END/chat", {
    method: "POST", body: "hi", headers: {"Authorization": "Bearer " + token}
  });
  const code = response.headers.get("X-Error-Code");
  const texts = [];
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    texts.push(part);
    await report([response.status, code, texts]);
  }
}
const report = body => fetch("/report", {method: "POST", body: JSON.stringify(body)});
ask("unknown").then(() => ask("TOKEN"));
</script>
"""


def test_a_page_asks_with_its_token_and_reads_each_delta_as_it_comes(
    sshd: OpenSSHServer, pages: PageServer, tmp_path: Path
) -> None:
    token = make_token()
    tokens = tmp_path / "tokens"
    tokens.write_text(make_line("page", token, None, None))
    script = [Delta("first"), WaitFor("rest"), *answer("rest")]
    with ScriptedUpstream(script).in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url]
        options += ["--cors-origin", pages.origin, "--auth-tokens", str(tokens)]
        with FrontEndProcess(options) as front_end:
            page = STREAMING_PAGE.replace("FRONT_END", front_end.url)
            pages.html = page.replace("TOKEN", token)
            with browsing(pages.origin):
                status, code, _ = pages.report()
                assert (status, code) == (401, "unauthorized")
                assert pages.report() == [200, None, ["first"]]
                upstream.open("rest")
                assert pages.report() == [200, None, ["first", "rest"]]
            log = front_end.wait_for_log(" token=page")
            assert asked(front_end, 3) == ["OPTIONS /chat 204", "POST /chat 401", "POST /chat 200"]
            assert token not in log


def test_a_name_that_is_made_to_lead_here_leads_nowhere(stage: Stage) -> None:
    """DNS rebinding: to the browser the page and the front-end are of one origin."""
    require_chromium()
    before = stage.front_end.log.count(ACCESS)
    hosts = {"evil.test": "127.0.0.1"}
    shown = text_shown(f"http://evil.test:{stage.front_end.port}/healthz", hosts)
    assert "This server does not go by the name that Host has" in shown
    assert asked(stage.front_end, 1, before)[0] == "GET /healthz 421"
    assert '"status": "ok"' in text_shown(f"{stage.front_end.url}/healthz")
