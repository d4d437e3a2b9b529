"""The link, against a runner that the test plays."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine

import pytest

from llmrelay.errors import (
    BadRequest,
    RelayError,
    RunnerFailed,
    RunnerLost,
    UpstreamAnswer,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from llmrelay.runners.call import LinkCall
from llmrelay.runners.link import MAX_UNSENT_BYTES, Link
from llmrelay.secret import Secret
from runner_payload.messages import Call, End, Failure, GoAway, Hello, Key, Request, Response, Start
from runner_payload.protocol import (
    DATA_BYTES,
    MARKER,
    MAX_NOISE_BYTES,
    FrameType,
    encode_credit,
    encode_frame,
)
from tests.helpers.link_pair import PlayedRunner, RecordingSink, a_hello, a_start

CALL = Call(model="m")


def play(
    scene: Callable[[PlayedRunner], Coroutine[None, None, None]], start: Start | None = None
) -> None:
    """Runs a scene on a link that is ready, and ends the link."""

    async def run() -> None:
        runner = PlayedRunner()
        await runner.get_ready(start)
        try:
            async with asyncio.timeout(20):
                await scene(runner)
        finally:
            runner.link.fail("the test is over")

    asyncio.run(run())


def opened(link: Link, sink: RecordingSink, over: list[int] | None = None) -> LinkCall:
    return link.open(CALL, sink, lambda _: (over if over is not None else []).append(1))


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_noise_before_the_marker_is_skipped_in_any_split(step: int) -> None:
    async def run() -> Hello:
        runner = PlayedRunner()
        hello = encode_frame(FrameType.HELLO, 0, a_hello().encode())
        data = b"Last login: \0llmrelay\0 today\nmotd\n" + MARKER + hello
        for at in range(0, len(data), step):
            runner.link.feed(data[at : at + step])
        return await runner.link.hello()

    assert asyncio.run(run()) == a_hello()


def test_endless_noise_ends_the_link() -> None:
    async def run() -> None:
        runner = PlayedRunner()
        runner.link.feed(b"x" * MAX_NOISE_BYTES)
        assert not runner.lost
        runner.link.feed(b"x")
        assert "no marker" in runner.lost[0]
        with pytest.raises(RunnerLost):
            await runner.link.hello()

    asyncio.run(run())


def test_the_key_goes_out_once_and_only_after_hello() -> None:
    async def run() -> None:
        runner = PlayedRunner()
        assert not runner.received
        await runner.get_ready()
        keys = [f for f in runner.received if b"sk-secret" in f.payload]
        assert not keys, "START was taken off by get_ready; nothing else may hold the key"
        runner.link.fail("over")

    asyncio.run(run())


def test_a_renewed_key_goes_out_in_a_frame_of_its_own_unless_the_link_is_lost() -> None:
    async def scene(runner: PlayedRunner) -> None:
        runner.link.renew_key(Secret("sk-renewed"))
        assert Key.decode((await runner.frame(FrameType.KEY)).payload) == Key("sk-renewed")
        runner.link.fail("over")
        runner.link.renew_key(Secret("sk-too-late"))
        await asyncio.sleep(0)
        assert not runner.received

    play(scene)


def test_whoever_opened_a_call_is_told_once_how_it_ended() -> None:
    async def scene(runner: PlayedRunner) -> None:
        told: dict[str, list[End | RelayError | None]] = defaultdict(list)
        whole, failed, cancelled, lost = (
            runner.link.open(CALL, RecordingSink(), told[name].append)
            for name in ("whole", "failed", "cancelled", "lost")
        )
        runner.say(FrameType.END, End("stop"), whole.call_id)
        runner.say(FrameType.ERROR, Failure("upstream_unavailable", "no"), failed.call_id)
        cancelled.cancel()
        assert not told["cancelled"], "its place is free only when the runner has confirmed"
        runner.say(FrameType.END, End(), cancelled.call_id)
        runner.link.fail("gone")
        for call in (whole, failed, lost):
            call.cancel()
        assert told["whole"] == [End("stop")]
        assert [type(ending) for ending in told["failed"]] == [UpstreamUnavailable]
        assert told["cancelled"] == [None]
        assert [type(ending) for ending in told["lost"]] == [RunnerLost]

    play(scene)


def test_calls_are_multiplexed_and_each_gets_its_own_deltas() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sinks = [RecordingSink() for _ in range(3)]
        calls = [opened(runner.link, sink) for sink in sinks]
        for call in calls:
            await call.send_body(b"hi")
        assert (await runner.frame(FrameType.CALL)).payload == CALL.encode()
        first, second, third = (call.call_id for call in calls)
        runner.send(FrameType.DATA, second, b"b1")
        runner.send(FrameType.DATA, first, b"a1")
        runner.send(FrameType.DATA, second, b"b2")
        runner.say(FrameType.END, End("stop"), second)
        runner.say(FrameType.END, End("length"), first)
        runner.say(FrameType.END, End("stop"), third)
        assert [sink.texts for sink in sinks] == [[b"a1"], [b"b1", b"b2"], []]
        assert [sink.result for sink in sinks] == [End("length"), End("stop"), End("stop")]
        assert runner.link.calls == 0

    play(scene)


def test_deltas_that_come_together_reach_each_sink_in_order_and_before_the_end() -> None:
    async def scene(runner: PlayedRunner) -> None:
        one, other = RecordingSink(), RecordingSink()
        a, b = opened(runner.link, one), opened(runner.link, other)
        frames = [(a, b"1"), (b, b"x"), (a, b"2"), (b, b"y"), (a, b"3")]
        runner.link.feed(
            b"".join(encode_frame(FrameType.DATA, call.call_id, text) for call, text in frames)
            + encode_frame(FrameType.END, a.call_id, End().encode())
        )
        assert one.texts == [b"1", b"2", b"3"]
        assert other.texts == [b"x", b"y"]
        assert one.result == End()

    play(scene)


def test_what_is_sent_in_one_turn_leaves_in_one_write() -> None:
    async def scene(runner: PlayedRunner) -> None:
        writes = runner.writes
        for _ in range(10):
            await opened(runner.link, RecordingSink()).send_body(b"hi")
        for _ in range(10):
            await runner.frame(FrameType.END)
        assert runner.writes == writes + 1

    play(scene)


def test_a_long_prompt_goes_in_pieces_and_waits_for_credit() -> None:
    async def scene(runner: PlayedRunner) -> None:
        call = opened(runner.link, RecordingSink())
        prompt = bytes(range(256)) * 1024
        sending = asyncio.ensure_future(call.send_body(prompt))
        got = b""
        window = 3 * DATA_BYTES
        while len(got) < window:
            got += (await runner.frame(FrameType.DATA)).payload
        assert len(got) == window
        assert not sending.done()
        # Enough for the rest.
        runner.link.feed(encode_credit(call.call_id, len(prompt)))
        await sending
        while len(got) < len(prompt):
            piece = (await runner.frame(FrameType.DATA)).payload
            assert len(piece) <= DATA_BYTES
            got += piece
        await runner.frame(FrameType.END)
        assert got == prompt

    play(scene, a_start(window_bytes=3 * DATA_BYTES))


def test_a_full_channel_holds_up_a_prompt_but_no_control_frame() -> None:
    async def scene(runner: PlayedRunner) -> None:
        call = opened(runner.link, RecordingSink())
        await runner.frame(FrameType.CALL)
        runner.congested = True
        sending = asyncio.ensure_future(call.send_body(b"hi"))
        runner.send(FrameType.PING, 0, b"12345678")
        assert (await runner.frame(FrameType.PONG)).payload == b"12345678"
        assert not sending.done()
        runner.make_room()
        assert (await runner.frame(FrameType.DATA)).payload == b"hi"
        await sending

    play(scene)


def test_many_prompts_of_one_turn_leave_a_bounded_backlog_before_others_frames() -> None:
    async def scene(runner: PlayedRunner) -> None:
        biggest = 0
        write = runner.write

        def measured(data: bytes) -> None:
            nonlocal biggest
            biggest = max(biggest, len(data))
            write(data)

        runner.write = measured  # type: ignore[method-assign]
        prompt = b"x" * 256 * 1024
        calls = [opened(runner.link, RecordingSink()) for _ in range(40)]
        await asyncio.gather(*(call.send_body(prompt) for call in calls))
        await asyncio.sleep(0)
        sent = sum(len(f.payload) for f in runner.received if f.type == FrameType.DATA)
        assert sent == 40 * len(prompt)
        assert biggest < MAX_UNSENT_BYTES + 40 * (DATA_BYTES + 200)

    play(scene, a_start(window_bytes=256 * 1024))


def test_a_call_whose_parameters_fit_into_no_frame_is_the_clients_error() -> None:
    async def scene(runner: PlayedRunner) -> None:
        long = Call(model="m", system="\0" * 200_000)
        with pytest.raises(BadRequest, match="too long"):
            runner.link.open(long, RecordingSink(), lambda _: None)
        assert runner.link.calls == 0

    play(scene)


@pytest.mark.parametrize("where", ["data", "credit_due", "end"])
def test_a_bug_in_one_calls_sink_ends_that_call_and_no_other(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(RecordingSink):
        def fail(self, *_: object) -> None:
            raise ValueError("a bug")

    async def scene(runner: PlayedRunner) -> None:
        buggy, other = Buggy(), RecordingSink()
        setattr(buggy, where, buggy.fail)
        a, b = opened(runner.link, buggy), opened(runner.link, other)
        runner.send(FrameType.DATA, a.call_id, b"x" * 600)
        runner.send(FrameType.DATA, b.call_id, b"fine")
        runner.say(FrameType.END, End("stop"), a.call_id)
        runner.say(FrameType.END, End("stop"), b.call_id)
        assert (other.texts, other.result) == ([b"fine"], End("stop"))
        assert isinstance(buggy.result, RelayError)
        assert runner.link.calls == 0
        assert not runner.lost

    play(scene)
    assert "a bug" in caplog.text


def test_a_call_that_ends_early_stops_waiting_to_send_its_prompt() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = opened(runner.link, sink)
        sending = asyncio.ensure_future(call.send_body(b"x" * 5000))
        await runner.frame(FrameType.DATA)
        runner.say(FrameType.ERROR, Failure("upstream_rate_limited", "later", 7.0), call.call_id)
        await sending
        assert isinstance(sink.result, UpstreamRateLimited)
        assert sink.result.retry_after_s == 7.0

    play(scene)


def test_credit_is_due_at_half_a_window_and_handed_back_once() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = opened(runner.link, sink)
        runner.send(FrameType.DATA, call.call_id, b"x" * 511)
        assert sink.dues == 0
        runner.send(FrameType.DATA, call.call_id, b"x")
        assert sink.dues == 1
        call.hand_back()
        call.hand_back()
        assert (await runner.frame(FrameType.CREDIT)).payload == (512).to_bytes(4, "big")
        await asyncio.sleep(0)
        assert not [f for f in runner.received if f.type == FrameType.CREDIT]

    play(scene)


def test_a_runner_that_overruns_its_credit_is_dropped() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = opened(runner.link, sink)
        runner.send(FrameType.DATA, call.call_id, b"x" * 1024)
        assert not runner.lost
        runner.send(FrameType.DATA, call.call_id, b"x")
        assert "credit" in runner.lost[0]
        assert isinstance(sink.result, RunnerFailed)
        assert runner.closed

    play(scene)


def test_a_call_that_is_over_lets_go_of_its_sink_without_a_word_to_the_runner() -> None:
    async def scene(runner: PlayedRunner) -> None:
        call = opened(runner.link, RecordingSink(), [])
        runner.say(FrameType.END, End(), call.call_id)
        call.cancel()
        assert call.sink is None
        assert not [f for f in runner.received if f.type == FrameType.CANCEL]

    play(scene)


def test_a_cancelled_call_keeps_its_place_until_the_runner_confirms() -> None:
    async def scene(runner: PlayedRunner) -> None:
        over: list[int] = []
        sink = RecordingSink()
        call = opened(runner.link, sink, over)
        call.cancel()
        call.cancel()
        await runner.frame(FrameType.CANCEL)
        runner.send(FrameType.DATA, call.call_id, b"too late")
        assert not over
        assert runner.link.calls == 1
        runner.say(FrameType.END, End(), call.call_id)
        assert over == [1]
        assert runner.link.calls == 0
        assert sink.texts == []
        assert sink.result is None
        assert not [f for f in runner.received if f.type == FrameType.CANCEL]

    play(scene)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (encode_frame(FrameType.DATA, 99, b"x"), "DATA for call 99"),
        (encode_frame(FrameType.END, 99, b"{}"), "end of call 99"),
        (encode_frame(FrameType.CALL, 1, CALL.encode()), "CALL to a front-end"),
        (encode_frame(FrameType.HELLO, 0, a_hello().encode()), "a second HELLO"),
        (encode_frame(FrameType.READY, 0, b"{}"), "READY out of turn"),
        (encode_frame(FrameType.GOAWAY, 0, b"nonsense"), "not JSON"),
        (encode_credit(1, 2**31 - 1), "more credit"),
        (b"\xff" * 9, "unknown type"),
    ],
)
def test_what_breaks_the_protocol_ends_the_link_and_its_calls(frame: bytes, reason: str) -> None:
    async def scene(runner: PlayedRunner) -> None:
        over: list[int] = []
        sink = RecordingSink()
        opened(runner.link, sink, over)
        runner.link.feed(frame)
        assert reason in runner.lost[0]
        assert isinstance(sink.result, RunnerFailed)
        assert over == [1]
        assert runner.closed

    play(scene)


REQUEST = Request("POST", "responses")
HEAD = Response(201, (("content-type", "application/json"),))


def test_a_requests_answer_begins_with_its_head() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = runner.link.open(REQUEST, sink, lambda _: None)
        call.end_body()
        assert Request.decode((await runner.frame(FrameType.REQUEST)).payload) == REQUEST
        runner.say(FrameType.RESPONSE, HEAD, call.call_id)
        assert sink.head == HEAD
        runner.send(FrameType.DATA, call.call_id, b"body")
        runner.say(FrameType.END, End(input_tokens=1), call.call_id)
        assert (sink.texts, sink.result) == ([b"body"], End(input_tokens=1))

    play(scene)


@pytest.mark.parametrize(
    ("call", "frames", "reason"),
    [
        (REQUEST, [(FrameType.DATA, b"x")], "before its RESPONSE"),
        (REQUEST, [(FrameType.RESPONSE, HEAD.encode())] * 2, "out of turn"),
        (
            REQUEST,
            [
                (FrameType.RESPONSE, HEAD.encode()),
                (FrameType.DATA, b"x"),
                (FrameType.RESPONSE, HEAD.encode()),
            ],
            "out of turn",
        ),
        (CALL, [(FrameType.RESPONSE, HEAD.encode())], "out of turn"),
        (REQUEST, [(FrameType.RESPONSE, b"nonsense")], "not JSON"),
        (REQUEST, [(FrameType.RESPONSE, b'{"headers": []}')], "Response without status"),
        (REQUEST, [(FrameType.RESPONSE, Response(199).encode())], "status 199"),
        (REQUEST, [(FrameType.RESPONSE, Response(600).encode())], "status 600"),
        (REQUEST, [(FrameType.ERROR, Failure("x", "y", status=200).encode())], "status 200"),
        (REQUEST, [(FrameType.RESPONSE, Response(200, (("a", "b\nc"),)).encode())], "no header"),
    ],
)
def test_a_head_out_of_turn_or_that_is_none_ends_the_link_and_its_calls(
    call: Call | Request, frames: list[tuple[FrameType, bytes]], reason: str
) -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        opened_call = runner.link.open(call, sink, lambda _: None)
        for frame_type, payload in frames:
            assert not runner.lost
            runner.send(frame_type, opened_call.call_id, payload)
        assert reason in runner.lost[0]
        assert isinstance(sink.result, RunnerFailed)

    play(scene)


def test_a_head_for_a_call_that_is_not_open_or_over_ends_the_link() -> None:
    async def unknown(runner: PlayedRunner) -> None:
        runner.say(FrameType.RESPONSE, HEAD, 99)
        assert "RESPONSE to call 99" in runner.lost[0]

    async def over(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = runner.link.open(REQUEST, sink, lambda _: None)
        runner.say(FrameType.RESPONSE, HEAD, call.call_id)
        runner.say(FrameType.END, End(), call.call_id)
        runner.say(FrameType.RESPONSE, HEAD, call.call_id)
        assert "not open" in runner.lost[0]
        assert sink.result == End()

    play(unknown)
    play(over)


def test_an_end_without_a_head_is_no_answer_but_confirms_a_cancel() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sinks = RecordingSink(), RecordingSink()
        told: list[End | RelayError | None] = []
        headless, cancelled = (runner.link.open(REQUEST, sink, told.append) for sink in sinks)
        runner.say(FrameType.END, End(), headless.call_id)
        cancelled.cancel()
        runner.say(FrameType.RESPONSE, HEAD, cancelled.call_id)  # was on its way
        runner.say(FrameType.END, End(), cancelled.call_id)
        assert isinstance(sinks[0].result, RunnerFailed)
        assert (sinks[1].head, sinks[1].result) == (None, None)
        assert [type(ending) for ending in told] == [RunnerFailed, type(None)]
        assert not runner.lost

    play(scene)


def test_an_error_of_upstreams_own_comes_with_what_it_said() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = runner.link.open(REQUEST, sink, lambda _: None)
        headers = (("content-type", "application/json"),)
        said = Failure("upstream_rate_limited", "429", 3.0, 429, headers, '{"error": "é"}')
        runner.say(FrameType.ERROR, said, call.call_id)
        assert isinstance(sink.result, UpstreamRateLimited)
        assert sink.result.retry_after_s == 3.0
        assert sink.result.upstream == UpstreamAnswer(429, headers, '{"error": "é"}'.encode())

    play(scene)


def test_a_lost_channel_fails_every_call_once() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sinks = [RecordingSink() for _ in range(3)]
        for sink in sinks:
            opened(runner.link, sink)
        runner.link.channel_lost("it ended", 137)
        runner.link.channel_lost("again", None)
        assert all(isinstance(sink.result, RunnerLost) for sink in sinks)
        assert runner.lost == ["it ended with status 137"]
        with pytest.raises(RunnerLost):
            opened(runner.link, RecordingSink())

    play(scene)


def test_an_error_frame_of_an_unknown_code_is_the_runners_failure() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = opened(runner.link, sink)
        runner.say(FrameType.ERROR, Failure("from the future", "what?"), call.call_id)
        assert isinstance(sink.result, RunnerFailed)
        assert not runner.lost

    play(scene)


def test_a_silent_runner_is_lost_whatever_tcp_thinks() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        opened(runner.link, sink)
        await sink.over.wait()
        assert isinstance(sink.result, RunnerLost)
        assert "silent" in runner.lost[0]

    play(scene, a_start(ping_interval_s=0.02, ping_timeout_s=0.06))


def test_a_runner_that_answers_pings_is_kept() -> None:
    async def scene(runner: PlayedRunner) -> None:
        for _ in range(10):
            ping = await runner.frame(FrameType.PING)
            runner.send(FrameType.PONG, 0, ping.payload)
        assert not runner.lost

    play(scene, a_start(ping_interval_s=0.02, ping_timeout_s=0.1))


def test_after_goaway_no_call_is_opened_and_those_under_way_go_on() -> None:
    async def scene(runner: PlayedRunner) -> None:
        sink = RecordingSink()
        call = opened(runner.link, sink)
        runner.say(FrameType.GOAWAY, GoAway("SIGTERM"))
        with pytest.raises(RunnerLost):
            opened(runner.link, RecordingSink())
        runner.send(FrameType.DATA, call.call_id, b"still here")
        runner.say(FrameType.END, End("stop"), call.call_id)
        assert sink.texts == [b"still here"]
        assert sink.result == End("stop")

    play(scene)


def test_goaway_before_ready_says_why_the_runner_does_not_start() -> None:
    async def run() -> None:
        runner = PlayedRunner()
        runner.link.feed(encode_marker_and_hello())
        starting = asyncio.ensure_future(runner.link.start(a_start()))
        await runner.frame(FrameType.START)
        runner.say(FrameType.GOAWAY, GoAway("openai cannot be used: no jiter"))
        with pytest.raises(RunnerFailed, match="no jiter"):
            await starting
        runner.link.fail("over")

    asyncio.run(run())


def encode_marker_and_hello() -> bytes:
    return MARKER + encode_frame(FrameType.HELLO, 0, a_hello().encode())
