"""The frame codec, the messages and the credit."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload.credit import MAX_CREDIT
from runner_payload.messages import Call, End, Failure, GoAway, Hello, Key, Message, Ready, Start
from runner_payload.protocol import (
    HEADER,
    HEADER_BYTES,
    LINK_FRAMES,
    MAX_CALL_ID,
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
    RemoteProtocolError,
    decode_credit,
    encode_credit,
    encode_frame,
)
from tests.runner_payload.splits import PLACES, cut, one_by_one

LONGEST_FRAME_BYTES = HEADER_BYTES + max(MAX_PAYLOAD_BYTES.values())

START = Start("sk-secret", "http://u/v1", 8, 9, 1.5, 2, 3, 4)
KEY = Key("sk-secret")
MESSAGES: list[Message] = [
    Hello(1, "d" * 64, "3.11.7", "/usr/bin/python3", "3.0", None, 7, 65536),
    START,
    Ready(0.7),
    KEY,
    GoAway("drained"),
    Call("m", "be brief", 5, 0.0, 1),
    Call("", kind="models", timeout_s=2.5, retries=0),
    End("length", 2),
    Failure("upstream_broken", "It broke — off.", 2.5),
]
MESSAGE_TYPES = list(dict.fromkeys(type(message) for message in MESSAGES))


def a_call_id(frame_type: int) -> int:
    return 0 if frame_type in LINK_FRAMES else 1


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    frame_type = draw(st.sampled_from(list(FrameType)))
    call_id = 0 if frame_type in LINK_FRAMES else draw(st.integers(1, MAX_CALL_ID))
    payload = draw(st.binary(max_size=min(MAX_PAYLOAD_BYTES[frame_type], 100)))
    return frame_type, call_id, payload


NEARLY_FRAMES = st.builds(
    lambda kind, call_id, length, payload: HEADER.pack(kind, call_id, length) + payload,
    st.sampled_from([*map(int, FrameType), 0, 8, 255]),
    st.sampled_from([0, 1, MAX_CALL_ID]),
    st.sampled_from([0, 1, 4, 8, 9, 1024, 2**20, 2**20 + 1, 2**32 - 1]),
    st.binary(max_size=20),
)
ANY_BYTES = st.one_of(st.binary(max_size=200), st.lists(NEARLY_FRAMES, max_size=5).map(b"".join))


# --- The codec ----------------------------------------------------------------------------------


@given(ANY_BYTES, PLACES)
def test_any_bytes_in_any_split_parse_or_raise_a_protocol_error_and_nothing_else(
    data: bytes, places: list[int]
) -> None:
    decoder = FrameDecoder()
    try:
        for portion in cut(data, places):
            for frame_type, _, payload in decoder.feed(portion):
                assert len(payload) <= MAX_PAYLOAD_BYTES[frame_type]
            assert decoder.pending_bytes < LONGEST_FRAME_BYTES
    except RemoteProtocolError:
        assert decoder.pending_bytes < LONGEST_FRAME_BYTES


@given(st.lists(frames(), max_size=6), PLACES)
def test_frames_come_out_of_any_split_as_they_were_encoded(
    sent: list[Frame], places: list[int]
) -> None:
    data = b"".join(encode_frame(*frame) for frame in sent)
    for portions in ([data], one_by_one(data), cut(data, places)):
        decoder = FrameDecoder()
        received = [frame for portion in portions for frame in decoder.feed(portion)]
        assert received == sent
        assert decoder.pending_bytes == 0


def test_bytes_behind_a_frame_wait_for_the_rest_of_theirs() -> None:
    decoder = FrameDecoder()
    whole, half = encode_frame(FrameType.DATA, 5, b"abc"), encode_frame(FrameType.DATA, 6, b"def")
    assert decoder.feed(whole + half[:10]) == [(FrameType.DATA, 5, b"abc")]
    assert decoder.pending_bytes == 10
    assert decoder.feed(half[10:] + whole) == [
        (FrameType.DATA, 6, b"def"),
        (FrameType.DATA, 5, b"abc"),
    ]


def test_every_frame_type_has_a_limit() -> None:
    assert set(MAX_PAYLOAD_BYTES) == set(FrameType)


@pytest.mark.parametrize("frame_type", FrameType, ids=lambda kind: kind.name)
def test_a_payload_at_its_types_limit_is_taken_and_one_byte_more_is_refused_unseen(
    frame_type: FrameType,
) -> None:
    limit, call_id = MAX_PAYLOAD_BYTES[frame_type], a_call_id(frame_type)
    payload = b"x" * limit
    assert FrameDecoder().feed(encode_frame(frame_type, call_id, payload)) == [
        (frame_type, call_id, payload)
    ]
    too_long = FrameDecoder()
    with pytest.raises(RemoteProtocolError, match=frame_type.name):
        too_long.feed(HEADER.pack(frame_type, call_id, limit + 1))
    assert too_long.pending_bytes == 0


def test_what_is_held_back_stays_below_the_frame_that_was_announced() -> None:
    decoder = FrameDecoder()
    decoder.feed(HEADER.pack(FrameType.DATA, 1, 1000))
    for _ in range(999):
        assert decoder.feed(b"x") == []
    assert decoder.pending_bytes == HEADER_BYTES + 999
    assert len(decoder.feed(b"x")) == 1
    assert decoder.pending_bytes == 0


@pytest.mark.parametrize("frame_type", FrameType, ids=lambda kind: kind.name)
def test_the_links_frames_have_call_id_0_and_all_others_have_one_above(
    frame_type: FrameType,
) -> None:
    wrong = [1, MAX_CALL_ID] if frame_type in LINK_FRAMES else [0]
    for call_id in wrong:
        with pytest.raises(RemoteProtocolError, match="call id"):
            FrameDecoder().feed(encode_frame(frame_type, call_id))


@pytest.mark.parametrize("number", [0, 8, 15, 24, 255])
def test_an_unknown_frame_type_is_an_error(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown type"):
        FrameDecoder().feed(encode_frame(number, 0))


# --- Messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert type(message).decode(message.encode()) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_of_a_newer_peer_may_have_unknown_fields(message: Message) -> None:
    value = {**json.loads(message.encode()), "newer": [1, {"x": None}]}
    assert type(message).decode(json.dumps(value).encode()) == message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(MESSAGES), st.data())
def test_any_json_is_a_message_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(json.loads(message.encode())))
    changes = data.draw(st.dictionaries(names, JSON_VALUES, max_size=3))
    value: Any = {**json.loads(message.encode()), **changes}
    for name in data.draw(st.sets(names, max_size=2)):
        del value[name]
    value = data.draw(st.sampled_from([value, value, JSON_VALUES]))
    payload = json.dumps(data.draw(value) if value is JSON_VALUES else value).encode()
    try:
        decoded = type(message).decode(payload)
    except RemoteProtocolError:
        return
    for number in vars(decoded).values():
        # Nothing that arithmetic or int() would trip over later.
        assert not isinstance(number, float) or math.isfinite(number)
    assert type(message).decode(decoded.encode()) == decoded


@given(st.sampled_from(MESSAGE_TYPES), st.binary(max_size=60))
def test_any_payload_is_a_message_or_a_protocol_error(kind: type[Message], data: bytes) -> None:
    for payload in (data, b'{"reason":"' + data + b'"}'):
        with contextlib.suppress(RemoteProtocolError):
            kind.decode(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"[]", b'"x"', b"1", b"{", b"{}x", b"\xff\xfe", b'{"reason":"\xff"}', b"\0"],
)
def test_a_payload_that_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        GoAway.decode(payload)


@pytest.mark.parametrize("nest", [b"[", b'{"a":', b'{"reason":[[', b"[{"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        GoAway.decode(nest * 100_000)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Hello, "protocol"),
        (Hello, "openai"),
        (Start, "api_key"),
        (Start, "ping_timeout_s"),
        (Key, "api_key"),
        (GoAway, "reason"),
        (Call, "model"),
        (Failure, "code"),
        (Failure, "message"),
    ],
)
def test_a_missing_field_is_refused_by_name(kind: type[Message], name: str) -> None:
    whole = next(message for message in MESSAGES if type(message) is kind)
    value = json.loads(whole.encode())
    del value[name]
    with pytest.raises(RemoteProtocolError, match=rf"{kind.__name__} without {name}"):
        kind.decode(json.dumps(value).encode())


def test_fields_that_have_a_default_may_be_missing() -> None:
    assert Call.decode(b'{"model":"m"}') == Call("m", "", 1024, None, None, "chat", None, 2)
    assert End.decode(b"{}") == End(None, 0)
    assert Ready.decode(b"{}") == Ready(0.0)
    assert Failure.decode(b'{"code":"c","message":"m"}').retry_after_s is None


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (End, '{"retries":true}'),
        (End, '{"retries":1.0}'),
        (End, '{"retries":"1"}'),
        (End, '{"retries":null}'),
        (End, '{"finish_reason":1}'),
        (Ready, '{"import_s":true}'),
        (Ready, '{"import_s":"1"}'),
        (Ready, '{"import_s":null}'),
        (Call, '{"model":null}'),
        (Call, '{"model":["m"]}'),
        (Call, '{"model":"m","temperature":false}'),
        (Call, '{"model":"m","max_tokens":true}'),
        (Call, '{"model":"m","kind":null}'),
        (Call, '{"model":"m","timeout_s":"1"}'),
        (Call, '{"model":"m","retries":null}'),
        (GoAway, '{"reason":{}}'),
    ],
)
def test_a_field_of_another_type_is_refused_and_a_bool_is_no_number(
    kind: type[Message], payload: str
) -> None:
    with pytest.raises(RemoteProtocolError, match="is not"):
        kind.decode(payload.encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_no_clock_could_use_is_refused(number: str) -> None:
    """A front-end that rounds such a Retry-After would end in a ValueError or OverflowError."""
    payload = f'{{"code":"c","message":"m","retry_after_s":{number}}}'
    with pytest.raises(RemoteProtocolError):
        Failure.decode(payload.encode())


def test_a_lone_surrogate_in_a_parameter_is_replaced_and_breaks_nothing() -> None:
    assert Call.decode(Call("m", "a\ud800b").encode()).system == "a?b"


@pytest.mark.parametrize("message", [START, KEY], ids=["START", "KEY"])
def test_the_key_is_in_no_repr_of_what_carries_it(message: Message) -> None:
    for shown in (repr(message), str(message), f"{message!r}", repr([message])):
        assert "sk-secret" not in shown
    assert "***" in repr(message)


@pytest.mark.parametrize("payload", [b'{"api_key":["sk-secret"]}', b'{"api_key":"sk-secret"'])
def test_the_key_is_in_no_error_about_what_should_carry_it(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Key.decode(payload)
    assert "sk-secret" not in str(caught.value)


def test_a_system_prompt_is_in_no_repr_of_a_call() -> None:
    assert "brief" not in repr(Call("m", "be brief"))


# --- Credit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1, 256 * 1024, MAX_CREDIT, 2**32 - 1])
def test_credit_comes_back_as_it_went(amount: int) -> None:
    ((frame_type, call_id, payload),) = FrameDecoder().feed(encode_credit(3, amount))
    assert (frame_type, call_id) == (FrameType.CREDIT, 3)
    assert decode_credit(payload) == amount


@pytest.mark.parametrize("payload", [b"", b"\0\0\1", b"\0\0\0\0\1", b"\0\0\0\0"])
def test_credit_of_another_length_or_of_nothing_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="CREDIT"):
        decode_credit(payload)
