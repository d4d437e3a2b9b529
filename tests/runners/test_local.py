"""A command as a child of ours: what it gets, how it ends, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from llmrelay.runners import local
from llmrelay.runners.local import Child, Here

LIMIT_S = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Run = Callable[[Coroutine[Any, Any, None]], None]


class Heard:
    """Keeps what a command says."""

    def __init__(self) -> None:
        self.said = b""
        self.stderr = b""
        self.ended: list[tuple[str, int | None]] = []
        self.news = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self.said += data
        self.news.set()

    def feed_stderr(self, data: bytes) -> None:
        self.stderr += data
        self.news.set()

    def channel_lost(self, reason: str, exit_status: int | None) -> None:
        self.ended.append((reason, exit_status))
        self.news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Run to the end within LIMIT_S; asyncio may not have complained."""

    async def limited(subject: Coroutine[Any, Any, None]) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
        async with asyncio.timeout(LIMIT_S):
            await subject
        assert complaints == []

    def run_it(subject: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(limited(subject))

    return run_it


async def started(command: str) -> tuple[Here, Child, Heard]:
    here, heard = Here(), Heard()
    return here, await here.open(command, heard), heard


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_what_is_written_is_read_and_the_end_of_stdin_ends_it(run: Run) -> None:
    async def subject() -> None:
        here, child, heard = await started("echo to stderr >&2; exec cat")
        child.write(b"to stdin")
        await heard.until(lambda: heard.said == b"to stdin" and heard.stderr == b"to stderr\n")
        await here.close()
        assert heard.ended == [("it ended", 0)]
        child.write(b"to nobody")

    run(subject())


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        ("exit 3", ("it ended", 3)),
        ("exec /no/such/python3", ("it ended", 127)),
        ("kill -KILL $$", ("SIGKILL ended it", None)),
        ("kill -40 $$", ("signal 40 ended it", None)),
    ],
)
def test_one_that_ends_by_itself_says_how(
    run: Run, command: str, ended: tuple[str, int | None]
) -> None:
    async def subject() -> None:
        here, _, heard = await started(command)
        await heard.until(lambda: heard.ended)
        assert heard.ended == [ended]
        await here.close()

    run(subject())


@pytest.mark.parametrize("command", ["kill -STOP $$", "trap '' TERM HUP; exec 0<&-; sleep 60"])
def test_one_that_does_not_end_is_killed(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_END_S", 0.1)

    async def subject() -> None:
        here, _, heard = await started(command)
        await here.close()
        assert heard.ended == [("SIGKILL ended it", None)]

    run(subject())


def test_whom_it_started_is_killed_with_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_END_S", 0.1)

    async def subject() -> None:
        here, _, heard = await started("sleep 60 & echo $!; wait; sleep 60")
        await heard.until(lambda: heard.said.endswith(b"\n"))
        await here.close()
        pids.append(int(heard.said))

    pids: list[int] = []
    run(subject())
    deadline = time.monotonic() + LIMIT_S
    while lives(pids[0]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_whose_pipes_somebody_else_holds_is_not_waited_for(run: Run) -> None:
    async def subject() -> None:
        here, child, heard = await started("setsid sleep 60 & echo $!; exit 0")
        await heard.until(lambda: heard.said.endswith(b"\n"))
        await here.close()
        assert child.over.is_set()
        os.kill(int(heard.said), 9)

    run(subject())


def test_one_that_stands_still_is_killed_at_once_if_there_is_no_time(run: Run) -> None:
    async def subject() -> None:
        here, child, heard = await started("kill -STOP $$")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await here.close()
        await child.over.wait()
        assert heard.ended == [("SIGKILL ended it", None)]

    run(subject())


def test_a_prompt_that_it_does_not_read_waits(run: Run) -> None:
    async def subject() -> None:
        here, child, heard = await started("read line; echo $line; exec cat >/dev/null")
        assert not child.congested
        for _ in range(4):
            child.write(bytes(128 * 1024))
        assert child.congested
        child.write(b"\n")
        await child.writable()
        assert not child.congested
        await here.close()
        assert heard.ended == [("it ended", 0)]

    run(subject())


def test_its_environment_is_that_of_a_login(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "HOME": str(tmp_path),
        "LC_TIME": "C",
        "https_proxy": "http://proxy",
        "KEY_OF_ANOTHER_RUNNER": "sk-another",
        "NOTIFY_SOCKET": "/run/notify",
        "PYTHONPATH": "/somewhere",
    }.items():
        monkeypatch.setenv(name, value)

    async def subject() -> None:
        here, _, heard = await started("pwd; exec env")
        await heard.until(lambda: heard.ended)
        await here.close()
        first, *rest = heard.said.decode().splitlines()
        environment = dict(line.split("=", 1) for line in rest)
        assert first == str(tmp_path)
        assert environment["LC_TIME"] == "C"
        assert environment["https_proxy"] == "http://proxy"
        assert environment["PATH"] == os.environ["PATH"]
        for name in ("KEY_OF_ANOTHER_RUNNER", "NOTIFY_SOCKET", "PYTHONPATH"):
            assert name not in environment

    run(subject())
