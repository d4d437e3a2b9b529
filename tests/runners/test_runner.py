"""A runner's life, against a host that does to it what no real one does on demand."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrelay.errors import ConnectError, NoRunner, RunnerBroken, RunnerLost
from llmrelay.runners.backoff import Backoff
from llmrelay.runners.jump import Jumps
from llmrelay.runners.runner import Runner, State
from llmrelay.runners.slots import Slots
from llmrelay.runners.spec import HostSpec, RunnerSpec
from llmrelay.secret import Secret
from llmrelay.values import HostAddress
from runner_payload.messages import Call, GoAway, Key, Ready
from runner_payload.protocol import FrameType
from tests.helpers.link_pair import RecordingSink
from tests.helpers.played_runner import Played, get_ready
from tests.helpers.ssh_server import Command, Host, Process, ssh_server

CALL = Call(model="m")
KEY = Secret("sk-test")


def running(
    folder: Path,
    on_command: Command | None,
    scene: Callable[[Runner, Host], Awaitable[None]],
    **settings: Any,
) -> None:
    """Runs a scene beside a runner's life."""

    async def run() -> None:
        async with asyncio.timeout(30), ssh_server(folder, on_command) as host:
            config = host.config(**settings)
            spec = RunnerSpec(
                "one", HostSpec(host.address, "python3", "http://up.test", host.identity)
            )
            async with Jumps(config) as jumps:
                slots = Slots(config.connects)
                await scene(Runner(spec, KEY, config, jumps, slots, lambda _: None), host)

    asyncio.run(run())


@asynccontextmanager
async def alive(runner: Runner) -> AsyncIterator[asyncio.Task[None]]:
    """The runner's life beside the block; it ends with it, at once."""
    life = asyncio.ensure_future(runner.run())
    try:
        yield life
    finally:
        life.cancel()
        await asyncio.wait([life])


async def failing(runner: Runner) -> ConnectError:
    """Why the first attempt has failed."""
    async with alive(runner):
        error = await runner.first_attempt
    assert error is not None
    return error


def ignore(ending: object) -> None:
    """How a call ended, where that is seen elsewhere."""


async def until(runner: Runner, state: State) -> None:
    while runner.state is not state:  # noqa: ASYNC110 - a state says nothing when it changes
        await asyncio.sleep(0.01)


def test_a_host_that_starts_no_command_is_given_up_in_time(tmp_path: Path) -> None:
    async def scene(runner: Runner, host: Host) -> None:
        error = await failing(runner)
        assert isinstance(error, RunnerBroken)
        assert "within 0.3 s" in error.message

    running(tmp_path, None, scene, connect_timeout_s=0.3)


