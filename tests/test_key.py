"""The key goes to the runner over the channel, once, and can be found nowhere else.

One front-end over OpenSSH serves answers and every kind of failure, with everything logged; then
/proc, files and logs of both sides are searched for its key.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from llmrelay.config import Config
from llmrelay.errors import NoKey
from llmrelay.secret import Keys, Secret
from runner_payload.messages import Start
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.link_pair import a_start
from tests.helpers.openssh import OpenSSHServer, require_login_shell, require_sshd
from tests.helpers.upstream import (
    CleanEnd,
    Cut,
    Delta,
    ErrorEvent,
    ScriptedUpstream,
    Status,
    Step,
    answer,
)

# Made up for these tests alone: other tests' front-ends run beside them, with a key of their own.
KEY = f"sk-llmrelay-needle-{secrets.token_hex(8)}"
NEEDLE = KEY.encode()

# Upstreams that repeat the key in whatever they say.
FAILURES: list[list[Step]] = [
    [Status(401, message=f"Incorrect API key provided: {KEY}")],
    [Status(400, message=f"the header was 'Bearer {KEY}'")],
    [Status(429, {"retry-after": "30"}, message=f"{KEY} is over its quota")],
    [ErrorEvent(f"no capacity for {KEY}")],
    [Delta("x"), Cut()],
    [Delta("x"), CleanEnd()],
]


def processes_with_the_key() -> dict[int, str]:
    """Processes whose arguments or environment hold it, but for this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for name in ("cmdline", "environ"):
                try:
                    text = (entry / name).read_bytes()
                except OSError:  # ended, or the kernel's own
                    continue
                if NEEDLE in text:
                    found[int(entry.name)] = name
    return found


def files_with_the_key(*folders: Path) -> list[Path]:
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and NEEDLE in path.read_bytes()
    ]


