"""A shared host's life: kept while it is needed, tried again while it is waited for, then left.

Over logins that are made up; tests/test_jump.py has real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from llmrelay.config import Config
from llmrelay.errors import HostUnreachable
from llmrelay.runners import backoff, jump, shared
from llmrelay.runners.jump import Jumps
from llmrelay.runners.shared import SharedHost, SharedHostDown
from llmrelay.runners.spec import HostSpec
from llmrelay.values import HostAddress, parse_host

LIMIT_S = 30.0
# In place of a minute, and longer than it takes to see that nothing happens.
IDLE_S = 0.02
LONG_S = 5 * IDLE_S


@dataclass(frozen=True)
class FakeSettings:
    """As much of Settings as jump hosts need."""

    address: HostAddress
    jumps: tuple[HostAddress, ...] = ()

    @property
    def place(self) -> object:
        return self.address


class FakeLogin:
    """A login that is lost when the test says so."""

    def __init__(self, name: str, tunnel: FakeLogin | None) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self.closed = asyncio.Event()
        self.loss = "the test says so"
        self.behind: list[FakeLogin] = []
        if tunnel is not None:
            tunnel.behind.append(self)

    def lose(self) -> None:
        self.lost.set()
        for login in self.behind:
            login.lose()

    async def close(self) -> None:
        self.closed.set()
        self.lose()


class Network:
    """Which hosts there are, and what was logged in to."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.logins: list[FakeLogin] = []
        self.attempts: list[str] = []
        self.silences_s: list[float | None] = []
        self.attempted = asyncio.Event()

    async def log_in(
        self,
        hop: FakeSettings,
        tunnel: FakeLogin | None,
        on_step: object = None,
        silence_s: float | None = None,
    ) -> FakeLogin:
        name = str(hop.address)
        self.attempts.append(name)
        self.attempted.set()
        await asyncio.sleep(0)
        if name in self.down:
            raise HostUnreachable(f"{name} cannot be reached.")
        self.silences_s.append(silence_s)
        login = FakeLogin(name, tunnel)
        self.logins.append(login)
        return login

    async def until_attempts(self, count: int) -> None:
        while len(self.attempts) < count:
            self.attempted.clear()
            await self.attempted.wait()

    @property
    def alive(self) -> list[str]:
        return [login.name for login in self.logins if not login.lost.is_set()]


@contextlib.asynccontextmanager
async def resolved(address: HostAddress, *_: object) -> AsyncIterator[FakeSettings]:
    yield FakeSettings(address)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(shared, "log_in", made.log_in)
    monkeypatch.setattr(shared, "resolved", resolved)
    monkeypatch.setattr(jump, "resolved", resolved)
    monkeypatch.setattr(shared, "IDLE_S", IDLE_S)
    monkeypatch.setattr(backoff, "MIN_S", 0.001)
    monkeypatch.setattr(backoff, "MAX_S", 0.004)
    return made


