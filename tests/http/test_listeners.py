from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrelay.errors import CannotListen
from llmrelay.http import listeners
from llmrelay.http.listeners import Listener
from llmrelay.values import Listen, ListenAddress, UnixAddress

LOOPBACK = ListenAddress("127.0.0.1", 0)


def bind(*addresses: Listen, reuse_port: bool = False, mode: int = 0o600) -> list[Listener]:
    return listeners.bind(addresses, reuse_port=reuse_port, socket_mode=mode)


def listening(path: UnixAddress, backlog: int = 16) -> Listener:
    [listener] = bind(path)
    listener.sock.listen(backlog)
    listener.publish()
    return listener


@pytest.fixture
def path(tmp_path: Path) -> Iterator[UnixAddress]:
    yield UnixAddress(str(tmp_path / "llmrelay.sock"))
    # Nothing of ours is left beside it either.
    assert list(tmp_path.iterdir()) == []


def accepted(listener: Listener) -> int:
    """How many connections wait on the socket; they are closed."""
    count = 0
    try:
        while True:
            listener.sock.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


# --- TCP ----------------------------------------------------------------------------------------


def test_a_bound_socket_refuses_until_it_listens() -> None:
    [listener] = bind(LOOPBACK)
    assert isinstance(listener.address, ListenAddress)
    where = (listener.address.host, listener.address.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
    listener.sock.listen()
    socket.create_connection(where).close()
    listener.close()


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_loopback_is_this_machines_alone(host: str, local: bool) -> None:
    [listener] = bind(ListenAddress(host, 0))
    assert (listener.local, listener.loopback) == (local, local)
    listener.close()


def test_ipv4_and_ipv6_may_hold_the_same_port() -> None:
    [four] = bind(ListenAddress("0.0.0.0", 0))
    assert isinstance(four.address, ListenAddress)
    [six] = bind(ListenAddress("::", four.address.port))
    for listener in (four, six):
        listener.close()


def test_of_several_addresses_all_are_bound_or_none(path: UnixAddress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        [free] = bind(LOOPBACK)
        address = free.address
        free.close()
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}: it is in use"):
            bind(address, path, ListenAddress("127.0.0.1", port))
    [again] = bind(address)
    again.close()


@pytest.mark.parametrize("reuse_port", [False, True])
def test_an_address_that_is_given_twice_is_refused(path: UnixAddress, reuse_port: bool) -> None:
    [free] = bind(LOOPBACK)
    assert isinstance(free.address, ListenAddress)
    free.close()
    for twice in (path, free.address):
        with pytest.raises(CannotListen, match=f"{twice} twice: leave one out"):
            bind(twice, LOOPBACK, twice, reuse_port=reuse_port)
    for listener in bind(LOOPBACK, LOOPBACK):  # two free ports
        listener.close()


def test_without_reuse_port_an_address_has_one_front_end() -> None:
    [one] = bind(LOOPBACK, reuse_port=True)
    one.sock.listen()
    with pytest.raises(CannotListen, match="it is in use"):
        bind(one.address)
    one.close()


def test_new_connections_go_to_the_successor_and_those_before_stay() -> None:
    [one] = bind(LOOPBACK, reuse_port=True)
    one.sock.listen(64)
    assert not one.has_successor()
    [two] = bind(one.address, reuse_port=True)
    assert not one.has_successor()  # it does not listen yet
    two.sock.listen(64)
    assert one.has_successor()
    assert isinstance(one.address, ListenAddress)
    where = (one.address.host, one.address.port)

    clients = [socket.create_connection(where) for _ in range(64)]
    before = accepted(one)
    assert 0 < before < 64  # the kernel deals them out: 2 ** -64 that it does not
    assert accepted(two) == 64 - before
    one.steer_to_successor()
    assert (accepted(one), accepted(two)) == (1, 1)  # its own, to see where they go
    clients += [socket.create_connection(where) for _ in range(64)]
    assert (accepted(one), accepted(two)) == (0, 64)
    one.close()
    clients += [socket.create_connection(where) for _ in range(8)]
    assert accepted(two) == 8
    # And the next upgrade after it.
    [three] = bind(two.address, reuse_port=True)
    three.sock.listen(64)
    two.steer_to_successor()
    clients += [socket.create_connection(where) for _ in range(8)]
    assert (accepted(two), accepted(three)) == (1, 9)
    for client in clients:
        client.close()
    for listener in (two, three):
        listener.close()


@pytest.mark.parametrize(("held", "gone", "ends"), [(2, None, 1), (3, 0, 1), (3, 0, 2), (3, 1, 2)])
def test_whichever_ends_new_connections_go_to_one_that_stays(
    held: int, gone: int | None, ends: int
) -> None:
    """Also where an upgrade is taken back, and the newest goes; or where there were three."""
    [first] = bind(LOOPBACK, reuse_port=True)
    assert isinstance(first.address, ListenAddress)
    where = (first.address.host, first.address.port)
    all_ = [first] + [bind(first.address, reuse_port=True)[0] for _ in range(held - 1)]
    for listener in all_:
        listener.sock.listen(64)
    if gone is not None:
        all_[gone].close()
    all_[ends].steer_to_successor()
    clients = [socket.create_connection(where) for _ in range(32)]
    assert accepted(all_[ends]) <= 1  # its own, to see where they go
    for client in clients:
        client.close()
    for listener in all_:
        listener.close()


# --- Unix ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_has_its_mode_whatever_the_umask_and_goes_with_its_front_end(
    path: UnixAddress, mode: int
) -> None:
    before = os.umask(0o027)
    try:
        [listener] = bind(path, mode=mode)
    finally:
        os.umask(before)
    assert not os.path.exists(path.path)
    listener.sock.listen()
    listener.publish()
    found = os.stat(path.path).st_mode
    assert stat.S_ISSOCK(found)
    assert stat.S_IMODE(found) == mode
    assert (listener.local, listener.loopback) == (True, False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.path)
    listener.close()


