"""The real payload in a real process, met without SSH: its start, its calls, its ends."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from llmrelay.runners import payload
from llmrelay.runners.payload import Payload
from llmrelay.runners.provision import EXIT_OLD_PYTHON
from runner_payload import main
from runner_payload.main import SPARE_DESCRIPTORS
from runner_payload.messages import Call, End, Failure, GoAway, Hello, Key
from runner_payload.protocol import (
    MARKER,
    MAX_PAYLOAD_BYTES,
    PROTOCOL_VERSION,
    FrameDecoder,
    FrameType,
    encode_credit,
    encode_frame,
)
from tests.helpers.bare_runner import BareRunner, a_start, altered_payload, bare_runner
from tests.helpers.openssh import skip_or_fail
from tests.helpers.upstream import (
    Delta,
    Done,
    Finish,
    Pause,
    Raw,
    Script,
    ScriptedUpstream,
    Silence,
    Status,
    Step,
    WaitFor,
    answer,
    sse,
)

LIMIT_S = 30.0
EXIT_DAMAGED = 95
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "tcsh")
BASE_URL = "http://127.0.0.1:9/v1"
KEY = a_start(BASE_URL).api_key

# What a call does is its model's name: for tests that are not about openai, whose import takes
# most of a second.
SCRIPTED_UPSTREAM = """
import asyncio, ctypes, functools, os, sys, time
from .messages import End
from .reply import send

class Upstream:
    def __init__(self, start, max_connections):
        self.key = start.api_key

    async def close(self):
        pass

    def renew_key(self, key):
        self.key = key

    async def stream(self, call, prompt, answer):
        await getattr(self, call.model)(prompt, functools.partial(send, answer))
        return End("stop")

    async def echo(self, prompt, emit):
        await emit(prompt.encode())

    async def repeat(self, prompt, emit):
        await emit(b"x" * int(prompt))

    async def hang(self, prompt, emit):
        if prompt:
            await emit(prompt.encode())
        await asyncio.Event().wait()

    async def block(self, prompt, emit):
        time.sleep(60)

    async def crash(self, prompt, emit):
        raise RuntimeError("crashed with " + self.key)

    async def chatter(self, prompt, emit):
        print("stray print", flush=True)
        sys.__stdout__.write("stray write\\n")
        os.write(1, b"\\x12\\0\\0\\0\\1\\0\\0\\0\\2{}")
        os.system("echo stray child; cat")
        await emit(b"clean")
        print("stray print", flush=True)

    async def dumpable(self, prompt, emit):
        await emit(str(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)).encode())