def test_a_command_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    async def silent(process: Process) -> None:
        await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        error = await failing(runner)
        assert isinstance(error, RunnerBroken)
        assert "within 0.3 s" in error.message

    running(tmp_path, silent, scene, connect_timeout_s=0.3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "0" * 64}, "not the one that was sent"),
        ({"protocol": 99}, "protocol 99"),
        ({"openai": None, "executable": "/opt/\x1b[31mpy"}, r"/opt/\?\[31mpy -m pip install"),
        ({"openai": "1.99.0"}, "1.99.0.* too old"),
        ({"openai": "junk"}, "too old"),
    ],
)
def test_hello_is_checked_before_the_key_goes_out(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    heard = b""

    async def played(process: Process) -> None:
        nonlocal heard
        await Played(process).hello(**changes)
        heard = await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        assert re.search(said, (await failing(runner)).message)

    running(tmp_path, played, scene)
    assert b"sk-test" not in heard


def test_a_runner_lost_as_it_gets_ready_is_not_ready(tmp_path: Path) -> None:
    async def played(process: Process) -> None:
        await Played(process).get_ready()
        process.exit(7)

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            await runner.first_attempt
            await until(runner, State.LOST)

    running(tmp_path, played, scene)


def test_a_runner_that_says_goaway_has_a_successor_while_its_calls_go_on(tmp_path: Path) -> None:
    starts = 0
    go_on = asyncio.Event()

    async def played(process: Process) -> None:
        nonlocal starts
        starts += 1
        runner = Played(process)
        await runner.get_ready()
        if starts == 1:
            await runner.frame(FrameType.CALL)
            runner.say(FrameType.GOAWAY, GoAway("SIGTERM\x1b[31m\nforged"))
            await go_on.wait()
            process.exit(0)
        else:
            await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            await until(runner, State.READY)
            sink = RecordingSink()
            runner.open(CALL, sink, ignore)
            await until(runner, State.LOST)
            with pytest.raises(NoRunner) as refused:
                runner.open(CALL, RecordingSink(), ignore)
            assert refused.value.retry_after_s
            await until(runner, State.READY)
            assert starts == 2
            runner.open(CALL, RecordingSink(), ignore)
            assert not sink.over.is_set()
            go_on.set()
            await sink.over.wait()
            assert isinstance(sink.result, RunnerLost)
            assert runner.state is State.READY

    running(tmp_path, played, scene)


def test_a_runner_whose_host_changes_is_replaced_without_a_gap(tmp_path: Path) -> None:
    commands: list[str] = []
    calls: list[int] = []

    async def played(process: Process) -> None:
        commands.append(process.command or "")
        number = len(commands)
        runner = Played(process)
        await runner.get_ready()
        await runner.frame(FrameType.CALL)
        calls.append(number)
        await runner.frame(FrameType.GOAWAY)
        process.exit(0)

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            await until(runner, State.READY)
            changed = replace(runner.spec, host=replace(runner.spec.host, python="/other/python"))
            runner.revise(changed, KEY)
            while len(commands) < 2:
                # All the while it takes calls.
                assert runner.state is State.READY
                await asyncio.sleep(0.001)
            first = RecordingSink()
            runner.open(CALL, first, ignore)
            await first.over.wait()
            assert calls == [1]  # the one before had it, and ended after it
            runner.open(CALL, RecordingSink(), ignore)
            while calls != [1, 2]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    running(tmp_path, played, scene)
    assert "/other/python" not in commands[0]
    assert "/other/python" in commands[1]


def test_a_change_that_comes_as_a_runner_gets_ready_leaves_no_gap_either(tmp_path: Path) -> None:
    commands = 0

    async def played(process: Process) -> None:
        nonlocal commands
        commands += 1
        await get_ready(process)

    async def scene(runner: Runner, host: Host) -> None:
        states: list[State] = []

        def look(each: Runner) -> None:
            states.append(each.state)
            if len(states) == 1:  # within the very step that makes it ready
                changed = replace(each.spec, host=replace(each.spec.host, python="/other/python"))
                each.revise(changed, KEY)

        runner._on_change = look
        async with alive(runner):
            while commands < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert set(states) == {State.READY}

    running(tmp_path, played, scene)


def test_a_change_that_needs_no_new_link_holds_at_once_and_a_new_key_goes_over(
    tmp_path: Path,
) -> None:
    starts = 0
    keys: asyncio.Queue[str] = asyncio.Queue()

    async def played(process: Process) -> None:
        nonlocal starts
        starts += 1
        runner = Played(process)
        await runner.get_ready()
        keys.put_nowait(Key.decode((await runner.frame(FrameType.KEY)).payload).api_key)
        await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            await until(runner, State.READY)
            runner.revise(replace(runner.spec, max_calls=3, weight=2.0), KEY)
            assert runner.max_calls == 3
            runner.revise(runner.spec, Secret("sk-renewed"))
            assert await keys.get() == "sk-renewed"
            assert starts == 1
            assert runner.state is State.READY

    running(tmp_path, played, scene)


def test_a_change_ends_an_attempt_that_is_of_no_use_any_more(tmp_path: Path) -> None:
    async def scene(runner: Runner, host: Host) -> None:
        real = runner.spec
        with socket.create_server(("127.0.0.1", 0)) as silent:
            wrong = HostAddress("127.0.0.1", "tester", silent.getsockname()[1])
            runner.revise(replace(real, host=replace(real.host, address=wrong)), KEY)
            async with alive(runner):
                while runner._attempting is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                runner.revise(real, KEY)
                await until(runner, State.READY)
                assert await runner.first_attempt is None

    running(tmp_path, get_ready, scene, connect_timeout_s=60.0)


def test_retry_now_ends_the_wait_of_a_lost_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next_s", lambda *_: 3600.0)
    starts = 0

    async def played(process: Process) -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            process.exit(1)
        else:
            await get_ready(process)

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            assert await runner.first_attempt is not None
            await until(runner, State.LOST)
            assert runner.retry_in_s > 3000
            runner.retry_now()
            await until(runner, State.READY)

    running(tmp_path, played, scene)


def test_a_signal_that_ended_a_runner_is_named_and_clients_hear_nothing_of_the_host(
    tmp_path: Path,
) -> None:
    async def played(process: Process) -> None:
        runner = Played(process)
        await runner.get_ready()
        await runner.frame(FrameType.CALL)
        process.exit_with_signal("KILL")

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner) as life:
            await until(runner, State.READY)
            sink = RecordingSink()
            runner.open(CALL, sink, ignore)
            await sink.over.wait()
            assert isinstance(sink.result, RunnerLost)
            assert "SIGKILL ended it" in sink.result.message
            assert runner.state is State.LOST
            with pytest.raises(NoRunner) as refused:
                runner.open(CALL, RecordingSink(), ignore)
            assert str(host.address) not in refused.value.message
            runner.stop()
            await life

    running(tmp_path, played, scene)


def test_stop_ends_a_runner_that_waits_for_its_next_attempt(tmp_path: Path) -> None:
    async def played(process: Process) -> None:
        runner = Played(process)
        await runner.get_ready()
        await runner.frame(FrameType.CALL)
        process.exit(1)

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner) as life:
            await until(runner, State.READY)
            sink = RecordingSink()
            runner.open(CALL, sink, ignore)
            await sink.over.wait()
            runner.stop()
            await life
            assert runner.state is State.STOPPED

    running(tmp_path, played, scene)


def test_a_host_with_few_descriptors_takes_fewer_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def played(process: Process) -> None:
        runner = Played(process)
        await runner.hello(max_calls=10)
        await runner.frame(FrameType.START)
        runner.say(FrameType.READY, Ready())
        await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        async with alive(runner):
            await until(runner, State.READY)
            assert runner.max_calls == 10

    running(tmp_path, played, scene)
    assert "allows 10 calls at once, not 1024" in caplog.text
