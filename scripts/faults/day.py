"""`scripts/chaos faults`: plan.py's script of faults under a steady load, and what came of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .front_end import FrontEnd, serving
from .hosts import Host, Hosts
from .load import ENDINGS, Load, Result, counted
from .plan import BEHIND_BASTION, ON_THE_BASTION, RUNNERS, Planned, plan

AT_ONCE = 100
# Load alone, before the first fault and after the last.
CALM_S = 5.0
# Until a host that was mended has to serve again: the longest pause between attempts, and a start.
BACK_S = 90.0
# The loss of a runner that was silent may still come so long after it was mended.
AFTER_S = 12.0
# A call that is cut and the line about its runner's loss are as near as this.
NEAR_S = 1.0


@dataclass
class Fault:
    """Something that was done to a host; times are those of the clock, in seconds.

    Attributes:
        lost_at_s: when the front-end's log says that the runner, or its jump host, is lost.
        back_s: how long after it was mended the runner served again.
    """

    kind: str
    runner: str
    at_s: float
    mended_at_s: float = 0.0
    lost_at_s: float | None = None
    back_s: float | None = None

    @property
    def severs(self) -> bool:
        """Whether the runner may be lost by it, and answers cut."""
        return not self.kind.startswith("upstream")


def do(kind: str, host: Host) -> None:
    """Begins a fault."""
    match kind.removeprefix("bastion's "):
        case "runner killed":
            host.signal_runners(signal.SIGKILL)
        case "runner stopped":
            host.signal_runners(signal.SIGSTOP)
        case "sshd killed":
            host.kill_sshd()
        case "blackhole":
            host.pull_cable()
        case upstream:
            host.set_mode(upstream.removeprefix("upstream "))


def mend(kind: str, host: Host) -> None:
    """Ends a fault."""
    match kind.removeprefix("bastion's "):
        case "runner killed":
            pass
        case "runner stopped":
            host.signal_runners(signal.SIGCONT)
        case "sshd killed":
            host.start_sshd()
        case "blackhole":
            host.plug_in()
        case _:
            host.set_mode("well")


@dataclass
class Day:
    """The faults as they were done."""

    hosts: Hosts
    front_end: FrontEnd
    faults: list[Fault] = field(default_factory=list)

    async def run(self, script: list[Planned]) -> None:
        """Every fault at its time, or once its runner has come back from the one before."""
        begun_at_s = time.time()
        one_at_a_time = {name: asyncio.Lock() for name in RUNNERS}

        async def inflict(planned: Planned) -> None:
            await asyncio.sleep(begun_at_s + planned.at_s - time.time())
            async with one_at_a_time[planned.runner]:
                await self._inflict(planned)

        async with asyncio.TaskGroup() as group:
            for planned in script:
                group.create_task(inflict(planned))

    async def _inflict(self, planned: Planned) -> None:
        """One fault, from its begin until the runner serves again."""
        kind = planned.kind
        host = self.hosts["bastion" if kind in ON_THE_BASTION else planned.runner]
        fault = Fault(kind, planned.runner, time.time())
        self.faults.append(fault)
        await asyncio.to_thread(do, kind, host)
        await asyncio.sleep(planned.lasts_s)
        mending_at_s = time.time()
        await asyncio.to_thread(mend, kind, host)
        fault.mended_at_s = time.time()
        if fault.severs:
            fault.lost_at_s = await self._logged(losses_of(fault.runner), fault.at_s, AFTER_S)
        if fault.lost_at_s is not None:
            back_at_s = await self._logged((f"{fault.runner} is ready",), fault.lost_at_s, BACK_S)
            # One that was only stopped may have a successor before it goes on.
            fault.back_s = BACK_S if back_at_s is None else max(0.0, back_at_s - mending_at_s)

    async def _logged(self, texts: tuple[str, ...], since_s: float, limit_s: float) -> float | None:
        deadline = time.time() + limit_s
        while time.time() < deadline:
            if (found := self.front_end.said(texts, since_s)) is not None:
                return found
            await asyncio.sleep(0.1)
        return None


def losses_of(runner: str) -> tuple[str, ...]:
    """How a line of the log begins that says that a runner is lost."""
    own = f"{runner} is lost"
    return (own, "jump host bastion is lost") if runner == BEHIND_BASTION else (own,)


def run(minutes: float, seed: int) -> dict[str, Any]:
    """The whole of it; the figures."""
    names = ["a", "b", "c", "bastion", "d"]
    with Hosts(names, behind={BEHIND_BASTION: "bastion"}) as hosts:
        inventory = hosts.folder / "hosts.ini"
        inventory.write_text("\n".join(hosts.line(name) for name in RUNNERS) + "\n")
        options = ["--inventory", str(inventory), "--known-hosts", str(hosts.known_hosts)]
        options += ["--ssh-config", str(hosts.ssh_config)]
        with serving(options, hosts.folder) as front_end:
            front_end.wait_until_ready()
            for name in RUNNERS:
                front_end.wait_for(f"{name} is ready", 30)
            descriptors = front_end.descriptors
            day = Day(hosts, front_end)
            script = plan(minutes * 60 - 2 * CALM_S, seed)
            results = asyncio.run(_loaded(day, script, front_end.port))
            figures = _figures(day, results)
            figures["descriptors before and after"] = [descriptors, front_end.descriptors]
            runners = {name: len(hosts[name].runners()) for name in RUNNERS}
            figures["runner processes"] = runners
            figures["exit status"] = front_end.stop()
            time.sleep(3)  # a runner closes its upstream connections before it goes
            figures["left on the hosts"] = sum(len(hosts[name].runners()) for name in RUNNERS)
            front_end.follow()
            figures["tracebacks and stray output"] = [
                line["message"]
                for line in front_end.lines
                if line["level"] in ("stray", "error") or "Traceback" in line["message"]
            ]
    return figures


async def _loaded(day: Day, script: list[Planned], port: int) -> list[Result]:
    """The faults under load, and the load's results."""
    load = Load(port, AT_ONCE)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await asyncio.sleep(CALM_S)
        await day.run(script)
        await asyncio.sleep(CALM_S)
        load.stop()
    return load.results


