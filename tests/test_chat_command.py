"""`llmrelay chat` with a prompt: what it asks, what it prints, how it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo.terminal import ROOT
from tests.helpers.certificates import Authority
from tests.helpers.chatting import LIMIT_S, ChatOnTerminal, environment, run_chat
from tests.helpers.scripted_front_end import Asked, Script, ScriptedFrontEnd, says, stalls

TOKEN = "llmrelay-a-token"


@pytest.fixture(scope="module")
def shared_front_end() -> Iterator[ScriptedFrontEnd]:
    with ScriptedFrontEnd().serving() as running:
        yield running


@pytest.fixture
def front_end(
    shared_front_end: ScriptedFrontEnd, monkeypatch: pytest.MonkeyPatch
) -> ScriptedFrontEnd:
    """The module's, as each test finds it, where the environment says."""
    monkeypatch.delenv("LLMRELAY_TOKEN", raising=False)
    monkeypatch.setenv("LLMRELAY_URL", shared_front_end.url)
    shared_front_end.forget()
    return shared_front_end


Captured = pytest.CaptureFixture[bytes]


# --- What is asked ------------------------------------------------------------------------------


def test_a_prompt_is_asked_and_nothing_else_is_said(
    front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    assert run_chat("Explain SSH.") == 0
    assert capfdbinary.readouterr() == ("Hello, wörld".encode(), b"")
    [asked] = front_end.asked
    assert asked.body == {"messages": [{"role": "user", "content": "Explain SSH."}]}
    assert (asked.path, asked.headers["Content-Type"]) == ("/chat", "application/json")
    assert asked.headers["Accept"] == "text/event-stream"
    assert asked.headers["Authorization"] is None


def test_options_reach_the_front_end(front_end: ScriptedFrontEnd, capfdbinary: Captured) -> None:
    given = ["-m", "m1", "-s", "Be brief.", "--max-tokens", "7", "--group", "gpu", "--", "-hi"]
    assert run_chat(*given) == 0
    [asked] = front_end.asked
    assert asked.body == {
        "messages": [{"role": "user", "content": "-hi"}],
        "model": "m1", "system": "Be brief.", "max_tokens": 7, "group": "gpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "piped", "prompt"),
    [
        (["Review this"], "+ wörld\n", "Review this\n\n+ wörld\n"),
        ([], "\ufeff a\r\n\tb\n", "\ufeff a\r\n\tb\n"),
        (["Review this"], "", "Review this"),
    ],
)
def test_a_pipe_brings_the_prompt_or_what_it_is_about(
    arguments: list[str],
    piped: str,
    prompt: str,
    front_end: ScriptedFrontEnd,
    capfdbinary: Captured,
) -> None:
    assert run_chat(*arguments, piped=piped.encode()) == 0
    assert front_end.asked[0].body["messages"][0]["content"] == prompt


IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n rest",
    "image/jpeg": b"\xff\xd8\xff\xe0 rest",
    "image/gif": b"GIF89a rest",
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 rest",
}


