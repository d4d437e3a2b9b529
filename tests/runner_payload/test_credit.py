"""Credit windows: what may be sent, and when credit goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_payload.credit import GROWTH, MAX_CREDIT, ReceiveWindow, SendWindow
from runner_payload.protocol import RemoteProtocolError


def test_a_send_window_counts_down_and_up() -> None:
    window = SendWindow(100)
    window.spend(60)
    assert window.available == 40
    window.grant(10)
    assert window.available == 50


def test_a_send_window_takes_credit_up_to_the_maximum_and_no_more() -> None:
    window = SendWindow(1)
    window.grant(MAX_CREDIT - 1)
    assert window.available == MAX_CREDIT
    with pytest.raises(RemoteProtocolError, match="credit"):
        window.grant(1)
    assert window.available == MAX_CREDIT


def test_a_receive_window_takes_all_of_its_credit_and_not_a_byte_more() -> None:
    window = ReceiveWindow(10)
    window.receive(4)
    window.receive(6)
    window.receive(0)
    with pytest.raises(RemoteProtocolError, match="credit"):
        window.receive(1)


def test_a_receive_window_hands_credit_back_at_half_and_may_be_filled_again() -> None:
    window = ReceiveWindow(10)
    assert not window.receive(4)
    assert window.receive(1)
    assert window.take_credit() == 5
    assert window.take_credit() == 0
    assert window.receive(10)
    with pytest.raises(RemoteProtocolError):
        window.receive(1)


def test_a_window_of_one_byte_works() -> None:
    window = ReceiveWindow(1)
    assert not window.receive(0)
    assert window.receive(1)
    assert window.take_credit() == 1
    assert window.receive(1)


def test_a_receive_window_grows_up_to_a_multiple_of_its_size_and_no_further() -> None:
    window = ReceiveWindow(10)
    assert window.receive(5)
    assert window.take_credit(grow=True) == 5 + 10
    assert not window.receive(9)
    assert window.receive(1), "half of what it is now"
    assert window.take_credit(grow=True) == 10 + 20
    window.receive(20)
    assert window.take_credit(grow=True) == 20
    window.receive(10 * GROWTH)
    with pytest.raises(RemoteProtocolError):
        window.receive(1)


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=50))
def test_a_sender_and_a_receiver_never_disagree_and_never_stall(
    size: int, wanted: list[tuple[int, bool]]
) -> None:
    sender, receiver = SendWindow(size), ReceiveWindow(size)
    for amount, grow in wanted:
        left = amount
        while left:
            piece = min(left, sender.available)
            assert piece > 0, "stalled: all credit is with a receiver that does not hand it back"
            sender.spend(piece)
            left -= piece
            if receiver.receive(piece):
                sender.grant(receiver.take_credit(grow=grow))
        assert 0 < sender.available <= GROWTH * size
