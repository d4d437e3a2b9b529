"""Which runners there are after a reload: who goes on, who comes, who goes.

Over an SSH server in the test's own loop, whose runners are played; tests/test_reload.py has whole
front-ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from llmrelay.inventory.load import load
from llmrelay.runners.fleet import Fleet, Plan
from llmrelay.runners.jump import Jumps
from llmrelay.runners.pool import Pool
from llmrelay.runners.runner import State
from llmrelay.secret import Secret
from runner_payload.protocol import FrameType
from tests.helpers.played_runner import Played
from tests.helpers.ssh_server import Host, Process, ssh_server

KEY = Secret("sk-test")
LIMIT_S = 10.0


def plan(host: Host, instances: int) -> Plan:
    config = host.config(runners=(host.address,), instances=instances)
    return [(spec, KEY) for spec in load(config).specs]


def states(pool: Pool) -> Iterable[State]:
    return [member.runner.state for member in pool.members]


async def all_ready(pool: Pool) -> None:
    """Returns when every runner takes calls; until then some do."""
    while set(states(pool)) != {State.READY}:
        assert State.READY in states(pool)
        assert any(member.standing.ready for member in pool.members)
        await asyncio.sleep(0.001)


def test_another_number_of_runners_leaves_alone_those_that_stay_and_never_none(
    tmp_path: Path,
) -> None:
    started = 0

    async def played(process: Process) -> None:
        nonlocal started
        started += 1
        runner = Played(process)
        await runner.get_ready()
        await runner.frame(FrameType.GOAWAY)
        process.exit(0)

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), ssh_server(tmp_path, played) as host:
            config, name = host.config(), str(host.address)
            pool = Pool(config)
            async with Jumps(config) as jumps, asyncio.TaskGroup() as group:
                fleet = Fleet(config, pool, jumps, group)
                fleet.apply(plan(host, 1))
                await fleet.first_ready()
                for instances, said, starts in (
                    # The one that there was has a successor on the shared connection.
                    (2, f"changed {name}#1; added {name}#2", 3),
                    (3, f"added {name}#3", 4),
                    (2, f"removed {name}#3", 4),
                    (1, f"removed {name}#2; changed {name}", 5),
                ):
                    assert fleet.apply(plan(host, instances)) == said
                    await all_ready(pool)
                    while started < starts:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    await all_ready(pool)
                    names = {member.runner.name for member in pool.members}
                    assert names == {spec.name for spec, _ in plan(host, instances)}
                    assert names == {member.standing.spec.name for member in pool.members}
                assert started == 5
                await fleet.stop()

    asyncio.run(scene())
