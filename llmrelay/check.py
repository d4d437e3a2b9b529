"""`llmrelay check`: every hop of every runner, tried as `serve` would, and told step by step.

Makes the same connections by the same code, starts the same runner, asks upstream which models it
has (no prompt), and leaves. A step that fails has the sentence that `serve` would end with. Knows
the runners' side and no HTTP; commands/check.py says how it looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

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
    UnusableConfig,
    UpstreamNotFound,
)
from .inventory.show import where
from .peer_text import one_line
from .runners import provision, reach
from .runners.jump import Jumps
from .runners.link import Link
from .runners.models import LIST_MODELS, models_in, whole_answer
from .runners.provision import Started
from .runners.shared import SharedHost, SharedHostDown
from .runners.slots import Slots
from .runners.spec import RunnerSpec
from .runners.ssh.login import Step
from .secret import Keys, Secret

# In this order they are taken; what fails is the one behind the last that went well, unless its
# error says otherwise. `name` is there where we look it up, and not a jump host or a ProxyCommand.
STEPS = ("name", "tcp", "host key", "login", "python", "openai", "upstream")
SHARED_STEPS = (*STEPS[:4], "lost")
_STEP_OF: dict[type[RelayError], str] = {
    UnusableConfig: "settings",
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
    """A host on the way, or at the end of it: what was found there.

    Attributes:
        label: what it is of, in a few words.
    """

    name: str
    label: str
    steps: list[Step] = field(default_factory=list)
    failed: Failed | None = None


@dataclass(slots=True)
class Report:
    """One runner.

    Attributes:
        itself: its own host; of one of several on a host, what is its own there.
        shared: the shared hosts on the way, the first first: jump hosts, and its own if it is one
            of several there. Others have them, too.
        blocked_by: the one of them that did not let it through.
    """

    spec: RunnerSpec
    itself: Hop
    shared: list[Hop] = field(default_factory=list)
    blocked_by: Hop | None = None

    @property
    def error(self) -> RelayError | None:
        """Why it cannot serve; None if all is well."""
        hop = self.blocked_by or self.itself
        return None if hop.failed is None else hop.failed.error


class Check:
    """The check of some runners, side by side.

    Args:
        keys: a runner whose key is missing is checked all the same, up to its upstream.
    """

    def __init__(self, specs: Sequence[RunnerSpec], keys: Keys, config: Config) -> None:
        self._specs = specs
        # Read before anything is connected: a terminal is asked for one, and nobody types as fast
        # as hosts have to answer.
        self._keys = [_read(keys, spec) for spec in specs]
        self._config = config
        self._slots = Slots(config.connects)
        self._shared_hops: dict[str, Hop] = {}
        self._shared_labels = {
            spec.host.shared_as: where(spec.host) for spec in specs if spec.host.shared_as
        }

    async def run(self) -> AsyncIterator[Report]:
        """The reports, in the order of the runners, each as soon as it is there."""
        async with Jumps(self._config, self._on_shared_step) as jumps:
            tasks = [
                asyncio.ensure_future(self._runner(spec, key, jumps))
                for spec, key in zip(self._specs, self._keys, strict=True)
            ]
            try:
                for task in tasks:
                    yield await task
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    def _shared_hop(self, name: str) -> Hop:
        label = self._shared_labels.get(name, "jump host")
        return self._shared_hops.setdefault(name, Hop(name, label))

    def _on_shared_step(self, step: Step) -> None:
        hop = self._shared_hop(step.hop)
        # Its first attempt alone: while others are still checked it is tried again.
        if hop.failed is None and step.what not in [each.what for each in hop.steps]:
            hop.steps.append(step)

    async def _runner(self, spec: RunnerSpec, key: Secret | ConnectError, jumps: Jumps) -> Report:
        shared_as = spec.host.shared_as
        label = f"of {shared_as}" if shared_as else where(spec.host)
        report = Report(spec, Hop(spec.name, label))
        way = _Way(report.itself)
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with self._slots.login():
                    way.go_on()
                    reached = reach.connect(spec.host, self._config, jumps, way.step, way.through)
                    connection = await stack.enter_async_context(reached)
                async with self._slots.start():
                    way.go_on()
                    await self._runner_on(connection, spec, key, way)
        except SharedHostDown as down:
            way.shared = down.host
            lost = report.blocked_by = self._shared_hop(down.culprit.name)
            took_s = way.took_s - sum(step.took_s for step in lost.steps)
            _fail(lost, down.error, took_s, SHARED_STEPS)
        except RelayError as error:
            _fail(way.hop, error, way.took_s, STEPS if way.shared is None else STEPS[1:])
        report.shared = [self._shared_hop(each.name) for each in _chain(way.shared)]
        return report

    async def _runner_on(
        self,
        connection: reach.Connection,
        spec: RunnerSpec,
        key: Secret | ConnectError,
        way: _Way,
    ) -> None:
        """Starts the runner and asks its upstream."""
        # Without a key it starts all the same, with a word in its place, and asks nobody.
        word = key if isinstance(key, Secret) else Secret("none")
        started = await provision.start(
            spec.name, connection, spec.host, self._config, word, lambda link, reason: None
        )
        try:
            for step in _of_hello(spec, started, way.took_s):
                way.step(step)
            if not isinstance(key, Secret):
                raise key
            found = await _models(started.link, spec)
            way.step(Step(spec.name, "upstream", way.took_s, found))
        finally:
            started.link.fail("the check is over")


class _Way:
    """How far one runner's attempt has come, and since when it is at the next step."""

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.shared: SharedHost | None = None
        self._now_s = asyncio.get_running_loop().time
        self._since_s = self._now_s()

    @property
    def took_s(self) -> float:
        """What the step that is being taken took until now."""
        return self._now_s() - self._since_s

    def go_on(self) -> None:
        """The next step begins now; what there was to wait for was not its own."""
        self._since_s = self._now_s()

    def step(self, step: Step) -> None:
        """A step went well."""
        self.hop.steps.append(step)
        self.go_on()

    def through(self, shared: SharedHost) -> None:
        """The shared hosts up to this one are connected."""
        self.shared = shared
        self.go_on()


