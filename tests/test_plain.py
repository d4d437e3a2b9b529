"""The plain endpoints over OpenSSH, asked with curl as a person does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_until
from tests.helpers.front_end import KEY, ROOT
from tests.helpers.multipart import parse_form
from tests.helpers.openai_api import OpenAIApi
from tests.helpers.upstream import (
    Cut,
    Delta,
    ErrorEvent,
    Headers,
    Raw,
    Recorded,
    Status,
    Step,
    WaitFor,
    answer,
    sse,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SOUND = b"ID3\x04\0\0" + random.Random(7).randbytes(300_000)
TRANSCRIPTIONS, SPEECH = "/v1/audio/transcriptions", "/v1/audio/speech"


def curl(stage: Stage, path: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return stage.front_end.curl(*arguments, f"{stage.front_end.url}{path}")


def told(stage: Stage, path: str, *arguments: str) -> bytes:
    """What a request that is answered well has for an answer."""
    ran = curl(stage, path, "--fail-with-body", *arguments)
    assert (ran.returncode, ran.stderr) == (0, b""), ran.stdout
    return ran.stdout


def asking(stage: Stage, path: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A request whose answer is read while it comes."""
    command = ["curl", "-sS", "-N", "--max-time", "20", *arguments, f"{stage.front_end.url}{path}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def refused(stage: Stage, path: str, *arguments: str) -> tuple[int, str]:
    """The status and the one sentence of a request that is not."""
    ran = curl(stage, path, "-i", "-H", "Expect:", *arguments)
    head, _, body = ran.stdout.decode().partition("\r\n\r\n")
    assert "\r\nContent-Type: text/plain; charset=utf-8\r\n" in head
    assert body.endswith("\n")
    assert body.count("\n") == 1
    return int(head.split(" ")[1]), body.removesuffix("\n")


def recorded(stage: Stage) -> Recorded:
    [request] = stage.script.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    return request


# --- /chat --------------------------------------------------------------------------------------


def test_a_form_asks_about_an_image(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(PNG)
    image = f"image=@{tmp_path}/photo"
    arguments = ["-F", "prompt=What is this?", "-F", image, "-F", "model=sees", "-F", "system="]
    assert told(stage, "/chat", *arguments) == b"Hello, world"
    body = recorded(stage).json
    assert (body["model"], body["stream"]) == ("sees", True)
    [message] = body["messages"]
    text, seen = message["content"]
    assert text == {"type": "text", "text": "What is this?"}
    kind, _, data = seen["image_url"]["url"].partition(",")
    assert (kind, base64.b64decode(data)) == ("data:image/png;base64", PNG)


def test_json_asks_with_a_prompt_or_a_conversation(stage: Stage) -> None:
    kind = ["-H", "Content-Type: application/json"]
    assert told(stage, "/chat", *kind, "-d", '{"prompt": "hi", "top_p": 0}') == b"Hello, world"
    body = recorded(stage).json
    assert [each["role"] for each in body["messages"]] == ["system", "user"]
    assert (body["messages"][1]["content"], body["top_p"]) == ("hi", 0)
    stage.script.requests.clear()
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert told(stage, "/chat", *kind, "-d", json.dumps({"messages": turns})) == b"Hello, world"
    assert recorded(stage).json["messages"] == turns


def test_an_answer_comes_as_events_while_it_is_made(stage: Stage) -> None:
    stage.script.script = [Delta("Grüß "), WaitFor("rest of the events"), *answer("Gott.")]
    with asking(stage, "/chat", "-H", "Accept: text/event-stream", "-d", "hi") as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline() == b'data: {"delta": "Gr\\u00fc\\u00df "}\n'
        stage.upstream.open("rest of the events")
        rest = asked.stdout.read()
    assert rest == (
        b'\ndata: {"delta": "Gott."}\n\n'
        b'data: {"model": "gpt-4o-mini", "finish_reason": "stop"}\n\n'
        b"data: [DONE]\n\n"
    )


def test_an_answer_comes_as_one_object(stage: Stage) -> None:
    stage.script.script = [*answer("Grüß ", "Gott.", finish="length")]
    said = told(stage, "/chat", "-H", "Accept: application/json", "-d", "hi")
    assert said.endswith(b"}\n")
    assert json.loads(said) == {
        "text": "Grüß Gott.",
        "model": "gpt-4o-mini",
        "finish_reason": "length",
    }


def test_of_an_object_nothing_goes_out_before_its_end_so_that_it_can_fail(stage: Stage) -> None:
    stage.script.script = [Delta("half"), ErrorEvent("out of memory")]
    status, said = refused(stage, "/chat", "-H", "Accept: application/json", "-d", "hi")
    assert (status, said) == (502, "The upstream reported: out of memory")


def test_events_end_with_what_has_gone_wrong(stage: Stage) -> None:
    stage.script.script = [Delta("half"), WaitFor("error"), ErrorEvent("out of memory")]
    with asking(stage, "/chat", "-H", "Accept: text/event-stream", "-d", "hi") as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline() == b'data: {"delta": "half"}\n'
        stage.upstream.open("error")
        kind, data = asked.stdout.read().strip().split(b"\n")
    assert kind == b"event: error"
    error = json.loads(data.removeprefix(b"data: "))["error"]
    assert error["message"] == "The upstream reported: out of memory"
    assert asked.returncode == 18  # curl: the transfer was closed with outstanding data


@pytest.mark.parametrize("depth", [500, 990, 100_000])
def test_json_that_is_nested_deeply_is_the_clients_fault(stage: Stage, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    body = f'{{"messages": [{{"role": "user", "content": {nested}}}]}}'
    response, _ = stage.front_end.request(
        "POST", "/chat", body, {"Content-Type": "application/json"}
    )
    assert response.status in (200, 400)
    assert "error=runner_failed" not in stage.front_end.log


# --- /speak and /embed --------------------------------------------------------------------------


def test_text_is_spoken_into_a_file_while_it_is_made(stage: Stage, tmp_path: Path) -> None:
    first, rest = SOUND[:50_000], SOUND[50_000:]
    kind = Headers(headers={"content-type": "audio/mpeg", "set-cookie": "__cf_bm=upstream; path=/"})
    stage.script.paths[SPEECH] = [kind, Raw(first), WaitFor("rest of the sound"), Raw(rest)]
    with socket.create_connection((stage.front_end.host, stage.front_end.port), 10) as connection:
        head = b"POST /speak HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
        connection.sendall(head)
        began = read_until(connection, first)
        assert b"set-cookie" not in began.lower()
        stage.upstream.open("rest of the sound")
        read_until(connection, rest[-1000:])
    assert recorded(stage).json == {
        "model": "gpt-4o-mini-tts",
        "input": "hi",
        "response_format": "mp3",
        "voice": "alloy",
    }
    out = tmp_path / "out.mp3"
    ran = told(stage, "/speak", "-d", "Good morning.", "-o", str(out), "-w", "%{content_type}")
    assert ran == b"audio/mpeg"
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(SOUND).digest()


def test_the_format_and_the_voice_of_speech_are_the_clients(stage: Stage) -> None:
    stage.script.paths[SPEECH] = [Status(200, {"content-type": "audio/x"}, b"sound")]
    told(stage, "/speak?format=flac&voice=nova&model=m", "-d", "hi")
    told(stage, "/speak", "-H", "Accept: audio/wav", "-d", "hi")
    first, second = (request.json for request in stage.script.requests)
    assert (first["response_format"], first["voice"], first["model"]) == ("flac", "nova", "m")
    assert (second["response_format"], second["voice"]) == ("wav", "alloy")


def test_text_is_embedded(stage: Stage) -> None:
    vector = b'{"data": [{"embedding": [0.25, -1]}],  "usage": {"prompt_tokens": 1}}'
    stage.script.paths["/v1/embeddings"] = [Status(200, body=vector)]
    assert told(stage, "/embed?dimensions=2", "-d", "Grüß Gott.") == vector
    assert recorded(stage).json == {
        "model": "text-embedding-3-small",
        "input": "Grüß Gott.",
        "dimensions": 2,
    }
    stage.front_end.wait_for_log("input_tokens=1")


# --- /transcribe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["-T", "FILE"], ["--data-binary", "@FILE"], ["-F", "file=@FILE"]], ids=" ".join
)
def test_a_recording_arrives_byte_for_byte_and_its_text_comes_down(
    stage: Stage, tmp_path: Path, arguments: list[str]
) -> None:
    path = tmp_path / "talk.mp3"
    path.write_bytes(SOUND)
    stage.script.paths[TRANSCRIPTIONS] = [Status(200, body={"text": "Grüß Gott."})]
    given = [each.replace("FILE", str(path)) for each in arguments]
    assert told(stage, "/transcribe?language=de", *given) == "Grüß Gott.".encode()
    request = recorded(stage)
    parts = {p.name: p for p in parse_form(request.headers["content-type"], request.body)}
    file = parts.pop("file")
    assert hashlib.sha256(file.data).digest() == hashlib.sha256(SOUND).digest()
    assert (file.filename or "").endswith(".mp3")
    assert {name: part.text for name, part in parts.items()} == {
        "model": "gpt-4o-mini-transcribe",
        "stream": "true",
        "language": "de",
    }


def test_text_comes_as_it_is_heard(stage: Stage) -> None:
    stage.script.paths[TRANSCRIPTIONS] = [
        Raw(sse({"type": "transcript.text.delta", "delta": "Grüß"})),
        WaitFor("rest of the text"),
        Raw(sse({"type": "transcript.text.delta", "delta": " Gott."})),
        Raw(sse({"type": "transcript.text.done", "text": "Grüß Gott."})),
    ]
    with asking(stage, "/transcribe", "--data-binary", "ID3") as asked:
        assert asked.stdout is not None
        assert asked.stdout.read(6) == "Grüß".encode()
        stage.upstream.open("rest of the text")
        assert asked.stdout.read() == b" Gott."
    assert asked.returncode == 0


@pytest.mark.parametrize(
    "steps", [[Cut()], [ErrorEvent("too loud")], []], ids=["cut", "error", "end"]
)
def test_a_transcript_that_breaks_off_never_ends_whole(stage: Stage, steps: list[Step]) -> None:
    begun = Raw(sse({"type": "transcript.text.delta", "delta": "half"}))
    gate = asyncio.Event()
    stage.script.paths[TRANSCRIPTIONS] = [begun, WaitFor(gate), *steps]
    with asking(stage, "/transcribe", "--data-binary", "ID3") as asked:
        assert asked.stdout is not None
        assert asked.stdout.read(4) == b"half"
        stage.upstream.call(gate.set)
        assert asked.stdout.read() == b""
    assert asked.returncode == 18


# --- Errors -------------------------------------------------------------------------------------

UPSTREAMS = {"/transcribe": TRANSCRIPTIONS, "/speak": SPEECH, "/embed": "/v1/embeddings"}


@pytest.mark.parametrize("path", ["/transcribe", "/speak", "/embed"])
def test_errors_are_a_sentence(stage: Stage, path: str) -> None:
    for upstreams, ours, said in (
        (Status(400, message="no such voice"), 400, "The upstream answered 400: no such voice"),
        (Status(413), 413, "The upstream answered 413: scripted error"),
        (Status(429, {"retry-after": "99"}), 429, "The upstream answered 429: scripted error"),
        (Status(404, message="no such model"), 404, "The upstream answered 404: no such model"),
    ):
        stage.script.paths[UPSTREAMS[path]] = [upstreams]
        assert refused(stage, path, "-d", "hi") == (ours, said)
    stage.script.paths[UPSTREAMS[path]] = [Status(401, message=KEY)]
    status, said = refused(stage, path, "-d", "hi")
    assert status == 502
    assert "operator" in said
    status, said = refused(stage, path, "-X", "GET")
    assert status == 405
    assert said.startswith(f"{path} takes POST")
    status, said = refused(stage, path, "-X", "POST")
    assert (status, said.partition(";")[0]) == (411, "There is no body")
    status, said = refused(stage, f"{path}?modle=x", "-d", "hi")
    assert (status, said) == (400, "There is no parameter 'modle'; did you mean model?")
    status, said = refused(stage, path, "--data-binary", "")
    assert (status, said.partition(";")[0]) == (400, "The body is empty")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-H", "Content-Type: application/json", "-d", "hi"], "The body is not JSON"),
        (["-F", "prompt=hi", "-F", "image=GIF9"], "A file of the form is no image"),
        (["-F", "image=;filename=a.png"], "A file of the form is no image"),
        (["-H", "Content-Type: multipart/form-data", "-d", "hi"], "boundary"),
    ],
)
def test_a_wrong_body_hears_what_is_wrong(stage: Stage, arguments: list[str], said: str) -> None:
    status, sentence = refused(stage, "/chat", *arguments)
    assert status == 400
    assert said in sentence
    assert stage.script.requests == []


# --- docs/http.md -------------------------------------------------------------------------------


def test_the_examples_that_are_written_down_are_answered(stage: Stage, tmp_path: Path) -> None:
    api = OpenAIApi(KEY)
    stage.script.script, stage.script.paths = api.chat, dict(api.paths)
    for name, data in (("photo.png", PNG), ("other.jpg", b"\xff\xd8\xff"), ("talk.mp3", SOUND)):
        (tmp_path / name).write_bytes(data)
    shutil.copy(tmp_path / "talk.mp3", tmp_path / "talk.m4a")
    written, _, _ = (ROOT / "docs/http.md").read_text().partition("## What can go wrong")
    examples = re.findall(r"^    \$ curl (.*?)(?: \| aplay)?$", written, re.MULTILINE)
    assert len(examples) > 10
    for example in examples:
        ran = subprocess.run(
            ["sh", "-c", f"curl -sS --fail-with-body --max-time 20 {example}"],
            cwd=tmp_path, env={**os.environ, "U": stage.front_end.url},
            capture_output=True, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, b""), (example, ran.stdout)
    assert api.complaints == []
