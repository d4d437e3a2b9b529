"""`scripts/chaos faults`: a seeded script of faults under a steady load, and what came of it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .front_end import FrontEnd, serving
from .hosts import Host, Hosts
from .load import Load, Result, counted

AT_ONCE = 100
RUNNERS = ("a", "b", "c", "d")
# Between the begins of two faults, in seconds.
GAPS_S = (5.0, 12.0)
# What a fault lasts; a runner that is silent is lost after eight seconds, so some are not noticed.
LASTS_S = (4.0, 15.0)
# So many hosts may be broken at once: the others can bear the load.
BROKEN_AT_ONCE = 2
# Until a host that was mended has to serve again: the longest pause between attempts, and a start.
BACK_S = 90.0
# A call that ends so long after its runner was mended still was the fault's.
AFTER_S = 12.0


@dataclass
class Fault:
    """Something that was done to a host."""

    kind: str
    runner: str
    at_s: float
    mended_at_s: float = 0.0
    noticed_s: float | None = None
    back_s: float | None = None


@dataclass
class Day:
    """The faults, and how each is done and mended."""

    hosts: Hosts
    front_end: FrontEnd
    random: random.Random
    faults: list[Fault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def kinds(self) -> dict[str, Callable[[Host], tuple[Callable[[], None], Callable[[], None]]]]:
        """How each kind of fault is done to a host, and mended."""

        def mode(name: str) -> Callable[[Host], tuple[Callable[[], None], Callable[[], None]]]:
            return lambda host: (lambda: host.set_mode(name), lambda: host.set_mode("well"))

        return {
            "runner killed": lambda host: (
                lambda: host.signal_runners(signal.SIGKILL),
                lambda: None,
            ),
            "runner stopped": lambda host: (
                lambda: host.signal_runners(signal.SIGSTOP),
                lambda: host.signal_runners(signal.SIGCONT),
            ),
            "sshd killed": lambda host: (host.kill_sshd, host.start_sshd),
            "blackhole": lambda host: (host.pull_cable, host.plug_in),
            "upstream refuses": mode("refuse"),
            "upstream slow": mode("slow"),
            "upstream flaps": mode("flap"),
        }

    async def inflict(self, kind: str, runner: str, host: Host) -> None:
        """One fault, from its begin until the runner serves again."""
        do, mend = self.kinds()[kind.removeprefix("bastion: ")](host)
        fault = Fault(kind, runner, time.time())
        self.faults.append(fault)
        self.broken.add(runner)
        await asyncio.to_thread(do)
        if kind != "runner killed":
            await asyncio.sleep(self.random.uniform(*LASTS_S))
        mending_at_s = time.time()
        await asyncio.to_thread(mend)
        fault.mended_at_s = time.time()
        lost = f"jump host {host.name} is lost" if host.name == "bastion" else f"{runner} is lost"
        if not kind.startswith("upstream"):
            noticed_at_s = await self._logged(lost, fault.at_s, AFTER_S)
            if noticed_at_s is not None:
                fault.noticed_s = noticed_at_s - fault.at_s
                back_at_s = await self._logged(f"{runner} is ready", noticed_at_s, BACK_S)
                fault.back_s = BACK_S if back_at_s is None else back_at_s - mending_at_s
        self.broken.discard(runner)

    async def _logged(self, text: str, since_s: float, limit_s: float) -> float | None:
        deadline = time.time() + limit_s
        while time.time() < deadline:
            found = self.front_end.wait_for(text, since_s, 0)
            if found is not None:
                return found
            await asyncio.sleep(0.1)
        return None

    async def run(self, seconds: float) -> None:
        """Faults, one after the other and two at a time, for so long."""
        end_s = time.time() + seconds
        async with asyncio.TaskGroup() as group:
            while time.time() < end_s:
                whole = [name for name in RUNNERS if name not in self.broken]
                if len(self.broken) < BROKEN_AT_ONCE:
                    runner = self.random.choice(whole)
                    kind = self.random.choice(list(self.kinds()))
                    host = self.hosts[runner]
                    if runner == "d" and self.random.random() < 0.5:  # its jump host is
                        kind = f"bastion: {self.random.choice(['sshd killed', 'blackhole'])}"
                        host = self.hosts["bastion"]
                    group.create_task(self.inflict(kind, runner, host))
                await asyncio.sleep(self.random.uniform(*GAPS_S))


def run(minutes: float, seed: int) -> dict[str, Any]:
    """The whole of it; the figures."""
    names = ["a", "b", "c", "bastion", "d"]
    with Hosts(names, behind={"d": "bastion"}) as hosts:
        inventory = hosts.folder / "hosts.ini"
        inventory.write_text("\n".join(hosts.line(name) for name in RUNNERS) + "\n")
        options = ["--inventory", str(inventory), "--known-hosts", str(hosts.known_hosts)]
        options += ["--ssh-config", str(hosts.ssh_config)]
        with serving(options, hosts.folder) as front_end:
            front_end.wait_until_ready()
            begun_s = front_end.begun_at_s
            for name in RUNNERS:
                assert front_end.wait_for(f"{name} is ready", begun_s, 30) is not None, name
            descriptors = front_end.descriptors
            day = Day(hosts, front_end, random.Random(seed))
            results = asyncio.run(_loaded(day, front_end.port, minutes * 60))
            for name in RUNNERS:
                hosts[name].set_mode("well")
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


async def _loaded(day: Day, port: int, seconds: float) -> list[Result]:
    """The faults under load, and the load's results."""
    load = Load(port, AT_ONCE)
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(5)
    await day.run(seconds - 10)
    await asyncio.sleep(5)
    load.stop()
    await loading
    return load.results


def _figures(day: Day, results: list[Result]) -> dict[str, Any]:
    day.front_end.follow()
    lines = {line["request_id"]: line for line in day.front_end.lines if "request_id" in line}
    for result in results:
        line = lines.get(result.request_id, {})
        result.runner, result.failed_on = line.get("runner", ""), line.get("failed", "")
    cut = [result for result in results if result.ended == "cut"]
    noticed = [fault for fault in day.faults if fault.noticed_s is not None]
    return {
        "calls": len(results),
        "ended": dict(counted(results, lambda each: each.ended)),
        "retried": sum(bool(each.failed_on) for each in results),
        "retried and whole": sum(
            each.ended == "whole" and bool(each.failed_on) for each in results
        ),
        "cut on a runner that was broken then": sum(_explained(day, each) for each in cut),
        "cut otherwise": [vars(each) for each in cut if not _explained(day, each)],
        "failed": dict(
            counted(
                [each for each in results if each.ended == "failed"],
                lambda each: f"{each.status} {each.detail}",
            )
        ),
        "faults": dict(sorted(_kinds(day.faults).items())),
        "longest until noticed, s": _longest(noticed, "noticed_s"),
        "longest until it served again after it was mended, s": _longest(noticed, "back_s"),
    }


def _explained(day: Day, result: Result) -> bool:
    """Whether the runner that a call was cut on was broken then."""
    return any(
        fault.runner == result.runner
        and fault.at_s - 1 <= result.ended_at_s <= (fault.mended_at_s or time.time()) + AFTER_S
        for fault in day.faults
    )


def _kinds(faults: list[Fault]) -> dict[str, int]:
    return {kind: sum(f.kind == kind for f in faults) for kind in {f.kind for f in faults}}


def _longest(faults: list[Fault], what: str) -> dict[str, float]:
    """Of each kind of fault."""
    longest: dict[str, float] = {}
    for fault in faults:
        longest[fault.kind] = max(longest.get(fault.kind, 0.0), round(getattr(fault, what), 1))
    return longest
