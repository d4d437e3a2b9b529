from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_network

import pytest

from llmrelay.config import Config
from llmrelay.errors import TooManyConnections
from llmrelay.http import connection_limits as subject_module
from llmrelay.http.connection_limits import (
    DEFAULT_PER_ADDRESS,
    ConnectionLimits,
    PerAddress,
    descriptors,
    fitted,
)
from llmrelay.http.forwarded import parse_address
from llmrelay.values import UNIX

from .conftest import Run
from .live import GET, Client, serving, until
from .test_connection import Held


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle is idle from its first moment."""
    monkeypatch.setattr(subject_module, "IDLE_AFTER_S", 0)


class Guest:
    """A connection that is told to go, or not."""

    def __init__(self) -> None:
        self.gone = False

    def drain(self, idle_grace_s: float) -> None:
        self.gone = True


async def entering(limits: ConnectionLimits, count: int, address: str = "192.0.2.1") -> list[Guest]:
    guests = [Guest() for _ in range(count)]
    for guest in guests:
        await limits.enter(guest, parse_address(address))
    return guests


async def waiting(limits: ConnectionLimits) -> tuple[Guest, asyncio.Task[None]]:
    """A connection that has come as far as it can for now."""
    guest = Guest()
    task = asyncio.ensure_future(limits.enter(guest, parse_address("192.0.2.1")))
    await asyncio.sleep(0)
    return guest, task


async def begin(client: Client) -> bytes:
    """Sends a request; the first chunk of the answer."""
    client.send(GET)
    assert (await client.head()).status == 200
    return await client.chunk()


# --- Who goes, who waits ------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_at_the_limit_the_longest_idle_makes_room_and_no_other(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=3))
        one, two, three = await entering(limits, 3)
        assert (one.gone, two.gone, three.gone) == (False, False, False)
        limits.busy(one)  # an exchange
        limits.idle(one)  # and it is over
        await entering(limits, 1)
        assert (one.gone, two.gone, three.gone) == (False, True, False)

    run(subject())


def test_one_that_has_begun_a_request_is_never_ended_for_another(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=1, queue_length=0))
        [one] = await entering(limits, 1)
        limits.busy(one)
        with pytest.raises(TooManyConnections, match="Too many connections are open here"):
            await entering(limits, 1)
        assert not one.gone
        limits.leave(one)
        await entering(limits, 1)

    run(subject())


def test_without_room_connections_wait_and_the_first_that_came_is_the_first_in(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=1))
        [one] = await entering(limits, 1)
        limits.busy(one)
        two, entered = await waiting(limits)
        _, next_entered = await waiting(limits)
        assert limits.crowded
        assert not entered.done()
        limits.leave(one)
        limits.busy(two)
        await entered
        assert not next_entered.done()
        limits.leave(two)
        await next_entered
        assert not limits.crowded

    run(subject())


def test_one_that_has_just_become_idle_makes_room_only_after_a_moment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_module, "IDLE_AFTER_S", 0.05)

    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=1))
        [one] = await entering(limits, 1)
        limits.busy(one)
        two, entered = await waiting(limits)
        limits.idle(one)
        await asyncio.sleep(0)
        assert not entered.done()
        limits.busy(one)  # the next request has come in time
        limits.idle(one)
        await entered
        assert one.gone
        _, next_entered = await waiting(limits)
        assert not two.gone
        await next_entered
        assert two.gone

    run(subject())


@pytest.mark.parametrize("queue", [0, 1])
def test_none_is_refused_while_one_is_idle_however_short(run: Run, queue: int) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=1, queue_length=queue))
        [one] = await entering(limits, 1)
        tasks = [(await waiting(limits))[1] for _ in range(queue + 1)]
        assert one.gone
        await tasks[0]
        assert limits.crowded is (queue == 1)
        for task in tasks[1:]:
            await task

    run(subject())


def test_no_more_wait_than_may_and_none_longer_than_it_may(run: Run) -> None:
    async def subject() -> None:
        config = Config(max_connections=1, queue_length=1, queue_timeout_s=0.05)
        limits = ConnectionLimits(config)
        [one] = await entering(limits, 1)
        limits.busy(one)
        _, entered = await waiting(limits)
        _, refused = await waiting(limits)
        assert refused.done()
        assert not entered.done()
        for task in (refused, entered):
            with pytest.raises(TooManyConnections):
                await task
        assert not limits.crowded

    run(subject())


@pytest.mark.usefixtures("impatient")
def test_one_that_had_to_go_is_counted_no_more_whatever_it_says_afterwards(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections=1, queue_length=0))
        [one] = await entering(limits, 1)
        [two] = await entering(limits, 1)
        limits.busy(one)
        limits.idle(one)
        limits.leave(one)
        limits.busy(two)
        with pytest.raises(TooManyConnections):
            await entering(limits, 1)

    run(subject())


def test_only_so_many_are_told_why_they_may_not_come_in(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_module, "MAX_TURNED_AWAY", 1)

    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections_per_address=1))
        await entering(limits, 1)
        told = Guest()
        for expected in (TooManyConnections, ConnectionAbortedError, TooManyConnections):
            with pytest.raises(expected):
                await limits.enter(told, parse_address("192.0.2.1"))
            if expected is ConnectionAbortedError:
                limits.leave(told)

    run(subject())


# --- Per address --------------------------------------------------------------------------------


def test_an_address_at_its_limit_is_refused_whatever_is_free_and_others_are_not(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections_per_address=2))
        one, _ = await entering(limits, 2, "192.0.2.1")
        with pytest.raises(TooManyConnections, match="Your address has 2 connections"):
            await entering(limits, 1, "192.0.2.1")
        await entering(limits, 2, "192.0.2.2")
        limits.leave(one)
        await entering(limits, 1, "192.0.2.1")

    run(subject())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_address_stands_for_its_network_and_a_mapped_one_for_ipv4(
    one: str, other: str, same: bool
) -> None:
    counts = PerAddress(1, count_loopback=False)
    assert counts.take(parse_address(one))
    assert counts.take(parse_address(other)) is not same
    counts.release(parse_address(one))
    assert counts.take(parse_address(one))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_has_a_limit_only_if_one_was_given(run: Run, address: str) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config())
        await entering(limits, DEFAULT_PER_ADDRESS + 1, address)
        await entering(limits, DEFAULT_PER_ADDRESS, "192.0.2.1")
        with pytest.raises(TooManyConnections):
            await entering(limits, 1, "192.0.2.1")
        limits = ConnectionLimits(Config(max_connections_per_address=1))
        await entering(limits, 1, address)
        with pytest.raises(TooManyConnections):
            await entering(limits, 1, address)

    run(subject())


def test_behind_a_trusted_proxy_a_clients_exchanges_count_in_place_of_connections(
    run: Run,
) -> None:
    async def subject() -> None:
        proxies = (ip_network("192.0.2.0/24"),)
        limits = ConnectionLimits(Config(max_connections_per_address=2, trusted_proxies=proxies))
        await entering(limits, 3, "192.0.2.1")
        proxy, client, other = map(parse_address, ("192.0.2.1", "198.51.100.1", "198.51.100.2"))
        with limits.exchange(client, proxy):
            with limits.exchange(client, proxy), limits.exchange(proxy, proxy):
                with pytest.raises(TooManyConnections), limits.exchange(client, proxy):
                    pass
                with limits.exchange(other, proxy):
                    pass
            with limits.exchange(client, proxy):
                pass

    run(subject())


def test_a_unix_sockets_clients_have_no_limit_of_their_own(run: Run) -> None:
    async def subject() -> None:
        limits = ConnectionLimits(Config(max_connections_per_address=1))
        for _ in range(2):
            await limits.enter(Guest(), UNIX)

    run(subject())


# --- With sockets -------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_any_number_of_idle_connections_leaves_room_for_a_request(run: Run) -> None:
    async def subject() -> None:
        async with serving(max_connections=3) as server, AsyncExitStack() as stack:
            fresh, used, begun = [await stack.enter_async_context(Client(server)) for _ in range(3)]
            assert (await used.ask(GET)).status == 200
            begun.send(GET[:-1])
            await until(lambda: len(server._limits._idle) == 2)
            more = [await stack.enter_async_context(Client(server)) for _ in range(3)]
            assert await fresh.closed() == await used.closed() == await more[0].closed() == b""
            for client in more[1:]:
                assert (await client.ask(GET)).status == 200
            assert (await begun.ask(GET[-1:])).status == 200

    run(subject())


@pytest.mark.usefixtures("impatient")
def test_past_the_limit_with_none_idle_a_connection_reads_503_and_answers_go_on(run: Run) -> None:
    async def subject() -> None:
        held = Held(start=True)
        async with (
            serving(held, max_connections=2, queue_timeout_s=0.05) as server,
            AsyncExitStack() as stack,
        ):
            one, two = [await stack.enter_async_context(Client(server)) for _ in range(2)]
            for client in (one, two):
                assert await begin(client) == b"begun"
            async with Client(server) as three:
                refusal = await three.response()
                assert (refusal.status, refusal.body) == (503, b"unread too_many_connections")
                assert refusal.headers["retry-after"] == "1"
                assert refusal.headers["connection"] == "close"
                three.send(GET)  # too late, and does not turn the end into a reset
                assert await three.closed() == b""
            held.let_go.set()
            for client in (one, two):
                assert await client.chunk() == b""
            await until(lambda: len(server._limits._idle) > 0)
            async with Client(server) as four:
                assert await begin(four) == b"begun"

    run(subject())


def test_an_address_past_its_limit_reads_503(run: Run) -> None:
    async def subject() -> None:
        async with serving(max_connections_per_address=1) as server, Client(server) as one:
            assert (await one.ask(GET)).status == 200
            async with Client(server) as two:
                refusal = await two.response()
                assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
            one.close()
            await until(lambda: server.connections == 0)
            async with Client(server) as three:
                assert (await three.ask(GET)).status == 200

    run(subject())


def test_one_that_waits_is_served_once_the_one_before_it_has_its_answer(
    run: Run,
) -> None:
    async def subject() -> None:
        held = Held()
        async with serving(held, max_connections=1) as server, Client(server) as one:
            one.send(GET)
            await held.entered.wait()
            async with Client(server) as two:
                two.send(GET)
                await until(lambda: server._limits.crowded)
                held.let_go.set()
                assert (await one.response()).status == 200
                assert await one.closed() == b""
                assert (await two.response()).status == 200

    run(subject())


def test_drain_lets_in_who_waits_so_that_none_is_left_without_an_answer(run: Run) -> None:
    async def subject() -> None:
        held = Held()
        async with serving(held, max_connections=1) as server, Client(server) as one:
            one.send(GET)
            await held.entered.wait()
            async with Client(server) as two, Client(server) as three:
                two.send(GET)
                await until(lambda: len(server._limits._waiting) == 2)
                draining = asyncio.create_task(server.drain(30))
                assert await three.closed() == b""
                held.let_go.set()
                for client in (one, two):
                    response = await client.response()
                    assert (response.status, response.headers["connection"]) == (200, "close")
                    client.close()
                await draining

    run(subject())


# --- Descriptors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "connections"),
    [(20_000, 10_000), (12_176, 10_000), (12_175, 9_999), (1_024, 512), (300, 150), (1, 1)],
)
def test_connections_are_no_more_than_open_files_are_allowed_for(
    allowed: int, connections: int
) -> None:
    config = Config()
    assert descriptors(config) == 12_176
    fitting = fitted(config, allowed)
    assert fitting.max_connections == connections
    assert (fitting is config) is (allowed >= 12_176)


def test_few_connections_stay_as_they_are_where_few_open_files_are_allowed() -> None:
    assert fitted(Config(max_connections=100), 1_000).max_connections == 100