"""


@functools.cache
def scripted() -> Payload:
    return altered_payload(upstream=SCRIPTED_UPSTREAM)


def play(
    directory: Path,
    scene: Callable[[BareRunner], Coroutine[Any, Any, None]],
    shipped: Payload | None = None,
    **options: Any,
) -> None:
    """A scene with a runner, which leaves nothing in its HOME and working directory."""

    async def limited() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            bare_runner(directory, shipped=shipped or scripted(), **options) as runner,
        ):
            await scene(runner)

    asyncio.run(limited())
    assert list(directory.iterdir()) == []


def run_command(
    command: str, blob: bytes, directory: Path, shell: str = "/bin/sh", **environment: str
) -> tuple[int, bytes, str]:
    """Status, stdout and stderr of a runner whose stdin ends behind `blob`."""
    done = subprocess.run(
        [shell, "-c", command],
        input=blob,
        capture_output=True,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def hello_in(stdout: bytes) -> Hello:
    _noise, marker, frames = stdout.partition(MARKER)
    assert marker, stdout
    ((frame_type, _, payload),) = FrameDecoder().feed(frames)
    assert frame_type == FrameType.HELLO
    return Hello.decode(payload)


# --- Interpreters and shells --------------------------------------------------------------------


@functools.cache
def interpreters() -> dict[str, str]:
    """Version (major.minor) to path, of every Python on PATH and in pyenv.

    By their names, as nothing may be run while tests are collected, which each worker does.
    """
    names = ["python3", "python2.7", *(f"python3.{minor}" for minor in range(6, 20))]
    found = [path for path in map(shutil.which, names) if path]
    # pyenv's shims are there for versions that are not active, too.
    candidates = [sys.executable, *(path for path in found if Path(path).parent.name != "shims")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates += map(str, sorted(pyenv.glob("versions/*/bin/python")))
    versions: dict[str, str] = {}
    for path in candidates:
        # Where all links end, it has its version in its name.
        if named := re.fullmatch(r"python(\d\.\d+)", Path(path).resolve().name):
            versions.setdefault(named[1], path)
    return versions


def versions(*, too_old: bool) -> list[str]:
    return sorted(
        version
        for version in interpreters()
        if (tuple(map(int, version.split("."))) < (3, 10)) == too_old
    )


@pytest.mark.parametrize("version", versions(too_old=False))
def test_every_python_from_3_10_on_says_hello(version: str, tmp_path: Path) -> None:
    python = interpreters()[version]
    shipped = payload.load()
    status, stdout, stderr = run_command(shipped.command(python), shipped.blob, tmp_path)
    assert (status, stderr) == (0, "")
    hello = hello_in(stdout)
    assert hello.protocol == PROTOCOL_VERSION
    assert hello.digest == shipped.digest
    assert hello.python.startswith(version)
    assert hello.executable
    assert hello.max_calls >= 1024
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", versions(too_old=True))
def test_a_python_that_is_too_old_says_so_with_its_version_and_path(
    version: str, tmp_path: Path
) -> None:
    python = interpreters()[version]
    shipped = payload.load()
    status, stdout, stderr = run_command(shipped.command(python), shipped.blob, tmp_path)
    assert (status, stdout) == (EXIT_OLD_PYTHON, b"")
    assert f"Python {version}" in stderr
    assert str(Path(python).parent) in stderr
    assert len(stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def mapped_files(pid: int) -> str:
    maps = Path(f"/proc/{pid}/maps")
    return maps.read_text() if maps.exists() else ""


def test_hello_names_the_openai_that_is_installed_without_importing_it(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        hello = await runner.hello()
        assert hello.openai == metadata.version("openai")
        assert hello.pid == runner.pid
        assert "jiter" not in mapped_files(runner.pid)

    play(tmp_path, scene, payload.load())


def test_a_host_that_has_uvloop_runs_on_it(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        assert "uvloop/loop" in mapped_files(runner.pid)

    play(tmp_path, scene)


def test_a_host_without_uvloop_answers_all_the_same(tmp_path: Path) -> None:
    """Its interpreter is told that it has none."""
    hiding, home = tmp_path / "hiding", tmp_path / "home"
    for folder in (hiding, home):
        folder.mkdir()
    (hiding / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
    deltas = [str(number) for number in range(50)]
    answered = "".join(deltas), End("stop")

    async def scene() -> None:
        script: Script = [*map(Delta, deltas), Finish(), Done()]
        async with (
            ScriptedUpstream(script) as upstream,
            bare_runner(home, environment={"PYTHONPATH": str(hiding)}) as runner,
        ):
            await runner.start(upstream.base_url)
            assert "uvloop/loop" not in mapped_files(runner.pid)
            for call_id in [runner.call() for _ in range(20)]:
                assert await runner.answer(call_id) == answered
            assert await runner.answer(runner.call("x" * 300_000)) == answered
            runner.end_stdin()
            assert await runner.exit_status() == 0
            assert runner.stderr == ""

    asyncio.run(scene())


def test_hello_says_how_many_calls_the_hosts_descriptors_allow(tmp_path: Path) -> None:
    """The soft limit is raised as far as the hard one."""
    python = tmp_path / "limited"
    limits = "ulimit -S -n 200\nulimit -H -n 300\n"
    python.write_text(f'#!/bin/sh\n{limits}exec {sys.executable} "$@"\n')
    python.chmod(0o700)

    async def scene() -> None:
        async with bare_runner(tmp_path, python=str(python)) as runner:
            hello = await runner.hello()
            assert hello.max_calls == 300 - SPARE_DESCRIPTORS

    asyncio.run(scene())


def test_what_a_login_sets_for_other_openai_clients_is_not_sent_upstream(tmp_path: Path) -> None:
    async def scene() -> None:
        environment = {"OPENAI_ORG_ID": "org-of-the-host", "OPENAI_CUSTOM_HEADERS": "x-host: 1"}
        async with (
            ScriptedUpstream() as upstream,
            bare_runner(tmp_path, environment=environment) as runner,
        ):
            await runner.start(upstream.base_url)
            await runner.answer(runner.call())
            headers = upstream.requests[0].headers
            assert "openai-organization" not in headers
            assert "x-host" not in headers

    asyncio.run(scene())


def test_a_python_without_openai_says_hello_and_goes_away_at_start(tmp_path: Path) -> None:
    missing = altered_payload(upstream="import a_package_that_is_not_there")

    async def scene(runner: BareRunner) -> None:
        await runner.hello()
        runner.send(FrameType.START, 0, a_start(BASE_URL))
        reason = GoAway.decode((await runner.frame(FrameType.GOAWAY)).payload).reason
        assert "openai cannot be used: ModuleNotFoundError" in reason
        assert "a_package_that_is_not_there" in reason
        runner.end_stdin()
        assert await runner.exit_status() == 0

    play(tmp_path, scene, missing)


@pytest.mark.parametrize("name", SHELLS)
def test_every_shell_reads_the_command_alike_and_noise_before_it_does_no_harm(
    name: str, tmp_path: Path
) -> None:
    shell = shutil.which(name)
    if shell is None:
        skip_or_fail(f"no {name} here")
    assert shell is not None
    shipped = payload.load()
    command = f"echo 'Welcome!'; {shipped.command(sys.executable)}"
    status, stdout, stderr = run_command(command, shipped.blob, tmp_path, shell)
    assert (status, stderr) == (0, "")
    assert stdout.startswith(b"Welcome!\n")
    assert hello_in(stdout).digest == shipped.digest


def test_the_command_leaves_no_shell_waiting_beside_the_runner(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        assert (await runner.hello()).pid == runner.pid

    play(tmp_path, scene)


# --- Damage and impostors -----------------------------------------------------------------------


def damaged(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def test_a_damaged_payload_is_not_run(tmp_path: Path) -> None:
    shipped = payload.load()
    in_a_comment = shipped.blob.index(b"# ") + 3
    for blob in (
        damaged(shipped.blob, len(shipped.blob) - 1),
        damaged(shipped.blob, shipped.bootstrap_bytes),
        damaged(shipped.blob, in_a_comment),
        shipped.blob[:-1],
        shipped.blob[: shipped.bootstrap_bytes],
    ):
        status, stdout, stderr = run_command(shipped.command(sys.executable), blob, tmp_path)
        assert (status, stdout) == (EXIT_DAMAGED, b"")
        assert "damaged" in stderr


def test_no_module_in_the_current_directory_is_imported(tmp_path: Path) -> None:
    shipped = payload.load()
    names = ["json", "zlib", "hashlib", "asyncio", "socket", "signal", "platform", "runner_payload"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('impostor {name}')")
    status, stdout, stderr = run_command(shipped.command(sys.executable), shipped.blob, tmp_path)
    assert (status, stderr) == (0, "")
    assert hello_in(stdout).digest == shipped.digest
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.py" for name in names}


def test_an_import_leaves_no_bytecode_on_the_hosts_disk(tmp_path: Path) -> None:
    home, library = tmp_path / "home", tmp_path / "library"
    home.mkdir()
    library.mkdir()
    (library / "a_library.py").write_text("")
    imports = altered_payload(upstream="import a_library\n" + SCRIPTED_UPSTREAM)

    async def scene(runner: BareRunner) -> None:
        await runner.start()

    play(home, scene, imports, environment={"PYTHONPATH": str(library)})
    assert [path.name for path in library.iterdir()] == ["a_library.py"]


def test_an_openai_in_the_current_directory_takes_no_call_and_a_refusal_hides_the_key(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("openai", "jiter", "httpx2", "uvloop"):
        (home / f"{name}.py").write_text("raise SystemExit('impostor')")

    async def main() -> None:
        async with (
            ScriptedUpstream(answer("real")) as upstream,
            bare_runner(home) as runner,
        ):
            await runner.start(upstream.base_url)
            assert await runner.answer(runner.call()) == ("real", End("stop"))
            assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
            upstream.script = [Status(422, message=f"bad value, key {KEY}")]
            text, end = await runner.answer(runner.call())
            assert text == ""
            assert isinstance(end, Failure)
            assert end.code == "upstream_unprocessable"
            assert end.message.endswith("bad value, key ***")
            runner.end_stdin()
            assert await runner.exit_status() == 0
            assert runner.stderr == ""

    asyncio.run(main())
    assert {path.suffix for path in home.iterdir()} == {".py"}


# --- The key ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="no /proc")
def test_the_key_is_in_no_argv_environment_log_or_file_and_no_core_is_dumped(
    tmp_path: Path,
) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        proc = Path(f"/proc/{runner.pid}")
        assert b"llmrelay-runner" in (proc / "cmdline").read_bytes()
        for name in ("cmdline", "environ", "comm", "status"):
            try:
                assert KEY.encode() not in (proc / name).read_bytes(), name
            except PermissionError:  # it is not dumpable, so its own user may not look
                assert name == "environ"
        limits = (proc / "limits").read_text().splitlines()
        (core,) = [line for line in limits if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        if sys.platform == "linux":
            assert (await runner.answer(runner.call(model="dumpable")))[0] == "0"
        text, end = await runner.answer(runner.call(model="crash"))
        assert isinstance(end, Failure)
        assert end.code == "runner_failed"
        assert KEY not in text + end.message
        assert "crashed with ***" in runner.stderr
        assert "RuntimeError" in runner.stderr
        assert KEY not in runner.stderr

    play(tmp_path, scene)


def test_a_start_that_cannot_be_used_shows_the_key_nowhere(tmp_path: Path) -> None:
    broken = altered_payload(
        upstream="class Upstream:\n def __init__(self, start, n): raise ValueError(start.api_key)"
    )

    async def scene(runner: BareRunner) -> None:
        await runner.hello()
        runner.send(FrameType.START, 0, a_start(BASE_URL))
        reason = (await runner.frame(FrameType.GOAWAY)).payload
        assert b"ValueError: ***" in reason
        assert KEY not in runner.stderr

    play(tmp_path, scene, broken)


def test_a_renewed_key_is_in_no_log_nor_is_the_one_before(tmp_path: Path) -> None:
    # As a key may be that the one before is a part of.
    renewed = f"{KEY}-renewed"

    async def scene(runner: BareRunner) -> None:
        await runner.start()
        for key in (KEY, renewed):
            runner.send(FrameType.KEY, 0, Key(key))
            _text, end = await runner.answer(runner.call(model="crash"))
            assert isinstance(end, Failure)
            assert runner.stderr.splitlines()[-1].endswith("RuntimeError: crashed with ***")
        assert "renewed" not in runner.stderr

    play(tmp_path, scene)


# --- Calls --------------------------------------------------------------------------------------


def test_calls_are_answered_side_by_side_and_none_is_mixed_with_another(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        prompts = {runner.call(f"{n}:" + "é" * 30_000, model="echo"): n for n in range(20)}
        for call_id, n in reversed(prompts.items()):
            assert await runner.answer(call_id) == (f"{n}:" + "é" * 30_000, End("stop"))

    play(tmp_path, scene)


def test_a_stray_print_in_a_call_corrupts_no_frame(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        for _ in range(2):
            assert await runner.answer(runner.call(model="chatter")) == ("clean", End("stop"))
        assert "stray" not in runner.stderr

    play(tmp_path, scene)


def test_a_prompt_that_is_not_utf_8_is_the_clients_error(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        runner.send(FrameType.CALL, 7, Call("echo"))
        runner.send(FrameType.DATA, 7, b"\xff")
        runner.send(FrameType.END, 7, End())
        _text, end = await runner.answer(7)
        assert isinstance(end, Failure)
        assert end.code == "bad_request"

    play(tmp_path, scene)


def test_a_call_stops_when_its_window_is_used_up_and_no_other_call_stops_with_it(
    tmp_path: Path,
) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(window_bytes=1024)
        slow = runner.call("3000", model="repeat")
        assert await runner.data(slow, 1024) == b"x" * 1024
        for _ in range(3):
            other = runner.call("quick", model="echo")
            assert await runner.answer(other) == ("quick", End("stop"))
        # PING and PONG keep their order behind whatever the slow call might have sent.
        runner.send(FrameType.PING, 0, b"12345678")
        assert (await runner.frame(FrameType.PONG)).payload == b"12345678"
        assert [frame for frame in runner.frames if frame.call_id == slow] == []
        runner.send_bytes(encode_credit(slow, 500))
        assert await runner.data(slow, 500) == b"x" * 500
        runner.send_bytes(encode_credit(slow, 100_000))
        assert await runner.answer(slow) == ("x" * 1476, End("stop"))

    play(tmp_path, scene)


def test_a_long_prompt_gets_credit_back_as_it_comes(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(window_bytes=1024)
        runner.send(FrameType.CALL, 1, Call("echo"))
        runner.send(FrameType.DATA, 1, b"a" * 1024)
        credit = await runner.frame(FrameType.CREDIT, 1)
        assert int.from_bytes(credit.payload, "big") == 1024
        runner.send(FrameType.DATA, 1, b"b" * 1024)
        await runner.frame(FrameType.CREDIT, 1)
        runner.send_bytes(encode_credit(1, 4096))
        runner.send(FrameType.END, 1, End())
        assert await runner.answer(1) == ("a" * 1024 + "b" * 1024, End("stop"))

    play(tmp_path, scene)


def test_a_kind_of_call_that_is_unknown_is_an_error_and_breaks_no_link(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        _text, end = await runner.answer(runner.call(kind="embeddings"))
        assert isinstance(end, Failure)
        assert end.code == "bad_request"
        assert await runner.answer(runner.call("on", model="echo")) == ("on", End("stop"))

    play(tmp_path, scene)


def test_cancel_closes_the_upstream_connection_and_is_confirmed_with_end(tmp_path: Path) -> None:
    async def main() -> None:
        script: list[Step] = [Delta("begun"), Silence()]
        async with ScriptedUpstream(script) as upstream, bare_runner(tmp_path) as runner:
            await runner.start(upstream.base_url)
            begun = runner.call()
            assert await runner.data(begun, 5) == b"begun"
            runner.send(FrameType.CANCEL, begun)
            assert await runner.answer(begun) == ("", End())
            async with asyncio.timeout(5):
                await upstream.requests[0].client_closed.wait()

            upstream.script = [Silence()]
            waiting = runner.call()
            await upstream.wait_for_requests(2)
            runner.send(FrameType.CANCEL, waiting)
            assert await runner.answer(waiting) == ("", End())
            async with asyncio.timeout(5):
                await upstream.requests[1].client_closed.wait()

            upstream.script = answer("next")
            assert await runner.answer(runner.call()) == ("next", End("stop"))
            assert runner.stderr == ""

    asyncio.run(main())


def test_cancel_is_confirmed_once_wherever_it_meets_the_call(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        # Before the END, right behind it in the same write, and when the call is long over.
        runner.send(FrameType.CALL, 101, Call("echo"))
        runner.send(FrameType.DATA, 101, b"never asked")
        runner.send(FrameType.CANCEL, 101)
        whole = [
            encode_frame(FrameType.CALL, 102, Call("echo").encode()),
            encode_frame(FrameType.DATA, 102, b"x"),
            encode_frame(FrameType.END, 102, End().encode()),
            encode_frame(FrameType.CANCEL, 102),
        ]
        runner.send_bytes(b"".join(whole))
        assert await runner.answer(101) == ("", End())
        assert await runner.answer(102) == ("", End())
        call_id = runner.call("over", model="echo")
        assert await runner.answer(call_id) == ("over", End("stop"))
        runner.send(FrameType.CANCEL, call_id)
        # A call without credit hangs in another place.
        stuck = runner.call("1000000", model="repeat")
        await runner.frame(FrameType.DATA, stuck)
        runner.send(FrameType.CANCEL, stuck)
        assert (await runner.answer(stuck))[1] == End()
        # Every id is free again.
        runner.send_bytes(b"".join(whole[:3]))
        assert await runner.answer(102) == ("x", End("stop"))
        runner.end_stdin()
        assert await runner.rest() == []

    play(tmp_path, scene)


def test_frames_for_a_call_that_is_over_are_ignored(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        call_id = runner.call("over", model="echo")
        assert await runner.answer(call_id) == ("over", End("stop"))
        runner.send(FrameType.DATA, call_id, b"late")
        runner.send(FrameType.END, call_id, End())
        runner.send(FrameType.CANCEL, call_id)
        runner.send_bytes(encode_credit(call_id, 5))
        assert await runner.answer(runner.call("next", model="echo")) == ("next", End("stop"))
        runner.end_stdin()
        assert await runner.rest() == []
        assert await runner.exit_status() == 0

    play(tmp_path, scene)


def test_until_the_first_text_events_without_text_are_no_silence_but_comments_are(
    tmp_path: Path,
) -> None:
    """A model that thinks aloud is alive; a proxy's keep-alive does not say so of its upstream."""
    thinking = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})

    async def scene() -> None:
        slowly = [step for _ in range(6) for step in (Raw(thinking), Pause(0.09))]
        comments = [step for _ in range(60) for step in (Raw(b": alive\n\n"), Pause(0.05))]
        upstream = ScriptedUpstream(queue=[[*slowly, *answer("thought")], comments])
        async with upstream, bare_runner(tmp_path) as runner:
            # The limit after a delta is not the one before the first.
            await runner.start(upstream.base_url, timeout_s=0.4, delta_timeout_s=0.05)
            assert await runner.answer(runner.call()) == ("thought", End("stop"))
            _, end = await runner.answer(runner.call())
            assert isinstance(end, Failure)
            assert end.message == "The upstream was silent for 0.4 s before its first delta."

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("settings", "when"),
    [
        ({"timeout_s": 0.2}, "before its first delta"),
        ({"delta_timeout_s": 0.2}, "after a delta"),
    ],
)
def test_a_silent_upstream_ends_its_call_and_no_other(
    settings: dict[str, Any], when: str, tmp_path: Path
) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(**settings)
        silent = runner.call("" if "timeout_s" in settings else "begun", model="hang")
        assert await runner.answer(runner.call("quick", model="echo")) == ("quick", End("stop"))
        _text, end = await runner.answer(silent)
        assert isinstance(end, Failure)
        assert end.code == "upstream_timeout"
        assert end.message == f"The upstream was silent for 0.2 s {when}."

    play(tmp_path, scene)