def run(subject: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await subject
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


def hops(*names: str) -> Sequence[HostAddress]:
    return [parse_host(name) for name in names]


async def stays_untouched(event: asyncio.Event) -> bool:
    """Whether an event that must not come does not, for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONG_S):
            await event.wait()
            return False
    return True


def losses(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [message for message in found if " is lost: " in message]


def test_it_is_left_when_nobody_has_needed_it_for_a_while(network: Network) -> None:
    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            first = await jumps.to(hops("a"))
            with first.needed():
                await first.login()
                assert await stays_untouched(network.logins[0].closed)
            await network.logins[0].closed.wait()
            # Whoever comes then gets another.
            again = await jumps.to(hops("a"))
            assert again is not first
            with again.needed():
                await again.login()
            assert network.alive == ["a"]
        assert network.alive == []

    run(subject())


def test_it_is_kept_for_whom_comes_back_while_it_is_idle(network: Network) -> None:
    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            host = await jumps.to(hops("a"))
            with host.needed():
                await host.login()
            # Its timer runs from here on.
            await asyncio.sleep(0)
            with host.needed():
                await host.login()
                assert await stays_untouched(network.logins[0].closed)

    run(subject())


def test_one_that_cannot_be_reached_is_given_up_with_whom_it_was_for(network: Network) -> None:
    async def subject() -> None:
        network.down = {"a"}
        async with Jumps(Config()) as jumps:
            host = await jumps.to(hops("a", "b"))
            with host.needed(), pytest.raises(SharedHostDown):
                await host.login()
            while jumps._tasks:
                await asyncio.wait(jumps._tasks)
            assert not jumps._known

    run(subject())


def test_who_waits_for_it_hears_when_it_is_back(network: Network) -> None:
    async def subject() -> None:
        network.down = {"a"}
        async with Jumps(Config()) as jumps:
            host = await jumps.to(hops("a"))
            with host.needed():
                with pytest.raises(SharedHostDown) as down:
                    await host.login()
                assert down.value.error.message == "a cannot be reached."
                waiting = asyncio.ensure_future(host.up())
                await network.until_attempts(4)
                assert not waiting.done()
                network.down.clear()
                await waiting
                assert host.is_up

    run(subject())


def test_hosts_behind_the_same_hops_share_them(network: Network) -> None:
    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            b, c, b_alone = [
                await jumps.to(each) for each in (hops("a", "b"), hops("a", "c"), hops("b"))
            ]
            assert b.before is not None
            assert b.before is c.before
            assert await jumps.to(hops("a", "b")) is b
            assert b_alone is not b
            for host in (b, c, b_alone):
                with host.needed():
                    await host.login()
            assert sorted(network.attempts) == ["a", "b", "b", "c"]

    run(subject())


def test_the_loss_of_a_first_hop_is_one_event(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            b, c = await jumps.to(hops("a", "b")), await jumps.to(hops("a", "c"))
            with b.needed(), b.needed(), c.needed():
                await b.login()
                await c.login()
                network.down = {"a"}
                network.logins[0].lose()
                await network.until_attempts(5)
                with pytest.raises(SharedHostDown) as down:
                    await c.login()
                assert (down.value.host, down.value.culprit) == (c, c.before)
                network.down.clear()
                await b.up()
                await c.up()
        said = losses(caplog)
        assert {message.partition(" is lost")[0] for message in said} == {"jump host a"}
        assert all("in the way to 3 runners" in message for message in said)

    run(subject())


def test_the_loss_of_a_host_of_several_runners_is_one_event_and_its_jump_hosts_is_not_its_own(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    spec = HostSpec(parse_host("h"), "python3", "http://up.test", shared_as="gpu")

    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            before = await jumps.to(hops("a"))
            host = jumps.of(spec, before)
            assert jumps.of(spec, before) is host
            with host.needed(), host.needed():
                await host.login()
                network.logins[-1].lose()
                await network.until_attempts(3)
                await host.login()
                network.logins[0].lose()
                await network.until_attempts(5)
                await host.login()
        said = [message.partition("; next attempt")[0] for message in losses(caplog)]
        assert said == [
            "host gpu is lost: gpu was lost: the test says so; all its runners wait for it",
            "jump host a is lost: a was lost: the test says so; it is in the way to 2 runners",
        ]

    run(subject())


def test_the_hop_that_stands_still_is_noticed_before_those_behind_it(network: Network) -> None:
    async def subject() -> None:
        config = Config()
        async with Jumps(config) as jumps:
            host = await jumps.to(hops("a", "b", "c"))
            with host.needed():
                await host.login()
        silences_s = [silence_s or 0.0 for silence_s in network.silences_s]
        assert silences_s == sorted(set(silences_s))
        assert silences_s[-1] < config.ping_timeout_s

    run(subject())


def test_what_is_asked_for_is_tried_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_S", "MAX_S"):
        monkeypatch.setattr(backoff, name, 1000.0)

    async def subject() -> None:
        network.down = {"a"}
        async with Jumps(Config()) as jumps:
            host = await jumps.to(hops("a"))
            with host.needed(), pytest.raises(SharedHostDown):
                await host.login()
            assert host.retry_in_s > 100
            network.down.clear()
            jumps.retry_now()
            await host.up()

    run(subject())


def test_a_bug_is_logged_and_the_next_attempt_made(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def subject() -> None:
        async with Jumps(Config()) as jumps:
            host: SharedHost = await jumps.to(hops("a"))
            monkeypatch.setattr(shared, "log_in", None)
            with host.needed(), pytest.raises(SharedHostDown):
                await host.login()
            monkeypatch.setattr(shared, "log_in", network.log_in)
            await host.up()
        assert "jump host a: connecting failed" in caplog.text

    run(subject())