def test_the_socket_of_a_killed_front_end_is_replaced(path: UnixAddress) -> None:
    killed = listening(path)
    killed.sock.close()
    [listener] = bind(path)
    listener.close()


def test_the_socket_of_a_living_front_end_is_not(path: UnixAddress) -> None:
    living = listening(path, backlog=0)
    for _ in range(3):  # a full queue is no sign of death
        with pytest.raises(CannotListen, match="it is in use"):
            bind(path)
    living.close()


def test_a_file_that_is_no_socket_is_left_alone(path: UnixAddress) -> None:
    Path(path.path).write_text("precious")
    with pytest.raises(CannotListen, match="no socket"):
        bind(path)
    with pytest.raises(CannotListen, match="no socket"):
        bind(path, reuse_port=True)
    assert Path(path.path).read_text() == "precious"
    Path(path.path).unlink()


@pytest.mark.parametrize(
    ("below", "reason"), [("no/such/folder", "not there"), ("x" * 120, "too long")]
)
def test_a_place_for_no_socket_is_an_error_that_says_why(
    tmp_path: Path, below: str, reason: str
) -> None:
    with pytest.raises(CannotListen, match=reason):
        bind(UnixAddress(str(tmp_path / below)))


def test_with_reuse_port_a_successor_takes_the_path_over_without_a_gap(path: UnixAddress) -> None:
    one = listening(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.path)
        assert not one.has_successor()
        [two] = bind(path, reuse_port=True)
        assert not one.has_successor()
        two.sock.listen()
        two.publish()
        assert one.has_successor()
        one.steer_to_successor()
        assert accepted(one) == 1
    one.close()  # leaves the successor's file
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.path)
        assert accepted(two) == 1
    two.close()


# --- Handed in ----------------------------------------------------------------------------------


def test_sockets_that_are_handed_in_say_where_they_are(path: UnixAddress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path.path)
        unix.listen()
        one, two = listeners.adopt(tcp), listeners.adopt(unix)
        assert one.address == ListenAddress("127.0.0.1", tcp.getsockname()[1])
        assert two.address == path
        assert (one.loopback, two.loopback) == (True, False)
        one.close()
        two.close()
        assert Path(path.path).exists()  # whoever made it removes it
        Path(path.path).unlink()


def test_a_datagram_socket_cannot_be_listened_on() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(CannotListen, match="ListenStream"),
    ):
        listeners.adopt(sock)


def test_a_connection_cannot_be_listened_on() -> None:
    one, two = socket.socketpair()
    with one, two, pytest.raises(CannotListen, match="Accept=no"):
        listeners.adopt(one)
