"""`scripts/chaos start`, `reload` and `refusing`: one question each."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.fleet import blackhole

from .front_end import FrontEnd, serving
from .hosts import PORT, Hosts
from .load import Load, Result, counted

AT_ONCE = 100


def start(counts: list[int], rounds: int) -> dict[str, Any]:
    """Time from the start of `serve` to its first answer; a tenth of the hosts never answers."""
    figures: dict[str, Any] = {}
    with Hosts(["a"]) as hosts:
        for count in counts:
            times = [_started(hosts, count) for _ in range(rounds)]
            listening, answered = zip(*times, strict=True)
            figures[f"{count} hosts, {count // 10} blackholes: listening, s"] = _range(listening)
            figures[f"{count} hosts, {count // 10} blackholes: first answer, s"] = _range(answered)
    return figures


def _range(times: tuple[float, ...]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


def _started(hosts: Hosts, count: int) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        holes = [stack.enter_context(blackhole()) for _ in range(count // 10)]
        # The same host by many names: a connection, a login and a runner each.
        well = [
            f"h{number} ansible_host={hosts['a'].address} ansible_port={PORT} ansible_user=root"
            f" ansible_ssh_private_key_file={hosts.identity} {hosts.line('a').partition(' ')[2]}"
            for number in range(count - len(holes))
        ]
        silent = [
            f"x{number} ansible_host=127.0.0.1 ansible_port={p}" for number, p in enumerate(holes)
        ]
        lines = [*silent, *well]  # the silent ones come first
        inventory = hosts.folder / "hosts.ini"
        inventory.write_text("\n".join(lines) + "\n")
        front_end = stack.enter_context(serving(_options(hosts, inventory), hosts.folder))
        listening_s = front_end.wait_until_ready()
        connection = http.client.HTTPConnection("127.0.0.1", front_end.port, timeout=60)
        connection.request("POST", "/chat", b"first")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read(1)
        answered_s = time.time() - front_end.begun_at_s
        connection.close()
        front_end.stop()
    return listening_s, answered_s


def reload(minutes: float, seed: int) -> dict[str, Any]:
    """SIGHUP every few seconds, with hosts added, removed and changed, under load."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"]
    with Hosts(names) as hosts:
        inventory = hosts.folder / "hosts.ini"
        keys = hosts.folder / "key"

        def write() -> None:
            present = chance.sample(names, chance.randint(2, 4))
            lines = []
            for name in present:
                more = {"llmrelay_weight": str(chance.randint(1, 3))}
                more["llmrelay_key_file"] = str(keys)
                if chance.random() < 0.5:  # another program: a new connection
                    more["ansible_ssh_extra_args"] = f"-o RekeyLimit={chance.choice('12')}G"
                lines.append(hosts.line(name, **more))
            keys.write_text(f"sk-{chance.randint(0, 10**9)}")
            keys.chmod(0o600)
            new = inventory.with_suffix(".new")
            new.write_text("\n".join(lines) + "\n")
            new.rename(inventory)

        write()
        with serving(_options(hosts, inventory), hosts.folder) as front_end:
            front_end.wait_until_ready()
            reloads = 0

            async def change(load: Load) -> None:
                nonlocal reloads
                end_s = time.time() + minutes * 60
                while time.time() < end_s:
                    await asyncio.sleep(3)
                    await asyncio.to_thread(write)
                    front_end.hang_up()
                    reloads += 1

            results = asyncio.run(_under_load(front_end, change))
            front_end.follow()
            said = [line["message"] for line in front_end.lines if "message" in line]
            return {
                "reloads": reloads,
                "taken up": sum(each.startswith("reloaded: ") for each in said),
                "of which some added, removed, changed hosts": [
                    sum(what in each for each in said if each.startswith("reloaded: "))
                    for what in ("added", "removed", "changed")
                ],
                **_ended(results),
                "exit status": front_end.stop(),
            }


def refusing(minutes: float) -> dict[str, Any]:
    """One host among four whose upstream answers every call with 503, at once."""
    names = ["a", "b", "c", "d"]
    with Hosts(names) as hosts:
        inventory = hosts.folder / "hosts.ini"
        inventory.write_text("\n".join(hosts.line(name) for name in names) + "\n")
        with serving(_options(hosts, inventory), hosts.folder) as front_end:
            front_end.wait_until_ready()
            for name in names:
                front_end.wait_for(f"{name} is ready", 30)
            hosts["a"].set_mode("refuse")
            results = asyncio.run(_under_load(front_end, lambda load: asyncio.sleep(minutes * 60)))
            asked = {name: hosts[name].requests for name in names}
            return {
                "requests to each upstream": asked,
                "share of the one that refuses": f"{asked['a'] / sum(asked.values()):.2%}",
                **_ended(results),
                "exit status": front_end.stop(),
            }


def _options(hosts: Hosts, inventory: Path) -> list[str]:
    return [
        "--inventory", str(inventory), "--known-hosts", str(hosts.known_hosts),
        "--ssh-config", str(hosts.ssh_config),
    ]  # fmt: skip


async def _under_load(front_end: FrontEnd, beside: Callable[[Load], Any]) -> list[Result]:
    load = Load(front_end.port, AT_ONCE)
    loading = asyncio.create_task(load.run())
    await beside(load)
    load.stop()
    await loading
    return load.results


def _ended(results: list[Result]) -> dict[str, Any]:
    return {
        "calls": len(results),
        "ended": dict(counted(results, lambda each: each.ended)),
        "not whole": [vars(each) for each in results if each.ended != "whole"][:5],
    }
