"""A supervisor and its workers: processes that come, go and are killed while clients ask.

Workers without runners; tests/test_workers.py has whole ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrelay.config import Config
from llmrelay.errors import CannotListen
from llmrelay.http import listeners
from llmrelay.http.lending import Lender
from llmrelay.http.server import Server
from llmrelay.values import ListenAddress
from tests.helpers.asking import wait_until
from tests.helpers.openssh import children_of
from tests.helpers.supervised import LIMIT_S, Supervised
from tests.http.live import echo, render_error
from tests.test_life import until_gone


def ask(port: int, times: int = 40) -> dict[int, set[int]]:
    """Asks on so many new connections; which pids answered, by number of the worker."""
    seen: dict[int, set[int]] = {}
    for _ in range(times):
        client = Client(port)
        number, pid, body = client.ends()
        assert body == "hi"
        seen.setdefault(number, set()).add(pid)
    return seen


def pids_of(seen: dict[int, set[int]]) -> set[int]:
    return set().union(*seen.values())


def until_both_answer(port: int, *without: int) -> dict[int, int]:
    """The pid of each worker, once both are there and none of `without`."""
    found: dict[int, int] = {}

    def both() -> bool:
        seen = ask(port)
        found.update({number: max(pids) for number, pids in seen.items()})
        return seen.keys() == {1, 2} and not pids_of(seen) & set(without)

    wait_until(both)
    return found


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


class Client:
    """A request whose last byte is still to come."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n"
        self.sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())

    def begins(self) -> None:
        """Returns when the worker is answering."""
        assert self.sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def ends(self) -> tuple[int, int, str]:
        self.sock.sendall(b"hi")
        with self.sock, self.sock.makefile("rb") as file:
            answer = file.read().decode().removeprefix("HTTP/1.1 100 Continue\r\n\r\n")
        assert answer.startswith("HTTP/1.1 200 "), answer
        number, pid, body = answer.partition("\r\n\r\n")[2].split()
        return int(number), int(pid), body


def ask_both(supervised: Supervised) -> list[Client]:
    """Requests that both workers are answering: that of 20 none goes to one of them is 2 ** -19."""
    clients = [Client(supervised.port) for _ in range(20)]
    for client in clients:
        client.begins()
    return clients


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(LIMIT_S)
        yield sock


@pytest.fixture
def supervised(tmp_path: Path, systemd: socket.socket) -> Iterator[Supervised]:
    env = {"NOTIFY_SOCKET": systemd.getsockname()}
    with Supervised(tmp_path, "reuse", env=env) as running:
        running.wait_until_ready()
        assert systemd.recv(100) == b"READY=1"
        yield running


def told(systemd: socket.socket) -> list[bytes]:
    """What systemd was told since, by the first words."""
    systemd.setblocking(False)
    messages = []
    try:
        while True:
            messages.append(systemd.recv(100).partition(b"\n")[0])
    except BlockingIOError:
        return messages


def test_workers_come_and_go_and_no_request_is_lost(
    supervised: Supervised, systemd: socket.socket
) -> None:
    port = supervised.port
    seen = ask(port, 200)
    assert seen.keys() == {1, 2}
    before = until_both_answer(port)
    assert sorted(before.values()) == sorted(children_of(supervised.pid))

    # The address is theirs alone: nobody gets it who does not ask to share it.
    config = Config(listen=(ListenAddress("127.0.0.1", port),), workers=2)
    with pytest.raises(CannotListen, match="it is in use"):
        Lender(config)

    # All of them reload, and systemd hears of it once.
    supervised.signal(signal.SIGHUP)
    assert systemd.recv(100).startswith(b"RELOADING=1\n")
    assert systemd.recv(100) == b"READY=1"

    # One drains by itself: what it has goes on, and what comes is another's.
    clients = ask_both(supervised)
    os.kill(before[2], signal.SIGTERM)
    after = until_both_answer(port, before[2])
    assert after[1] == before[1]
    answered = {client.ends()[1] for client in clients}
    assert answered == set(before.values())
    until_gone({before[2]}, LIMIT_S)

    # One is killed, and does not come again at once.
    supervised.hindrance.touch()
    os.kill(after[1], signal.SIGKILL)
    supervised.wait_for_log(r"worker 1 \(pid \d+\) ended: There is a hindrance; another is")
    assert ask(port) == {2: {after[2]}}
    supervised.hindrance.unlink()
    until_both_answer(port, after[1])
    killed = f"worker 1 (pid {after[1]}) was ended by SIGKILL; another is started in "
    assert supervised.log.count(killed) == 1
    assert "Traceback" not in supervised.log
    assert told(systemd) == []