def _read(keys: Keys, spec: RunnerSpec) -> Secret | ConnectError:
    try:
        return keys.read(spec.host.key)
    except ConnectError as error:
        return error


def _chain(shared: SharedHost | None) -> list[SharedHost]:
    return [] if shared is None else [*_chain(shared.before), shared]


def _of_hello(spec: RunnerSpec, started: Started, took_s: float) -> list[Step]:
    hello = started.hello
    python = f"{one_line(hello.python)} ({one_line(hello.executable)})"
    uvloop = f", uvloop {one_line(hello.uvloop)}" if hello.uvloop else ", without uvloop"
    return [
        Step(spec.name, "python", max(0.0, took_s - started.import_s), python),
        Step(spec.name, "openai", started.import_s, f"{one_line(hello.openai or '')}{uvloop}"),
    ]


def _fail(hop: Hop, error: RelayError, took_s: float, steps: Sequence[str]) -> None:
    """The hop has failed, at the step behind those that it has; what was told of it first stays."""
    if hop.failed is not None:
        return
    if hop.steps:
        following = steps[min(steps.index(hop.steps[-1].what) + 1, len(steps) - 1)]
    else:
        unresolved = isinstance(error.__cause__, socket.gaierror)
        following = "name" if unresolved else "tcp"
    hop.failed = Failed(_STEP_OF.get(type(error), following), max(0.0, took_s), error)


async def _models(link: Link, spec: RunnerSpec) -> str:
    """What upstream says of its models.

    Raises:
        RelayError: it does not answer, or has not what the inventory promises.
    """
    try:
        body = await whole_answer(lambda sink: link.open(LIST_MODELS, sink, lambda _: None))
    except UpstreamNotFound:
        body = b""
    names = set(models_in(body))
    if not names:
        return f"{spec.host.base_url} answers, and lists no models"
    shown = [one_line(name, 100) for name in sorted(names)]
    if missing := _missing(spec, names):
        raise UpstreamNotFound(
            f"{spec.host.base_url} has no {' and no '.join(missing)}, which the inventory"
            f" promises; it has {', '.join(shown[:10])}{', …' if len(shown) > 10 else ''}."
        )
    some = ", ".join([*shown[:3], *(["…"] if len(shown) > 3 else [])])
    return f"{spec.host.base_url} has {len(shown)} model{'' if len(shown) == 1 else 's'} ({some})"


def _missing(spec: RunnerSpec, names: set[str]) -> list[str]:
    """What the inventory promises and upstream does not have; a glob promises one at the least."""
    asked = dict(spec.model_map)
    promised = dict.fromkeys(
        pattern
        for pattern in spec.models
        if not any(fnmatchcase(name, pattern) for name in names | asked.keys())
    )
    return list(promised | dict.fromkeys(name for name in asked.values() if name not in names))