def test_an_image_is_what_its_bytes_say(
    front_end: ScriptedFrontEnd, tmp_path: Path, capfdbinary: Captured
) -> None:
    options = ["-i", "https://example.org/cat.png"]
    for number, data in enumerate(IMAGES.values()):
        file = tmp_path / f"{number}.txt"
        file.write_bytes(data)
        options += ["-i", str(file)]
    piped = b"GIF87a piped"
    assert run_chat("What?", *options, "-i", "-", piped=piped) == 0
    text, *images = front_end.asked[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert all(image["type"] == "image_url" for image in images)
    urls = [image["image_url"]["url"] for image in images]
    assert urls == [
        "https://example.org/cat.png",
        *(f"data:{kind};base64,{base64.b64encode(b).decode()}" for kind, b in IMAGES.items()),
        f"data:image/gif;base64,{base64.b64encode(piped).decode()}",
    ]


@pytest.mark.parametrize(
    ("arguments", "piped", "said"),
    [
        ([], b"", "There is no prompt"),
        ([""], b" \n", "There is no prompt"),
        (["hi"], b"caf\xe9", "Standard input is not UTF-8: byte 0xe9 at 3."),
        (["hi"], b"\x89PNG\r\n\x1a\n", "at 0; give an image as -i -."),
        (["hi", "-i", "-"], b"%PDF", "Standard input is no PNG, JPEG, GIF or WebP image."),
        (["hi", "-i", "/no/\x1b[31m.png"], b"", "/no/?[31m.png cannot be read: No such file"),
        (["hi", "-i", "/"], b"", "/ cannot be read: Is a directory"),
        (["caf\udce9"], b"", "The question cannot be sent: it is not UTF-8."),
    ],
)
def test_what_cannot_be_asked_is_not(
    arguments: list[str],
    piped: bytes,
    said: str,
    front_end: ScriptedFrontEnd,
    capfdbinary: Captured,
) -> None:
    assert run_chat(*arguments, piped=piped) == 1
    shown, complaint = capfdbinary.readouterr()
    assert shown == b""
    assert complaint.startswith(b"llmrelay: ")
    assert said in complaint.decode()
    assert front_end.asked == []


def test_the_token_comes_from_the_environment(
    front_end: ScriptedFrontEnd, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMRELAY_TOKEN", f"{TOKEN}\n")
    assert run_chat("hi") == 0
    assert front_end.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"
    monkeypatch.setenv("LLMRELAY_TOKEN", f"{TOKEN}\r\nX: y")
    capfdbinary.readouterr()
    assert run_chat("hi") == 2
    complaint = capfdbinary.readouterr().err.decode()
    assert "LLMRELAY_TOKEN holds no token" in complaint
    assert TOKEN not in complaint


def test_url_goes_before_the_environment_and_may_have_a_path(
    front_end: ScriptedFrontEnd, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMRELAY_URL", "localhost")
    assert run_chat("hi", "--url", f"{front_end.url}/llm/") == 0
    assert front_end.asked[0].path == "/llm/chat"
    for variable, url in (
        ("", "http://h/?q"), ("", "http://h:x"), ("", "http://h..h"), ("", "http://h/ü"),
        ("", "http://[::"), ("LLMRELAY_URL", "localhost"),
    ):  # fmt: skip
        assert run_chat("hi", *([] if variable else ["--url", url])) == 2
        complaint = capfdbinary.readouterr().err.decode()
        assert url in complaint
        assert variable in complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a conversation needs a terminal"),
        (["--json"], "a conversation needs a terminal"),
        (["hi", "-i", "-"], "-i - is for a pipe"),
        (["hi", "--max-tokens", "0"], "from 1"),
        (["hi", "--url", "localhost:8080"], "no http:// or https:// URL"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    arguments: list[str], said: str, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0 or "--json" in arguments)
    assert run_chat(*arguments) == 2
    assert said in capfdbinary.readouterr().err.decode()


# --- What is printed ----------------------------------------------------------------------------


def test_into_a_pipe_an_answer_goes_as_it_is(
    front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    front_end.script = says("\x1b[31mred\r\n", "\x00\x9b", "é\u2028\n")
    assert run_chat("hi") == 0
    assert capfdbinary.readouterr() == ("\x1b[31mred\r\n\x00\x9bé\u2028\n".encode(), b"")


def test_on_a_terminal_an_answer_cannot_steer_it(
    front_end: ScriptedFrontEnd, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    front_end.script = says("\x1b[31mred\r", "\x9b\tx\ny")
    assert run_chat("hi", piped=b"a terminal is not read for a prompt") == 0
    assert front_end.asked[0].body["messages"][0]["content"] == "hi"
    assert capfdbinary.readouterr() == (b"?[31mred??\tx\ny\n", b"")


def answers_as_json(asked: Asked, answer: str = '{"text": "wörld", "usage": {"n": 1}}') -> None:
    assert asked.headers["Accept"] == "application/json"
    asked.refuse(200, answer, kind="application/json")


def test_json_is_one_object(front_end: ScriptedFrontEnd, capfdbinary: Captured) -> None:
    front_end.script = answers_as_json
    assert run_chat("--json", "hi") == 0
    shown, complaint = capfdbinary.readouterr()
    assert json.loads(shown) == {"text": "wörld", "usage": {"n": 1}}
    assert "wörld" in shown.decode()
    assert complaint == b""


@pytest.mark.parametrize("answer", ["[]", '{"text"', "[" * 100_000])
def test_json_that_is_no_answer_is_not_printed(
    answer: str, front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    front_end.script = lambda asked: answers_as_json(asked, answer)
    assert run_chat("--json", "hi") == 1
    shown, complaint = capfdbinary.readouterr()
    assert shown == b""
    assert b"none of `llmrelay serve`" in complaint


@pytest.mark.parametrize(
    ("reason", "said"), [("length", "--max-tokens"), ("content_filter", "content filter")]
)
def test_an_answer_that_ended_early_is_remarked_on(
    reason: str, said: str, front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    front_end.script = says("Hel", finish_reason=reason)
    assert run_chat("hi") == 0
    shown, complaint = capfdbinary.readouterr()
    assert shown == b"Hel"
    assert said in complaint.decode()


def test_comments_and_unknown_fields_are_passed_over(
    front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    def script(asked: Asked) -> None:
        asked.begin()
        asked.chunk(b": waiting\n\n: waiting\r\n\r\nid: 7\nretry: 1\n\n")
        for byte in b'data:{"delta":\r\ndata: "H\xc3\xb6"}\r\n\r\nevent: x\n\n':
            asked.chunk(bytes([byte]))
        asked.end()

    front_end.script = script
    assert run_chat("hi") == 0
    assert capfdbinary.readouterr() == ("Hö".encode(), b"")


# --- How it ends --------------------------------------------------------------------------------


def begins(*more: bytes) -> Script:
    """An answer that begins, and then goes wrong."""

    def script(asked: Asked) -> None:
        asked.begin()
        asked.delta("Hel")
        for data in more:
            asked.chunk(data)

    return script


def refuses(*arguments: Any, **named: Any) -> Script:
    return lambda asked: asked.refuse(*arguments, **named)


@pytest.mark.parametrize(
    ("script", "shown", "said"),
    [
        (refuses(503, "No runner is ready."), b"", "No runner is ready.\n"),
        (refuses(401, "A token is needed."), b"", "needed. `llmrelay chat` sends the one in LLM"),
        (refuses(400, "a\x1b[2J\nb"), b"", "a?[2J b\n"),
        (
            refuses(404, '{"error": {"message": "No such model."}}', kind="application/json"),
            b"",
            "No such model.\n",
        ),
        (refuses(502, "<html>", kind="text/html"), b"", "answered 502 Bad Gateway: is it"),
        (refuses(500, "[1]", kind="application/json"), b"", "answered 500"),
        (refuses(200, "Hello"), b"", "none of `llmrelay serve`, or of another version"),
        (begins(), b"Hel", "The answer was cut before its end.\n"),
        (begins(b""), b"Hel", "The answer was cut before its end.\n"),
        (begins(b"data: [DONE]", b""), b"Hel", "The answer was cut before its end.\n"),
        (
            begins(b'event: error\ndata: {"error": {"message": "Upstream fell\\n."}}\n\n'),
            b"Hel",
            "llmrelay: Upstream fell .\n",
        ),
        (begins(b'event: error\ndata: {"error": "Busy."}\n\n'), b"Hel", ": Busy.\n"),
        (begins(b"event: error\ndata: ?\n\n"), b"Hel", "The answer failed midway.\n"),
        (begins(b"data: ?\n\n"), b"Hel", "none of `llmrelay serve`"),
        (begins(b"data: []\n\n"), b"Hel", "none of `llmrelay serve`"),
        (begins(b'data: {"delta": 1}\n\n'), b"Hel", "none of `llmrelay serve`"),
        (lambda asked: asked.connection.close(), b"", "cut before an answer came"),
        (lambda asked: asked.connection.sendall(b"SSH-2.0\r\n"), b"", "speaks no HTTP"),
    ],
)
def test_an_answer_that_fails_ends_it_with_1_and_a_sentence(
    script: Script, shown: bytes, said: str, front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    front_end.script = script
    assert run_chat("hi") == 1
    printed, complaint = capfdbinary.readouterr()
    assert printed == shown
    assert complaint.startswith(b"llmrelay: ")
    assert complaint.count(b"\n") == 1
    assert said in complaint.decode()


def test_where_nothing_listens_it_says_so(capfdbinary: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert run_chat("hi", "--url", f"http://127.0.0.1:{port}") == 1
    assert b"is `llmrelay serve` running? --url" in capfdbinary.readouterr().err


def test_a_body_that_is_refused_for_its_length_is_told_so(
    front_end: ScriptedFrontEnd, capfdbinary: Captured
) -> None:
    front_end.deaf = True
    front_end.script = refuses(413, "The body is over its limit.", "content_too_large")
    assert run_chat(piped=b"x" * 16_000_000) == 1
    assert capfdbinary.readouterr().err == b"llmrelay: The body is over its limit.\n"


def test_https_asks_only_whom_the_system_trusts(
    tmp_path: Path, capfdbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    with ScriptedFrontEnd().serving(context) as front_end:
        assert run_chat("hi", "--url", front_end.url) == 1
        assert b"is not trusted" in capfdbinary.readouterr().err
        assert front_end.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
        assert run_chat("hi", "--url", front_end.url) == 0
        assert capfdbinary.readouterr().out == "Hello, wörld".encode()


def test_ctrl_c_midway_ends_it_with_130_and_the_front_end_notices(
    front_end: ScriptedFrontEnd,
) -> None:
    front_end.script = stalls("Hel", "lo")
    with ChatOnTerminal("hi", env=environment(LLMRELAY_URL=front_end.url)) as chat:
        chat.wait_for("Hello")
        chat.type("\x03")
        assert chat.wait() == 130
        assert chat.said == "^C\n"
    assert front_end.left.wait(LIMIT_S)


def test_when_nobody_reads_any_more_it_ends_quietly(front_end: ScriptedFrontEnd) -> None:
    closed = threading.Event()

    def script(asked: Asked) -> None:
        asked.begin()
        asked.delta("Hel")
        assert closed.wait(LIMIT_S)
        asked.delta("lo")
        asked.wait_until_left()

    front_end.script = script
    with subprocess.Popen(
        [sys.executable, "-m", "llmrelay", "chat", "hi"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(LLMRELAY_URL=front_end.url), cwd=ROOT,
    ) as chat:  # fmt: skip
        assert chat.stdout is not None
        assert chat.stderr is not None
        assert chat.stdout.read(3) == b"Hel"
        chat.stdout.close()
        closed.set()
        assert chat.stderr.read() == b""
        assert chat.wait(LIMIT_S) == 128 + signal.SIGPIPE
    assert front_end.left.wait(LIMIT_S)
