"""The relay of event streams: the same bytes in any split, whole events at a time, and counted."""

from __future__ import annotations

import json
import re
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner_payload.events import MAX_HELD_BYTES, EventRelay, Usage
from tests.runner_payload.splits import PLACES, cut, one_by_one


def chunk(text: str, **more: object) -> bytes:
    """A chat completion's chunk as OpenAI sends it."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    fields = {"id": "c-1", "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


COUNT = {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}
DONE = b"data: [DONE]\n\n"
COUNTED = chunk("", choices=[], usage=COUNT | {"prompt_tokens_details": {"cached_tokens": 3}})

# Recorded from APIs that have a stream, shortened.
STREAMS: dict[str, bytes] = {
    "chat": chunk("Hël") + chunk("lo 🎉") + DONE,
    "chat with usage": chunk("a", usage=None) + chunk("b", usage=None) + COUNTED + DONE,
    "CRLF": (chunk("a") + COUNTED + DONE).replace(b"\n", b"\r\n"),
    "CR": (chunk("a") + COUNTED + DONE).replace(b"\n", b"\r"),
    "line ends mixed": b"data:1\n\r\ndata:2\r\n\ndata:3\r\rdata:4\r\n\rdata:5\n\rdata:6\r\r\n",
    "comments": b": OPENROUTER PROCESSING\n\n: again\n" + chunk("a") + b":\n\n" + DONE,
    "BOM": b"\xef\xbb\xbf" + chunk("a") + DONE,
    "names": b"event: response.created\nid: 1\nretry: 5\ndata: {}\n\ndata: a\ndata: b\n\n",
    "blank lines alone": b"\n\n\n\r\n\r\n\r\r",
    "no end": chunk("a") + b'data: {"half',
    "no blank line at the end": chunk("a") + b"data: [DONE]\n",
    "nothing": b"",
    "no events at all": b"upstream says: \0\xff no\n",
    "long": chunk("x" * 4_000) + DONE,
}


def relayed(portions: list[bytes], *, take_out: bool = False, usage: Usage | None = None) -> bytes:
    relay = EventRelay(usage or Usage(), take_out=take_out)
    return b"".join([*map(relay.feed, portions), relay.finish()])


# --- The same bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_comes_out_identical_whole_and_one_byte_at_a_time(name: str) -> None:
    stream = STREAMS[name]
    for portions in ([stream], one_by_one(stream), cut(stream, [1, 5, 9, 100])):
        assert sha256(relayed(portions)).hexdigest() == sha256(stream).hexdigest()


@given(stream=st.sampled_from(list(STREAMS.values())), places=PLACES)
def test_a_stream_comes_out_identical_in_any_split(stream: bytes, places: list[int]) -> None:
    assert relayed(cut(stream, places)) == stream


@given(
    pieces=st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"data: ", b'"usage"', b":", b"{", b"}", b"x"])
    ),
    places=PLACES,
)
def test_whatever_upstream_sends_comes_out_identical(
    pieces: list[bytes], places: list[int]
) -> None:
    stream = b"".join(pieces)
    assert relayed(cut(stream, places)) == stream


# --- Whole events -------------------------------------------------------------------------------

_EVENT_END = re.compile(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)\Z")


@pytest.mark.parametrize("name", ["chat", "CRLF", "CR", "comments", "BOM", "names"])
def test_half_an_event_is_never_shown_and_a_whole_one_never_waits(name: str) -> None:
    stream = STREAMS[name]
    relay = EventRelay(Usage())
    shown = b""
    for at, byte in enumerate(one_by_one(stream), 1):
        piece = relay.feed(byte)
        shown += piece
        # The LF of a CRLF may be on its way still.
        assert not piece or _EVENT_END.search(shown.removesuffix(b"\n")) or _EVENT_END.search(shown)
        if stream[:at].endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
            assert shown == stream[:at]
    assert shown == stream


def test_an_event_does_not_wait_whatever_its_line_ends_are() -> None:
    for ends in (b"\n\n", b"\n\r\n", b"\r\n\n", b"\r\n\r\n", b"\r\r"):
        event = b"data: x" + ends
        assert EventRelay(Usage()).feed(event + b"data: next") == event


def test_what_is_left_when_a_stream_breaks_is_not_shown() -> None:
    relay = EventRelay(Usage())
    assert relay.feed(chunk("a") + b'data: {"choices": [{"de') == chunk("a")


def test_a_whole_read_of_whole_events_goes_on_at_once() -> None:
    relay = EventRelay(Usage())
    assert relay.feed(chunk("a") + chunk("b")) == chunk("a") + chunk("b")


def test_an_event_over_the_limit_goes_on_in_parts_and_holds_no_more_than_that() -> None:
    relay = EventRelay(Usage())
    event = b"data: " + b"x" * (3 * MAX_HELD_BYTES) + b"\n\n"
    portions = cut(event, list(range(0, len(event), 64 * 1024)))
    held = total = 0
    shown = b""
    for portion in portions:
        total += len(portion)
        shown += relay.feed(portion)
        held = max(held, total - len(shown))
    assert held <= MAX_HELD_BYTES
    assert len(shown) > 2 * MAX_HELD_BYTES
    assert shown + relay.finish() == event
    assert relay.feed(chunk("after")) == chunk("after")


def test_an_event_of_just_the_limit_waits_for_its_end() -> None:
    relay = EventRelay(Usage())
    assert relay.feed(b"x" * MAX_HELD_BYTES) == b""
    assert relay.feed(b"x") == b"x" * (MAX_HELD_BYTES + 1)


# --- Counting -----------------------------------------------------------------------------------


def counted(stream: bytes, portions: list[bytes] | None = None) -> tuple[int | None, int | None]:
    usage = Usage()
    assert relayed(portions or [stream], usage=usage) == stream
    return usage.input_tokens, usage.output_tokens


def events(*each: dict[str, object]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), json.dumps(data).encode())
        for data in each
    )


COUNTS: dict[str, tuple[bytes, tuple[int | None, int | None]]] = {
    "chat": (STREAMS["chat with usage"], (7, 11)),
    "chat without": (STREAMS["chat"], (None, None)),
    "in the last delta, as Mistral": (chunk("a") + chunk("b", usage=COUNT) + DONE, (7, 11)),
    "completions": (
        b'data: {"object":"text_completion","choices":[{"text":"a"}],"usage":null}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n' + DONE,
        (1, 2),
    ),
    "responses": (
        events(
            {"type": "response.created", "response": {"id": "r", "usage": None}},
            {"type": "response.output_text.delta", "delta": "a"},
            {
                "type": "response.completed",
                "response": {
                    "usage": {
                        "input_tokens": 5,
                        "input_tokens_details": {"cached_tokens": 1},
                        "output_tokens": 6,
                        "output_tokens_details": {"reasoning_tokens": 2},
                        "total_tokens": 11,
                    }
                },
            },
        ),
        (5, 6),
    ),
    "Anthropic's, which counts twice": (
        events(
            {
                "type": "message_start",
                "message": {"usage": {"input_tokens": 25, "output_tokens": 1}},
            },
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
            {"type": "message_stop"},
        ),
        (25, 15),
    ),
    "the newest of several": (
        chunk("a", usage=COUNT | {"completion_tokens": 1}) + COUNTED,
        (7, 11),
    ),
    "numbers that are none": (
        chunk("a", usage={"prompt_tokens": "7", "completion_tokens": True})
        + chunk("b", usage={"prompt_tokens": -1, "completion_tokens": 1.5}),
        (None, None),
    ),
    "an object that is none": (b'data: {"usage": {"prompt_tokens": 7,}}\n\n', (None, None)),
    "said by the model": (
        chunk('"usage": {"prompt_tokens": 99}, "usage": null')
        + chunk(json.dumps({"usage": {"prompt_tokens": 98, "completion_tokens": 97}})),
        (None, None),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_tokens_are_counted_in_every_apis_stream(name: str) -> None:
    stream, count = COUNTS[name]
    assert counted(stream) == count
    assert counted(stream, one_by_one(stream)) == count


def test_a_whole_answer_is_counted_too() -> None:
    usage = Usage()
    answer = json.dumps({"choices": [{"message": {"content": "{}"}}], "usage": COUNT}, indent=2)
    assert usage.look(answer.encode())
    assert (usage.input_tokens, usage.output_tokens) == (7, 11)


def test_usage_that_never_ends_costs_no_more_than_reading_it() -> None:
    # Some of these would take a pattern that backtracks longer than the test may.
    for hostile in (b"x", b"{", b"{}", b'"usage":{', b'"usage":{"a":{'):
        stream = b'data: {"usage":{' + hostile * (200_000 // len(hostile)) + b"\n\n"
        assert relayed([stream], take_out=True) == stream


# --- Taking out what we have asked for ----------------------------------------------------------


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_what_we_asked_for_is_taken_out_in_any_split(line_end: bytes) -> None:
    asked = chunk("a", usage=None) + chunk("b", usage=None) + COUNTED + DONE
    wanted = chunk("a") + chunk("b") + DONE
    asked, wanted = asked.replace(b"\n", line_end), wanted.replace(b"\n", line_end)
    for portions in ([asked], one_by_one(asked), cut(asked, [50, 200, 201, 400])):
        usage = Usage()
        assert relayed(portions, take_out=True, usage=usage) == wanted
        assert (usage.input_tokens, usage.output_tokens) == (7, 11)


@given(places=PLACES)
@example(places=[])
def test_no_split_shows_what_was_taken_out(places: list[int]) -> None:
    asked = chunk("a", usage=None) + COUNTED + DONE
    assert relayed(cut(asked, places), take_out=True) == chunk("a") + DONE


def test_a_comment_before_the_count_goes_with_no_other_event() -> None:
    asked = b": keep-alive\n\n" + chunk("a", usage=None) + b": 1\n\n" + COUNTED + b": 2\n\n" + DONE
    wanted = b": keep-alive\n\n" + chunk("a") + b": 1\n\n: 2\n\n" + DONE
    assert relayed([asked], take_out=True) == wanted


def test_what_the_client_has_asked_for_stays() -> None:
    for stream in (STREAMS["chat with usage"], chunk("a", usage=COUNT) + DONE):
        assert relayed([stream]) == stream


def test_a_delta_with_usage_is_a_delta_and_stays() -> None:
    stream = chunk("last word", usage=COUNT) + DONE
    assert relayed([stream], take_out=True) == stream


def test_an_event_without_choices_or_usage_stays() -> None:
    stream = chunk("", choices=[], prompt_filter_results=[{"usage": {}}]) + DONE  # Azure's first
    assert relayed([stream], take_out=True) == stream


@pytest.mark.parametrize(
    "text",
    [
        ', "usage": null',
        '{"choices": [], "usage": {"prompt_tokens": 1}}',
        '"a", "usage":null}',
        "\\",
        'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n',
    ],
)
def test_text_that_looks_like_usage_is_left_alone(text: str) -> None:
    stream = chunk(text) + chunk("", tool_calls=[{"function": {"arguments": text}}]) + DONE
    usage = Usage()
    assert relayed([stream], take_out=True, usage=usage) == stream
    assert usage.input_tokens is None


@pytest.mark.parametrize("spelled", [b',"usage":null', b', "usage": null', b' ,"usage" :null'])
def test_that_there_is_no_count_yet_is_left_out_however_it_is_spelled(spelled: bytes) -> None:
    begin, end = b'data: {"choices":[{"delta":{"content":"a"}}]', b"}\n\n"
    asked = begin + spelled + end
    without = begin + spelled.replace(spelled.lstrip(), b"") + end
    usage = Usage()
    for portions in ([asked * 3], [asked] * 3, cut(asked * 3, [5, 60, 70, 100])):
        assert relayed(portions, take_out=True, usage=usage) == without * 3
        assert relayed(portions, usage=usage) == asked * 3
    counted = asked + COUNTED + DONE
    assert relayed([counted], take_out=True, usage=usage) == without + DONE
    assert usage.output_tokens == COUNT["completion_tokens"]