def test_a_call_may_have_less_time_than_the_others(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        _text, end = await runner.answer(runner.call("", model="hang", timeout_s=0.1))
        assert isinstance(end, Failure)
        assert end.message == "The upstream was silent for 0.1 s before its first delta."

    play(tmp_path, scene)


def test_a_client_that_does_not_read_is_no_silence_of_upstream(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(window_bytes=10, delta_timeout_s=0.1)
        unread = runner.call("30", model="repeat")
        assert await runner.data(unread, 10) == b"x" * 10
        # The call that hangs shows that more than the limit has gone by.
        hanging = runner.call("x", model="hang")
        _text, end = await runner.answer(hanging)
        assert isinstance(end, Failure)
        assert end.code == "upstream_timeout"
        runner.send_bytes(encode_credit(unread, 100))
        assert await runner.answer(unread) == ("x" * 20, End("stop"))

    play(tmp_path, scene)


# --- The link's end -----------------------------------------------------------------------------


def test_stdins_end_ends_the_runner_and_its_upstream_connections_at_once(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        script: list[Step] = [Delta("begun"), Silence()]
        async with ScriptedUpstream(script) as upstream, bare_runner(tmp_path) as runner:
            await runner.start(upstream.base_url)
            call_id = runner.call()
            assert await runner.data(call_id, 5) == b"begun"
            runner.end_stdin()
            assert await runner.exit_status(limit_s=8) == 0
            async with asyncio.timeout(5):
                await upstream.requests[0].client_closed.wait()
            assert runner.stderr == ""

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_a_lapsed_lease_ends_the_runner_although_stdin_is_open(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(ping_timeout_s=0.4, ping_interval_s=0.05)
        await runner.data(runner.call("begun", model="hang"), 5)
        assert await runner.exit_status(limit_s=8) == 0
        assert "nothing from the front-end for 0.4 s" in runner.stderr

    play(tmp_path, scene)


def test_a_runner_whose_loop_hangs_is_ended_by_the_kernel(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(ping_timeout_s=0.4, ping_interval_s=0.05)
        runner.call(model="block")
        assert await runner.exit_status(limit_s=8) == -signal.SIGALRM

    play(tmp_path, scene)


def test_whatever_the_front_end_sends_renews_the_lease(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        begun_at = time.monotonic()
        await runner.start(ping_timeout_s=0.4, ping_interval_s=0.05)
        while time.monotonic() < begun_at + 0.8:
            ping = await runner.frame(FrameType.PING)
            assert len(ping.payload) == 8
            runner.send(FrameType.PONG, 0, ping.payload)
        assert await runner.answer(runner.call("on", model="echo")) == ("on", End("stop"))

    play(tmp_path, scene)


def test_sigterm_says_goaway_lets_the_running_call_finish_and_ends_with_0(tmp_path: Path) -> None:
    async def main() -> None:
        script: list[Step] = [Delta("first "), WaitFor("go"), Delta("last"), Finish(), Done()]
        async with ScriptedUpstream(script) as upstream, bare_runner(tmp_path) as runner:
            await runner.start(upstream.base_url)
            running = runner.call()
            assert await runner.data(running, 6) == b"first "
            runner.terminate()
            reason = GoAway.decode((await runner.frame(FrameType.GOAWAY)).payload).reason
            assert "SIGTERM" in reason
            _text, refused = await runner.answer(runner.call())
            assert isinstance(refused, Failure)
            assert refused.code == "runner_lost"
            upstream.open("go")
            assert await runner.answer(running) == ("last", End("stop"))
            assert await runner.exit_status(limit_s=8) == 0
            assert len(upstream.requests) == 1

    asyncio.run(main())


def test_an_idle_runner_ends_at_once_on_sigterm_and_on_goaway(tmp_path: Path) -> None:
    async def terminated(runner: BareRunner) -> None:
        await runner.start()
        runner.terminate()
        assert [frame.type for frame in await runner.rest()] == [FrameType.GOAWAY]
        assert await runner.exit_status() == 0

    async def dismissed(runner: BareRunner) -> None:
        await runner.start()
        runner.send(FrameType.GOAWAY, 0, GoAway("drained"))
        assert await runner.exit_status() == 0

    play(tmp_path, terminated)
    play(tmp_path, dismissed)


def test_an_answer_that_a_slow_channel_has_not_taken_yet_survives_the_drain(
    tmp_path: Path,
) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start(window_bytes=1 << 20)
        call_id = runner.call("900000", model="repeat")
        runner.send(FrameType.GOAWAY, 0, GoAway("drained"))
        assert await runner.answer(call_id) == ("x" * 900_000, End("stop"))
        assert await runner.exit_status() == 0

    play(tmp_path, scene)


def test_an_interrupt_and_a_hangup_are_the_front_ends_business(tmp_path: Path) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.start()
        runner.process.send_signal(signal.SIGINT)
        runner.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            assert await runner.answer(runner.call("on", model="echo")) == ("on", End("stop"))
        runner.end_stdin()
        assert await runner.exit_status() == 0
        assert runner.stderr == ""

    # Whoever runs the tests in the background ignores them already, and a child inherits that.
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGHUP)]
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        play(tmp_path, scene)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


# --- A front-end that breaks the protocol -------------------------------------------------------

CALL = encode_frame(FrameType.CALL, 1, Call("hang").encode())
END = encode_frame(FrameType.END, 1, End().encode())
VIOLATIONS = {
    "an unknown frame type": (b"\x63" + bytes(8), "unknown type 99"),
    "no frame at all": (b"GET / HTTP/1.1\r\n\r\n", "unknown type"),
    "HELLO": (encode_frame(FrameType.HELLO, 0, b"{}"), "HELLO to a runner"),
    "ERROR": (encode_frame(FrameType.ERROR, 1, b"{}"), "ERROR to a runner"),
    "a second START": (
        encode_frame(FrameType.START, 0, a_start(BASE_URL).encode()),
        "a second START",
    ),
    "a second CALL of that id": (CALL + CALL, "call 1 is under way"),
    "a second END": (CALL + END + END, "a second END"),
    "DATA behind END": (CALL + END + encode_frame(FrameType.DATA, 1, b"x"), "DATA after END"),
    "a CALL without a model": (encode_frame(FrameType.CALL, 1, b"{}"), "Call without model"),
    "a frame over its limit": (
        encode_frame(FrameType.PING, 0, bytes(MAX_PAYLOAD_BYTES[FrameType.PING] + 1)),
        "the limit is 8",
    ),
    "a prompt over the limit": (
        CALL + encode_frame(FrameType.DATA, 1, b"x" * 2001),
        "a body over the limit",
    ),
    "more than the credit": (
        CALL + encode_frame(FrameType.DATA, 1, b"x" * 1001),
        "more bytes than the call's credit",
    ),
    "CREDIT beyond all windows": (CALL + encode_credit(1, 2**32 - 1), "more credit"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_of_the_protocol_ends_the_runner_with_status_1(
    name: str, tmp_path: Path
) -> None:
    data, said = VIOLATIONS[name]

    async def scene(runner: BareRunner) -> None:
        await runner.start(max_body_bytes=2000, window_bytes=1000)
        runner.send_bytes(data)
        assert await runner.exit_status() == 1
        assert said in runner.stderr
        assert "the front-end broke the protocol" in runner.stderr
        assert len(runner.stderr.splitlines()) == 1

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("frame", "name"),
    [(CALL, "CALL"), (encode_frame(FrameType.KEY, 0, Key(KEY).encode()), "KEY")],
)
def test_a_call_or_a_key_before_ready_ends_the_runner_with_status_1(
    frame: bytes, name: str, tmp_path: Path
) -> None:
    async def scene(runner: BareRunner) -> None:
        await runner.hello()
        runner.send_bytes(frame)
        assert await runner.exit_status() == 1
        assert f"{name} before READY" in runner.stderr
        assert KEY not in runner.stderr

    play(tmp_path, scene)


def test_the_sdk_finds_no_client_that_it_would_import_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiohttp takes a third of a second; what is imported with it shows whether the SDK copes."""

    def import_upstream(name: str) -> None:
        assert name == "runner_payload.upstream"
        with pytest.raises(ImportError):
            import aiohttp  # noqa: F401

    monkeypatch.setattr(main, "import_module", import_upstream)
    with patch.dict(sys.modules):
        sys.modules.pop("aiohttp", None)
        main._import_upstream()