def _figures(day: Day, results: list[Result]) -> dict[str, Any]:
    day.front_end.follow()
    lines = {line["request_id"]: line for line in day.front_end.lines if "request_id" in line}
    for result in results:
        line = lines.get(result.request_id, {})
        result.runner, result.failed_on = line.get("runner", ""), line.get("failed", "")
    cut = [result for result in results if result.ended == "cut"]
    failed = [result for result in results if result.ended == "failed"]
    ended = counted(results, lambda each: each.ended)
    return {
        "calls": len(results),
        "ended": {ending: ended[ending] for ending in ENDINGS},
        "retried": sum(bool(each.failed_on) for each in results),
        "retried and whole": sum(
            each.ended == "whole" and bool(each.failed_on) for each in results
        ),
        "cut as their runner was lost": sum(_explained(day, each) for each in cut),
        "cut otherwise": [vars(each) for each in cut if not _explained(day, each)],
        "failed": dict(counted(failed, lambda each: f"{each.status} {each.detail}")),
        "faults, and how many of them lost a runner": _kinds(day.faults),
        "longest until noticed, s": _longest(
            (fault.kind, fault.lost_at_s - fault.at_s)
            for fault in day.faults
            if fault.lost_at_s is not None
        ),
        "longest until it served again after it was mended, s": _longest(
            (fault.kind, fault.back_s) for fault in day.faults if fault.back_s is not None
        ),
    }


def _explained(day: Day, result: Result) -> bool:
    """Whether a call was cut as its runner was lost, and that while something was done to it."""
    broken = any(
        fault.severs
        and fault.runner == result.runner
        and fault.at_s <= result.ended_at_s <= fault.mended_at_s + AFTER_S
        for fault in day.faults
    )
    since_s = result.ended_at_s - NEAR_S
    lost_at_s = day.front_end.said(losses_of(result.runner), since_s)
    return broken and lost_at_s is not None and lost_at_s <= result.ended_at_s + NEAR_S


def _kinds(faults: list[Fault]) -> dict[str, str]:
    kinds = sorted({fault.kind for fault in faults})
    of_kind = {kind: [fault for fault in faults if fault.kind == kind] for kind in kinds}
    return {
        kind: f"{len(those)}, {sum(fault.lost_at_s is not None for fault in those)}"
        for kind, those in of_kind.items()
    }


def _longest(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of each kind of fault."""
    longest: dict[str, float] = {}
    for kind, time_s in times:
        longest[kind] = max(longest.get(kind, 0.0), round(time_s, 1))
    return longest
