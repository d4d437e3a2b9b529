"""Uploads that are longer than a body that is held, over OpenSSH: they go through as they come."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Stage
from tests.helpers.answers import read_until
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.multipart import Part, parse_form
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import (
    Headers,
    Raw,
    ReadBody,
    Recorded,
    ScriptedUpstream,
    Silence,
    Status,
    WaitFor,
    sse,
)

KIB = 1024
MIB = 1024 * KIB
TARGET = "/v1/audio/transcriptions"
TEXT = Status(200, body={"text": "as was said"})
SOUND = random.Random(5).randbytes(2 * MIB)
MAX_UPLOAD_BYTES = 48 * MIB


@pytest.fixture(scope="module")
def shared(sshd: OpenSSHServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A front-end that holds little, and whose upstream knows the models by other names."""
    inventory = tmp_path_factory.mktemp("uploads") / "inventory.ini"
    inventory.write_text(
        f"only ansible_host={sshd.host} ansible_port={sshd.port} ansible_user={sshd.user}"
        ' llmrelay_model_map="tiny=a-name-that-is-longer,long-name-of-a-model=x"\n'
    )
    script = ScriptedUpstream()
    with script.in_thread() as upstream:
        options = [
            *runner_options(sshd)[2:], "--inventory", str(inventory),
            "--base-url", upstream.base_url,
            "--max-body", "64KiB", "--max-upload", str(MAX_UPLOAD_BYTES), "--heartbeat", "200ms",
        ]  # fmt: skip
        with FrontEndProcess(options) as front_end:
            yield Stage(front_end, sshd, script, upstream)


@pytest.fixture
def stage(shared: Stage) -> Stage:
    script = shared.script
    script.requests.clear()
    script.uploads.clear()
    script.paths = {TARGET: [TEXT]}
    return shared


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sound") / "talk.mp3"
    path.write_bytes(SOUND)
    return str(path)


def curl(
    stage: Stage, *arguments: str, path: str = "/transcribe"
) -> subprocess.CompletedProcess[bytes]:
    return stage.front_end.curl(*arguments, f"{stage.front_end.url}{path}")


def begin(stage: Stage, length: int, *fields: str) -> socket.socket:
    """A connection on which an upload was announced."""
    connection = socket.create_connection((stage.front_end.host, stage.front_end.port), 10)
    lines = ["POST /transcribe HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *fields]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def asked(stage: Stage) -> Recorded:
    return stage.upstream.wait_for_requests(1, 10)[0]


def form(recorded: Recorded) -> dict[str, Part]:
    parts = parse_form(recorded.headers["content-type"], recorded.body)
    assert len({part.name for part in parts}) == len(parts)
    return {part.name: part for part in parts}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-T", "FILE"],
        ["-T", "-"],  # chunked
        ["--data-binary", "@FILE"],
        ["-F", "file=@FILE"],
        ["-H", "Transfer-Encoding: chunked", "-F", "language=de", "-F", "file=@FILE"],
    ],
    ids=" ".join,
)
def test_a_long_recording_arrives_byte_for_byte(
    stage: Stage, recording: str, arguments: list[str]
) -> None:
    given = [each.replace("FILE", recording) for each in arguments]
    ran = subprocess.run(
        ["curl", "-sS", "--max-time", "20", *given, f"{stage.front_end.url}/transcribe"],
        capture_output=True, check=False, input=SOUND,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr, ran.returncode) == (b"as was said", b"", 0)
    [recorded] = stage.script.requests
    fields = form(recorded)
    assert hashlib.sha256(fields["file"].data).digest() == hashlib.sha256(SOUND).digest()
    assert fields["model"].text == "gpt-4o-mini-transcribe"
    assert fields["stream"].text == "true"
    assert fields["file"].filename
    # A length that is known goes up, too: not every upstream reads chunked coding.
    chunked = "-" in arguments or "-H" in arguments
    assert ("content-length" in recorded.headers) is not chunked


