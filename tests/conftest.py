"""What several test files share: one sshd, one upstream, one front-end over both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings

from tests.helpers.fleet import Fleet
from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer, require_sshd
from tests.helpers.upstream import ScriptedUpstream, ThreadedUpstream, answer

# Properties are tried with so many examples, and not the same ones each time. For one that was
# changed: `pytest --hypothesis-profile thorough`; scripts/fuzz goes on from there.
settings.register_profile("suite", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("suite")

# These take longest, with few tests that wait for many runners. Begun last, they would leave two of
# three workers idle at the end.
LONGEST = (
    "test_fleet.py", "test_clients.py", "test_life.py", "test_check.py", "test_jump.py",
    "test_upgrade.py", "test_channel.py", "test_bootstrap.py", "test_reload.py", "test_helpers.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@dataclass
class Stage:
    """A front-end, the sshd that its runner is on, and the upstream that the runner calls."""

    front_end: FrontEndProcess
    server: OpenSSHServer
    script: ScriptedUpstream
    upstream: ThreadedUpstream


@pytest.fixture(scope="session")
def sshd() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer() as server:
        yield server


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[Fleet]:
    """A module's own, as it may have been left by the test before."""
    require_sshd()
    with Fleet(2) as running:
        yield running


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[Fleet]:
    """As two_hosts; `fleet` has them as each test finds them."""
    require_sshd()
    with Fleet(3) as running:
        yield running


@pytest.fixture
def fleet(three_hosts: Fleet) -> Fleet:
    """Three hosts that are well, and all in the inventory."""
    for host in three_hosts.hosts:
        host.script.script = answer(host.name)
        host.script.queue.clear()
        host.script.requests.clear()
        host.script.paths.clear()
    three_hosts.trust()
    three_hosts.write(*(host.line() for host in three_hosts.hosts))
    return three_hosts


@pytest.fixture(scope="session")
def shared_stage(sshd: OpenSSHServer) -> Iterator[Stage]:
    script = ScriptedUpstream()
    with script.in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url]
        with FrontEndProcess(options) as front_end:
            yield Stage(front_end, sshd, script, upstream)


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """The stage as each test finds it: the default answer, no request recorded."""
    shared_stage.script.queue.clear()
    shared_stage.script.script = answer("Hello", ", ", "world")
    shared_stage.script.requests.clear()
    shared_stage.script.paths.clear()
    shared_stage.script.uploads.clear()
    return shared_stage