def test_the_key_is_nowhere_while_it_serves_nor_after(tmp_path: Path) -> None:
    require_sshd()
    script = ScriptedUpstream(answer("fine"), queue=FAILURES)
    with (
        OpenSSHServer(login_shell=require_login_shell("bash")) as server,
        script.in_thread() as upstream,
    ):
        options = [*runner_options(server), "--base-url", upstream.base_url]
        env = {"OPENAI_API_KEY": KEY, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
        with FrontEndProcess([*options, "--log-level", "debug"], env, anew=True) as front_end:
            for _ in range(len(FAILURES) + 1):
                said = front_end.curl("-i", "-d", "hi", f"{front_end.url}/chat")
                assert NEEDLE not in said.stdout + said.stderr
            # It did go up: the search looks for the right thing.
            assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
            # Only the variable that it was given in, which the kernel keeps from the start.
            assert processes_with_the_key() == {front_end.pid: "environ"}
            assert not files_with_the_key(server.home, server.folder, tmp_path)
            front_end.stop()
            assert KEY not in front_end.log
        assert KEY not in server.log
        assert not files_with_the_key(server.home, server.folder, tmp_path)
        assert not processes_with_the_key()


def test_a_renewed_key_is_nowhere_either(tmp_path: Path) -> None:
    require_sshd()
    with OpenSSHServer() as server, ScriptedUpstream().in_thread() as upstream:
        file = tmp_path / "key"
        file.write_text(KEY)
        file.chmod(0o600)
        options = [*runner_options(server), "--base-url", upstream.base_url]
        options += ["--openai-key-file", str(file), "--log-level", "debug"]
        with FrontEndProcess(options, {"OPENAI_API_KEY": "", "TMPDIR": str(tmp_path)}) as front_end:
            assert front_end.chat()[0].status == 200
            # The searches find it, too: it begins like the one before.
            renewed = f"{KEY}-renewed"
            file.write_text(renewed)
            front_end.signal(signal.SIGHUP)
            front_end.wait_for_log("reloaded: ")
            upstream.upstream.queue.append([Status(400, message=f"the key was {renewed}")])
            assert KEY.encode() not in front_end.chat()[1]
            keys = [request.headers["authorization"] for request in upstream.requests]
            assert keys == [f"Bearer {KEY}", f"Bearer {renewed}"]
            assert not processes_with_the_key()
            assert files_with_the_key(server.folder, tmp_path) == [file]
            front_end.stop()
            assert KEY not in front_end.log
        assert KEY not in server.log


# --- Core dumps ---------------------------------------------------------------------------------


@pytest.fixture
def dumping(tmp_path: Path) -> Path:
    """A folder in which an ordinary process of this machine leaves a core dump."""
    script = f"ulimit -c unlimited && cd {tmp_path} && exec {sys.executable} -c"
    process = subprocess.Popen(["/bin/sh", "-c", f"{script} 'import os; os.abort()'"])
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not os.WCOREDUMP(status):
        pytest.skip("this machine's kernel writes no core dumps at all")
    return tmp_path


def test_neither_side_leaves_a_core_dump(dumping: Path) -> None:
    """Both sides are made to dump, with a limit that would let them."""
    require_sshd()
    with OpenSSHServer(login_shell=require_login_shell("bash")) as server:
        # The login raises the limit that its commands run with.
        (server.home / ".bashrc").write_text("ulimit -S -c unlimited\n")
        front_end = FrontEndProcess(runner_options(server))
        command = " ".join(f"'{part}'" for part in front_end.command)
        front_end.command = ["/bin/sh", "-c", f"ulimit -c unlimited; exec {command}"]
        with front_end:
            pid = int(front_end.wait_for_log(" pid ").partition(" pid ")[2].partition(",")[0])
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert "Max core file size        0                    0" in limits
            os.kill(pid, signal.SIGABRT)
            front_end.wait_for_log("SIGABRT ended it")
            front_end.signal(signal.SIGABRT)
            _, status = os.waitpid(front_end.pid, 0)
            front_end.process.returncode = os.waitstatus_to_exitcode(status)
        assert os.WTERMSIG(status) == signal.SIGABRT
        assert not os.WCOREDUMP(status)
        assert not list(server.home.glob("core*"))


# --- What holds it ------------------------------------------------------------------------------


def test_whatever_holds_the_key_shows_stars() -> None:
    secret = Secret(KEY)
    start = a_start(api_key=KEY)
    for shown in (f"{secret}", f"{secret!r}", f"{[secret]}", f"{start!r}", f"{[start]}"):
        assert KEY not in shown
        assert "***" in shown

    def fail(secret: Secret, start: Start) -> None:
        raise ValueError("what now?")

    try:
        fail(secret, start)
    except ValueError as error:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(frames.format())
    assert "what now?" in text
    assert "***" in text
    # Not in this frame's own locals either, but for the constant.
    assert KEY not in text.replace(f"KEY = '{KEY}'", "")


def test_the_variable_is_taken_out_of_the_environment() -> None:
    environ = {"OPENAI_API_KEY": f" {KEY}\n", "PATH": "/bin"}
    assert Keys(Config(), environ).read().reveal() == KEY
    assert environ == {"PATH": "/bin"}


def test_a_key_file_goes_before_the_variable_and_warns_if_anybody_can_read_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-the-file\n")
    file.chmod(0o600)
    environ = {"OPENAI_API_KEY": KEY}
    config = Config(openai_key_file=file)
    with caplog.at_level(logging.WARNING):
        assert Keys(config, environ).read().reveal() == "sk-from-the-file"
        assert not caplog.records
        assert environ == {}
        file.chmod(0o644)
        Keys(config, environ).read()
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"two words", "one word"),
        (b"line\r\nX-Injected: 1", "one word"),
        (b"\xff\xfe", "not ASCII"),
        (b"x" * 10_000, "one word"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_a_key_says_so_and_does_not_repeat_what_it_holds(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(NoKey, match=said) as raised:
        Keys(Config(openai_key_file=file), {}).read()
    assert "Injected" not in str(raised.value)


def test_on_a_terminal_the_key_is_asked_for_without_echo() -> None:
    """On a pseudo-terminal: what is typed is taken, and does not show."""
    script = (
        "import os; from llmrelay.config import Config; from llmrelay.secret import Keys;"
        "print('got', len(Keys(Config(), {}).read().reveal()))"
    )
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    with process:
        while b"OpenAI key: " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, NEEDLE + b"\n")
        while f"got {len(KEY)}".encode() not in shown:
            shown += os.read(ours, 1000)
        assert process.wait(30) == 0
    os.close(ours)
    assert NEEDLE not in shown