def test_a_drain_waits_for_the_answers_of_all(
    supervised: Supervised, systemd: socket.socket
) -> None:
    clients = ask_both(supervised)
    workers = set(children_of(supervised.pid))
    with socket.create_connection(("127.0.0.1", supervised.port)) as idle:
        supervised.signal(signal.SIGTERM)
        # Idle connections end at once, and no new ones are taken.
        idle.settimeout(LIMIT_S)
        assert idle.recv(1) == b""
        assert systemd.recv(100) == b"STOPPING=1"
    # That worker's socket is closed, and the other's any moment now.
    wait_until(lambda: refuses(supervised.port))
    assert {client.ends()[1] for client in clients} == workers
    assert supervised.wait() == 0
    assert told(systemd) == []


def test_an_upgrade_on_a_shared_port_loses_no_request(
    supervised: Supervised, systemd: socket.socket, tmp_path: Path
) -> None:
    clients = ask_both(supervised)
    with Supervised(tmp_path, "reuse", port=supervised.port, env={}) as successor:
        successor.wait_until_ready()
        own = set(children_of(successor.pid))
        # The older ones' sockets stay open, and the kernel gives them nothing any more.
        older = children_of(supervised.pid)
        for pid in older:
            os.kill(pid, signal.SIGSTOP)
        supervised.signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1"
        assert pids_of(ask(successor.port)) <= own
        for pid in older:
            os.kill(pid, signal.SIGCONT)
        for client in clients:
            client.ends()
        assert supervised.wait() == 0
        assert set(until_both_answer(successor.port).values()) == own
        # And of one that is killed nothing is left.
        successor.signal(signal.SIGKILL)
        until_gone(own, LIMIT_S)


def test_a_second_signal_ends_all_at_once(supervised: Supervised) -> None:
    clients = ask_both(supervised)
    workers = set(children_of(supervised.pid))
    for pid in (supervised.pid, *workers):  # as Ctrl-C does: that is one, not two
        os.kill(pid, signal.SIGINT)
    assert clients[0].ends()[2] == "hi"
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 128 + signal.SIGTERM
    until_gone(workers, 0.5)
    for client in clients[1:]:
        client.sock.close()


def test_the_status_is_that_of_the_first_that_failed(supervised: Supervised) -> None:
    clients = ask_both(supervised)
    supervised.signal(signal.SIGTERM)
    os.kill(children_of(supervised.pid)[0], signal.SIGKILL)
    supervised.wait_for_log(r"worker \d \(pid \d+\) was ended by SIGKILL\n")
    for client in clients:
        client.sock.close()
    assert supervised.wait() == 128 + signal.SIGKILL


def test_what_stands_in_the_way_of_a_start_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "hindrance").touch()
    with Supervised(tmp_path, env={}) as supervised:
        assert supervised.wait() == 3
        assert supervised.process.stdout is not None
        assert supervised.process.stdout.read() == "There is a hindrance.\n"
        assert supervised.log == ""


def test_of_two_that_start_at_once_one_has_the_address() -> None:
    one = Lender(Config(listen=(ListenAddress("127.0.0.1", 0),), workers=2))
    [address] = one.addresses
    two = Lender(Config(listen=(address,), workers=2))  # as nobody listens there yet
    for lender in (one, two):
        lender._sets[1][0].sock.listen()
        if lender is one:
            lender.publish()
    with pytest.raises(CannotListen, match="it is in use"):
        two.publish()
    one.close()
    two.close()


def test_a_socket_that_is_lent_has_a_successor_as_its_supervisor_says() -> None:
    """Whoever else listens on the address may be another worker of the same supervisor."""
    [one] = listeners.bind([ListenAddress("127.0.0.1", 0)], reuse_port=False, socket_mode=0)
    two = one.another()
    for each in (one, two):
        each.sock.listen()
    lent = one.lent()

    async def subject() -> None:
        server = Server(Config(listen=()), echo, render_error, [lent])
        server.bind()
        assert lent.has_successor()
        server.give_back(succeeded=False)
        assert not lent.has_successor()
        server.give_back(succeeded=True)
        assert lent.has_successor()
        assert not lent.handed_in
        server.abort()

    asyncio.run(subject())
    two.close()
