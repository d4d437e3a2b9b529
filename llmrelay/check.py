"""`llmrelay check`: every hop of every runner, tried as `serve` would, and told step by step.

Makes the same connections by the same code, starts the same runner, asks upstream which models it
has (no prompt), and leaves. A step that fails has the sentence that `serve` would end with. Knows
the runners' side and no HTTP; commands/check.py says how it looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from runner_payload.protocol import Call, End

from .config import Config
from .errors import (
    ChangedHostKey,
    ConnectError,
    LoginRefused,
    NoOpenAI,
    NoPython,
    RelayError,
    RunnerBroken,
    UnknownHostKey,
    UpstreamNotFound,
)
from .peer_text import one_line
from .runners import provision, reach
from .runners.call import LinkCall
from .runners.jump import JumpHost, JumpHostDown, Jumps
from .runners.link import Link
from .runners.provision import Started
from .runners.slots import Slots
from .runners.spec import RunnerSpec
from .runners.ssh.login import Step
from .secret import Keys, Secret

# In this order they are taken; what fails is the one behind the last that went well, unless its
# error says otherwise.
STEPS = ("name", "tcp", "host key", "login", "python", "openai", "upstream")
_STEP_OF: dict[type[RelayError], str] = {
    UnknownHostKey: "host key",
    ChangedHostKey: "host key",
    LoginRefused: "login",
    NoPython: "python",
    NoOpenAI: "openai",
    RunnerBroken: "python",
}


@dataclass(frozen=True, slots=True)
class Failed:
    """The step that failed, and why."""

    what: str
    took_s: float
    error: RelayError


@dataclass(slots=True)
class Hop:
    """A host on the way, or at the end of it: what was found there."""

    name: str
    steps: list[Step] = field(default_factory=list)
    failed: Failed | None = None


@dataclass(slots=True)
class Report:
    """One runner: the jump hosts before it, the first first, and itself."""

    spec: RunnerSpec
    jumps: list[Hop]
    itself: Hop

    @property
    def error(self) -> RelayError | None:
        """Why it cannot serve; None if all is well."""
        for hop in (*self.jumps, self.itself):
            if hop.failed is not None:
                return hop.failed.error
        return None


class Check:
    """The check of some runners, side by side.

    Args:
        keys: a runner whose key is missing is checked all the same, up to its upstream.
    """

    def __init__(self, specs: Sequence[RunnerSpec], keys: Keys, config: Config) -> None:
        self._specs = specs
        self._keys = keys
        self._config = config
        self._slots = Slots(config.connects)
        self._jump_hops: dict[str, Hop] = {}

    async def run(self) -> AsyncIterator[Report]:
        """The reports, in the order of the runners, each as soon as it is there."""
        async with Jumps(self._config, self._on_jump_step) as jumps:
            tasks = [asyncio.ensure_future(self._runner(spec, jumps)) for spec in self._specs]
            try:
                for task in tasks:
                    yield await task
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    def _on_jump_step(self, step: Step) -> None:
        self._jump_hops.setdefault(step.hop, Hop(step.hop)).steps.append(step)

    async def _runner(self, spec: RunnerSpec, jumps: Jumps) -> Report:
        report = Report(spec, [], Hop(spec.name))
        hop = report.itself
        clock = asyncio.get_running_loop().time
        since_s = clock()
        jump: JumpHost | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with self._slots.login():
                    reached = reach.connect(spec.host, self._config, jumps, hop.steps.append)
                    connection = await stack.enter_async_context(reached)
                jump = connection.jump
                async with self._slots.start():
                    await self._upstream_of(spec, connection, hop)
        except JumpHostDown as down:
            jump = down.jump
            culprit = down.culprit.name
            lost = self._jump_hops.setdefault(culprit, Hop(culprit))
            lost.failed = lost.failed or _failure(lost, down.error, clock() - since_s)
        except RelayError as error:
            took_s = clock() - since_s - sum(step.took_s for step in hop.steps)
            hop.failed = _failure(hop, error, max(0.0, took_s))
        report.jumps = [
            self._jump_hops.setdefault(each.name, Hop(each.name)) for each in _chain(jump)
        ]
        return report

    async def _upstream_of(self, spec: RunnerSpec, connection: reach.Connection, hop: Hop) -> None:
        """Starts the runner and asks its upstream."""
        missing: RelayError | None = None
        try:
            key = self._keys.read(spec.host.key)
        except ConnectError as error:
            key, missing = Secret("none"), error
        clock = asyncio.get_running_loop().time
        since_s = clock()
        started = await provision.start(
            spec.name, connection, spec.host, self._config, key, lambda link, reason: None
        )
        try:
            hop.steps += _of_hello(spec, started, clock() - since_s)
            if missing is not None:
                raise missing
            since_s = clock()
            found = await _models(started.link, spec)
            hop.steps.append(Step(spec.name, "upstream", clock() - since_s, found))
        finally:
            started.link.fail("the check is over")


def _chain(jump: JumpHost | None) -> list[JumpHost]:
    return [] if jump is None else [*_chain(jump.before), jump]


def _of_hello(spec: RunnerSpec, started: Started, took_s: float) -> list[Step]:
    hello = started.hello
    python = f"{one_line(hello.python)} ({one_line(hello.executable)})"
    aiohttp = f", aiohttp {one_line(hello.aiohttp)}" if hello.aiohttp else ", without aiohttp"
    return [
        Step(spec.name, "python", max(0.0, took_s - started.import_s), python),
        Step(spec.name, "openai", started.import_s, f"{one_line(hello.openai or '')}{aiohttp}"),
    ]


def _failure(hop: Hop, error: RelayError, took_s: float) -> Failed:
    last = hop.steps[-1].what if hop.steps else None
    following = STEPS[min(STEPS.index(last) + 1, len(STEPS) - 1)] if last else STEPS[0]
    return Failed(_STEP_OF.get(type(error), following), took_s, error)


async def _models(link: Link, spec: RunnerSpec) -> str:
    """What upstream says of its models.

    Raises:
        RelayError: it does not answer, or has not what the inventory promises.
    """
    answer = _Answer()
    opened = link.open(Call(model="", kind="models", retries=0), answer, lambda _: None)
    answer.call = opened
    try:
        await opened.send_prompt(b"")
        await answer.over.wait()
    finally:
        opened.cancel()
    if answer.failure is not None and not isinstance(answer.failure, UpstreamNotFound):
        raise answer.failure
    names = _names(bytes(answer.body))
    missing = [name for _, name in spec.model_map if name not in names]
    missing += [name for name in spec.models if not set("*?[") & set(name) and name not in names]
    missing = [name for name in missing if name not in dict(spec.model_map)]
    if missing and names:
        raise UpstreamNotFound(
            f"{spec.host.base_url} has no {' and no '.join(sorted(missing))}, which the inventory"
            f" promises; it has {', '.join(sorted(names)[:10])}."
        )
    shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
    if not names:
        return f"{spec.host.base_url} answers, and lists no models"
    return f"{spec.host.base_url} has {len(names)} model{'' if len(names) == 1 else 's'} ({shown})"


def _names(body: bytes) -> set[str]:
    """The ids in the answer to GET /models (OpenAI reference, "List models")."""
    try:
        data = json.loads(body)["data"]
        return {one_line(str(model["id"]), 100) for model in data}
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()


class _Answer:
    """Takes the whole answer to one call."""

    def __init__(self) -> None:
        self.call: LinkCall
        self.over = asyncio.Event()
        self.failure: RelayError | None = None
        self.body = bytearray()

    def data(self, text: bytes) -> None:
        self.body += text

    def credit_due(self) -> None:
        self.call.hand_back()

    def end(self, end: End) -> None:
        self.over.set()

    def error(self, error: RelayError) -> None:
        self.failure = error
        self.over.set()
