"""Several runners on one host: processes of their own, and one connection that they share.

An OpenSSH sshd that lets a connection have two sessions, and an inventory that asks for three.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.asking import ask, health, runner_pids, wait_until
from tests.helpers.fleet import Fleet, Host
from tests.helpers.front_end import FrontEndProcess
from tests.helpers.openssh import children_of, require_sshd
from tests.helpers.upstream import Delta, WaitFor, answer


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    require_sshd()
    with Fleet(1, "MaxSessions 2") as running:
        [host] = running.hosts
        running.write(host.line(llmrelay_instances="3"))
        yield running


def logins(host: Host) -> int:
    return host.server.log.count("Accepted publickey")


def ready(front_end: FrontEndProcess) -> list[str]:
    runners = health(front_end)["runners"]
    return [name for name, each in runners.items() if each["state"] == "ready"]


def losses(front_end: FrontEndProcess) -> list[str]:
    """What was lost, and why, but for the runner that there is no session for."""
    found = re.findall(r"([\w# ]+) is lost: (.*); next attempt", front_end.log)
    return [" ".join([who.split()[-1], why]) for who, why in found if "MaxSessions" not in why]


def test_the_runners_of_a_host_share_its_connection_and_nothing_else(fleet: Fleet) -> None:
    [host] = fleet.hosts
    with FrontEndProcess(fleet.options()) as front_end, ThreadPoolExecutor(2) as pool:
        front_end.wait_for_log(" is ready: ", limit_s=20, count=2)
        assert len(runner_pids(host)) == 2
        assert logins(host) == 1
        # The third says why there is none.
        log = front_end.wait_for_log("have fewer of them (llmrelay_instances or --instances), or")
        assert re.search(r"a#\d is lost: \S+ refuses a further session .* MaxSessions in its", log)

        # Calls go to both, and one that is killed takes its own with it.
        host.script.script = [Delta("first, "), WaitFor("go"), *answer("last")]
        asked = [pool.submit(front_end.chat) for _ in range(2)]
        host.upstream.wait_for_requests(2)
        os.kill(min(runner_pids(host)), signal.SIGKILL)
        wait_until(lambda: any(each.done() for each in asked))
        host.upstream.open("go")
        host.script.script = answer("a")
        whole = [each.result()[1] for each in asked if each.exception() is None]
        assert whole == [b"first, last"]
        wait_until(lambda: len(set(re.findall(r"runner=(a#\d)", front_end.log))) == 2)
        front_end.wait_for_log(" is ready: ", limit_s=20, count=3)
        assert len(ready(front_end)) == 2
        assert logins(host) == 1
        assert [re.sub(r"#\d", "", each) for each in losses(front_end)] == ["a SIGKILL ended it"]

        # The connection's loss is one event, and one new connection ends it.
        [session] = children_of(host.server.pid)
        os.kill(session, signal.SIGKILL)
        front_end.wait_for_log(" is ready: ", limit_s=20, count=5)
        assert ask(front_end, 4) == {"a": 4}
        assert len(ready(front_end)) == 2
        _, *connection = losses(front_end)
        assert len(connection) == 1
        assert connection[0].startswith("a a was lost: ")
        assert "host a is lost: " in front_end.log
        assert connection[0].endswith("all its runners wait for it")
        assert logins(host) == 2
