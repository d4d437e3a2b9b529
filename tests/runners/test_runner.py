"""A runner's life, against a host that does to it what no real one does on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmrelay.errors import ConnectError, LoginRefused, NoRunner, RunnerBroken, RunnerLost
from llmrelay.runners import payload
from llmrelay.runners.runner import MIN_BACKOFF_S, Runner, State
from llmrelay.secret import Secret
from runner_payload.protocol import (
    MARKER,
    Call,
    FrameDecoder,
    FrameType,
    GoAway,
    Message,
    Ready,
    encode_frame,
)
from tests.helpers.link_pair import RecordingSink, a_hello
from tests.helpers.ssh_server import Command, Host, Process, ssh_server

CALL = Call(model="m")


class Played:
    """The runner's side of a channel, in the server's process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._decoder = FrameDecoder()

    def say(self, frame_type: FrameType, message: Message) -> None:
        self.process.stdout.write(encode_frame(frame_type, 0, message.encode()))

    async def hello(self, **changes: Any) -> None:
        """Takes the payload and says HELLO."""
        shipped = payload.load()
        await self.process.stdin.readexactly(len(shipped.blob))
        self.process.stdout.write(MARKER)
        self.say(FrameType.HELLO, a_hello(**({"digest": shipped.digest} | changes)))

    async def frame(self, frame_type: FrameType) -> None:
        """Waits for a frame of that type."""
        while True:
            data = await self.process.stdin.read(65536)
            assert data, "the front-end has gone"
            if any(frame.type == frame_type for frame in self._decoder.feed(data)):
                return

    async def get_ready(self) -> None:
        await self.hello()
        await self.frame(FrameType.START)
        self.say(FrameType.READY, Ready())


def running(
    folder: Path,
    on_command: Command | None,
    scene: Callable[[Runner, Host], Awaitable[None]],
    **settings: Any,
) -> None:
    """Runs a scene beside a runner's life."""

    async def run() -> None:
        async with asyncio.timeout(10), ssh_server(folder, on_command) as host:
            config = host.config(**settings)
            await scene(Runner(host.address, config, Secret("sk-test")), host)

    asyncio.run(run())


async def until(runner: Runner, state: State) -> None:
    while runner.state is not state:  # noqa: ASYNC110 - a state says nothing when it changes
        await asyncio.sleep(0.01)


def test_a_host_that_starts_no_command_is_given_up_in_time(tmp_path: Path) -> None:
    async def scene(runner: Runner, host: Host) -> None:
        with pytest.raises(RunnerBroken, match=r"within 0\.3 s"):
            await runner.run(lambda: None)

    running(tmp_path, None, scene, connect_timeout_s=0.3)


def test_a_command_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    async def silent(process: Process) -> None:
        await process.stdin.read()

    async def scene(runner: Runner, host: Host) -> None:
        with pytest.raises(RunnerBroken, match=r"within 0\.3 s"):
            await runner.run(lambda: None)

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
        with pytest.raises(ConnectError, match=said):
            await runner.run(lambda: None)

    running(tmp_path, played, scene)
    assert b"sk-test" not in heard


def test_a_runner_lost_as_it_gets_ready_never_was(tmp_path: Path) -> None:
    async def played(process: Process) -> None:
        await Played(process).get_ready()
        process.exit(7)

    async def scene(runner: Runner, host: Host) -> None:
        ready: list[int] = []
        life = asyncio.ensure_future(runner.run(lambda: ready.append(1)))
        await asyncio.wait([life], timeout=1)
        # Either it was lost before anybody was told, or it is seen to be lost now.
        if life.done():
            assert isinstance(life.exception(), ConnectError)
            assert not ready
        else:
            assert runner.state is not State.READY
            life.cancel()
            await asyncio.wait([life])

    running(tmp_path, played, scene)


def test_a_goaway_is_a_drain_and_then_the_runner_comes_back(tmp_path: Path) -> None:
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
        ready = asyncio.Event()
        life = asyncio.ensure_future(runner.run(ready.set))
        await ready.wait()
        sink = RecordingSink()
        runner.open(CALL, sink, lambda: None)
        await until(runner, State.DRAINING)
        with pytest.raises(NoRunner, match="draining") as refused:
            runner.open(CALL, RecordingSink(), lambda: None)
        assert refused.value.retry_after_s
        go_on.set()
        await sink.over.wait()
        assert isinstance(sink.result, RunnerLost)
        await until(runner, State.READY)
        assert starts == 2
        life.cancel()
        await asyncio.wait([life])

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
        life = asyncio.ensure_future(runner.run(lambda: None))
        await until(runner, State.READY)
        sink = RecordingSink()
        runner.open(CALL, sink, lambda: None)
        await sink.over.wait()
        assert isinstance(sink.result, RunnerLost)
        assert "SIGKILL ended it" in sink.result.message
        assert runner.state is State.LOST
        with pytest.raises(NoRunner) as refused:
            runner.open(CALL, RecordingSink(), lambda: None)
        assert str(host.address) not in refused.value.message
        await runner.stop()
        await life

    running(tmp_path, played, scene)


def test_what_does_not_heal_is_tried_ever_more_rarely_but_soon_at_first(tmp_path: Path) -> None:
    async def scene(runner: Runner, host: Host) -> None:
        loop = asyncio.get_running_loop()
        waits = []
        for losses in (1, 4, 30):
            backing_off = asyncio.ensure_future(
                runner._back_off(LoginRefused("nologin: the host boots"), losses)
            )
            await asyncio.sleep(0)
            waits.append(runner._retry_at - loop.time())
            backing_off.cancel()
            await asyncio.wait([backing_off])
        assert waits[0] < 2 * MIN_BACKOFF_S
        assert waits[0] < waits[1] < waits[2]
        assert 200 < waits[2] < 400

    running(tmp_path, None, scene)


def test_only_a_life_that_was_long_makes_the_next_loss_the_first_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an attempt that fails may take."""
    monkeypatch.setattr("llmrelay.runners.runner.STEADY_S", 0.0)
    starts = 0

    async def played(process: Process) -> None:
        nonlocal starts
        starts += 1
        if starts in (1, 4):
            runner = Played(process)
            await runner.get_ready()
            # Two beats: the front-end has taken it for ready.
            await runner.frame(FrameType.PING)
            await runner.frame(FrameType.PING)
        process.exit(1)

    async def scene(runner: Runner, host: Host) -> None:
        counted: list[int] = []

        async def count(error: object, losses: int) -> None:
            counted.append(losses)
            if len(counted) == 4:
                await runner.stop()

        monkeypatch.setattr(runner, "_back_off", count)
        await runner.run(lambda: None)
        assert counted == [1, 2, 3, 1]

    running(tmp_path, played, scene, ping_interval_s=0.05)


def test_stop_ends_a_runner_that_waits_for_its_next_attempt(tmp_path: Path) -> None:
    async def played(process: Process) -> None:
        runner = Played(process)
        await runner.get_ready()
        await runner.frame(FrameType.CALL)
        process.exit(1)

    async def scene(runner: Runner, host: Host) -> None:
        life = asyncio.ensure_future(runner.run(lambda: None))
        await until(runner, State.READY)
        sink = RecordingSink()
        runner.open(CALL, sink, lambda: None)
        await sink.over.wait()
        await runner.stop()
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
        ready = asyncio.Event()
        life = asyncio.ensure_future(runner.run(ready.set))
        await ready.wait()
        assert runner.max_calls == 10
        life.cancel()
        await asyncio.wait([life])

    running(tmp_path, played, scene)
    assert "allows 10 calls at once, not 1024" in caplog.text