def test_upstream_has_the_first_bytes_before_the_client_has_sent_its_last(stage: Stage) -> None:
    stage.script.uploads.add(TARGET)
    stage.script.paths[TARGET] = [ReadBody(1 * KIB), WaitFor("rest"), ReadBody(), TEXT]
    with begin(stage, len(SOUND)) as connection:
        connection.sendall(SOUND[: 1 * MIB])
        recorded = asked(stage)
        stage.upstream.wait_for(recorded.body_read, 10)
        assert SOUND[: 1 * KIB // 2] in recorded.body
        stage.upstream.open("rest")
        connection.sendall(SOUND[1 * MIB :])
        read_until(connection, b"as was said")
    assert form(recorded)["file"].data == SOUND


def test_text_comes_while_the_recording_is_still_sent(stage: Stage) -> None:
    """Of the recording nothing is lost as the answer begins: neither what waits nor what comes."""
    stage.script.uploads.add(TARGET)
    stage.script.paths[TARGET] = [
        ReadBody(1 * KIB),
        Headers(),
        Raw(sse({"type": "transcript.text.delta", "delta": "as was"})),
        ReadBody(),
        Raw(sse({"type": "transcript.text.delta", "delta": " said"})),
        Raw(sse({"type": "transcript.text.done", "text": "as was said"})),
    ]
    with socket.create_connection((stage.front_end.host, stage.front_end.port), 10) as connection:
        connection.sendall(
            b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        first, rest = SOUND[: 1 * MIB], SOUND[1 * MIB :]
        connection.sendall(b"%x\r\n%b\r\n" % (len(first), first))
        read_until(connection, b"as was")
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        read_until(connection, b" said\r\n0\r\n\r\n")
    assert form(asked(stage))["file"].data == SOUND


def test_a_heartbeat_in_a_long_upload_takes_nothing_of_it(stage: Stage) -> None:
    """It begins the answer, as a client that streams will have it; the upload goes on."""
    fields = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"".join(
        [fields % (b"model", b"tiny"), fields % (b"stream", b"true"), file, SOUND, b"\r\n--b--\r\n"]
    )
    done = sse({"type": "transcript.text.done", "text": "as was said"})
    stage.script.paths[TARGET] = [Raw(done)]
    with socket.create_connection((stage.front_end.host, stage.front_end.port), 10) as connection:
        lines = [
            f"POST {TARGET} HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked",
            "Content-Type: multipart/form-data; boundary=b",
        ]  # fmt: skip
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        first, rest = body[: 1 * MIB], body[1 * MIB :]
        connection.sendall(b"%x\r\n%b\r\n" % (len(first), first))
        began = read_until(connection, b": waiting for upstream\n\n")
        assert b"Content-Type: text/event-stream" in began
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        read_until(connection, done + b"\r\n0\r\n\r\n")
    assert form(asked(stage))["file"].data == SOUND


@pytest.mark.parametrize(
    ("named", "upstreams"),
    [("tiny", "a-name-that-is-longer"), ("long-name-of-a-model", "x"), ("same", "same")],
)
def test_the_model_has_upstreams_name_in_a_form_that_streams(
    stage: Stage, recording: str, named: str, upstreams: str
) -> None:
    curl(stage, "-F", f"model={named}", "-F", f"file=@{recording}")
    curl(stage, "-T", recording, path=f"/transcribe?model={named}")
    curl(stage, "-F", f"model={named}", "-F", f"file=@{recording}", path=TARGET)
    for recorded in stage.script.requests:
        fields = form(recorded)
        assert fields["model"].text == upstreams
        assert fields["file"].data == SOUND
    assert len(stage.script.requests) == 3


def test_a_slow_upstream_makes_the_client_wait_and_nobody_holds_what_it_sends(
    stage: Stage,
) -> None:
    stage.script.uploads.add(TARGET)
    stage.script.paths[TARGET] = [ReadBody(1 * KIB), WaitFor("slow"), ReadBody()]
    before = resident_bytes(stage.front_end.pid)
    with begin(stage, MAX_UPLOAD_BYTES) as connection:
        # In six sockets' buffers and SSH's window: the kernel's, but for the last.
        assert until_stuck(connection) < 32 * MIB
        assert resident_bytes(stage.front_end.pid) - before < 8 * MIB
        recorded = asked(stage)
        assert len(recorded.body) < 1 * MIB
    stage.upstream.open("slow")
    stage.upstream.wait_for(recorded.client_closed)


def until_stuck(connection: socket.socket) -> int:
    """How much is taken of an upload before its client has to wait."""
    connection.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < MAX_UPLOAD_BYTES:
            sent += connection.send(SOUND)
    return sent


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_an_upstream_that_has_had_enough_ends_the_upload_with_its_status(stage: Stage) -> None:
    stage.script.uploads.add(TARGET)
    stage.script.paths[TARGET] = [ReadBody(1 * KIB), Status(413, message="25 MB at most")]
    with begin(stage, MAX_UPLOAD_BYTES) as connection:
        pushing = threading.Thread(target=push, args=(connection,))
        pushing.start()
        answer = read_until(connection, b"at most")
        with contextlib.suppress(OSError):  # what is pushed on has had it reset, maybe
            connection.shutdown(socket.SHUT_RDWR)
        pushing.join()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Content-Type: text/plain" in answer
    assert b"Connection: close" in answer


def push(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.send(SOUND):
            pass


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_client_that_leaves_in_its_upload_closes_upstreams_connection(
    stage: Stage, how: str
) -> None:
    stage.script.uploads.add(TARGET)
    stage.script.paths[TARGET] = [ReadBody(1 * KIB), ReadBody(), Silence()]
    with begin(stage, len(SOUND)) as connection:
        connection.sendall(SOUND[: 1 * MIB])
        recorded = asked(stage)
        stage.upstream.wait_for(recorded.body_read, 10)
        assert not recorded.client_closed.is_set()
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stage.upstream.wait_for(recorded.client_closed)


def test_an_upload_over_its_limit_is_413(stage: Stage) -> None:
    with begin(stage, MAX_UPLOAD_BYTES + 1) as connection:
        answer = read_until(connection, b"bytes.\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert stage.script.requests == []


def test_no_body_that_is_taken_is_more_than_a_runner_expects(stage: Stage) -> None:
    """It would end, and every call on it: what grows on its way up is counted before."""
    numbers = b'{"messages": [{"role": "user", "x": [%b1]}]}' % (b"1e15," * 13_000)
    escaped = b'{"prompt": "%b"}' % (b"\\u0000" * 10_900)
    form_of = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n%b\r\n--b--\r\n'
    image = form_of % (b"\x89PNG\r\n\x1a\n" + bytes(65_400))
    stage.script.paths |= {
        path: [Status(200, body={})] for path in ("/v1/embeddings", "/v1/audio/speech")
    }
    for path, kind, body in (
        ("/chat", "application/json", numbers),
        ("/chat", "application/json", escaped),
        ("/chat", "multipart/form-data; boundary=b", image),
        ("/chat", "text/plain", bytes(64 * KIB)),
        ("/speak", "text/plain", bytes(64 * KIB)),
        ("/embed", "text/plain", "ü".encode() * 32 * KIB),
        *(("/transcribe", "audio/mpeg", SOUND[: size * KIB]) for size in (64, 65, 96, 127, 129)),
    ):
        response, answer = stage.front_end.request("POST", path, body, {"Content-Type": kind})
        assert response.status in (200, 413), answer
    assert "is lost" not in stage.front_end.log


def test_what_is_held_whole_is_tried_again_and_what_goes_through_is_not(
    stage: Stage, recording: str
) -> None:
    failing = iter([Status(503), TEXT])
    stage.script.paths[TARGET] = lambda _: [next(failing)]
    ran = curl(stage, "--data-binary", "ID3 short")
    assert (ran.stdout, len(stage.script.requests)) == (b"as was said", 2)
    stage.script.requests.clear()
    stage.script.paths[TARGET] = [Status(503, message="too much to do")]
    ran = curl(stage, "-T", recording, "-w", "%{http_code}")
    assert ran.stdout == b"The upstream answered 503: too much to do\n502"
    assert len(stage.script.requests) == 1
