"""All runners' lives: started at once, kept, revised by a reload, ended.

A runner's name is what ties it to its spec: a new name is a new runner, one that is gone drains and
ends, and one that is still there becomes what its spec says now. Where a host's one runner becomes
several, or these one, the first goes on under the other name, so that somebody takes calls all the
while. pool.py is told who there is and gives them calls; runner.py lives each one's life. Knows no
HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from ..config import Config
from ..errors import ConnectError
from ..secret import Secret
from .jump import Jumps
from .pool import Pool
from .runner import Runner
from .slots import Slots
from .spec import RunnerSpec

Plan = Iterable[tuple[RunnerSpec, Secret]]


class Fleet:
    """The runners that there are to be, and those that still end.

    Args:
        group: owns the runners' tasks; they end with stop(), or when cancel() is called.
    """

    def __init__(self, config: Config, pool: Pool, jumps: Jumps, group: asyncio.TaskGroup) -> None:
        self._config = config
        self._pool = pool
        self._jumps = jumps
        self._group = group
        self._slots = Slots(config.connects)
        self._runners: dict[str, Runner] = {}
        # With those that drain, which have no name here any more.
        self._tasks: dict[Runner, asyncio.Task[None]] = {}

    def apply(self, plan: Plan) -> str:
        """Makes the runners those of `plan`; says what that changed, for the log."""
        wanted = {spec.name: (spec, key) for spec, key in plan}
        changes: dict[str, list[str]] = {"removed": [], "changed": [], "added": []}
        for name, heir in list(self._heirs([spec for spec, _ in wanted.values()])):
            self._runners[heir] = self._runners.pop(name)
        for name in self._runners.keys() - wanted.keys():
            self._end(self._runners.pop(name))
            changes["removed"].append(name)
        for name, (spec, key) in wanted.items():
            runner = self._runners.get(name)
            if runner is None:
                self._begin(spec, key, quiet=len(wanted) == 1)
                changes["added"].append(name)
            else:
                if runner.spec != spec:
                    changes["changed"].append(name)
                before = runner.name
                runner.revise(spec, key)
                if name != before:
                    self._pool.rename(before, runner)
        said = [f"{what} {', '.join(sorted(names))}" for what, names in changes.items() if names]
        return "; ".join(said)

    def retry_now(self) -> None:
        """Has every lost runner, and every lost shared host, tried again at once."""
        self._jumps.retry_now()
        for runner in self._runners.values():
            runner.retry_now()

    async def first_ready(self) -> None:
        """Returns when a runner takes calls for the first time.

        Raises:
            ConnectError: the first attempt of each has failed; of the first one's kind.
        """
        while True:
            attempts = {name: each.first_attempt for name, each in self._runners.items()}
            known = {name: future.result() for name, future in attempts.items() if future.done()}
            if None in known.values():
                return
            if len(known) == len(attempts):
                raise _none_started({name: error for name, error in known.items() if error})
            waiting = [future for future in attempts.values() if not future.done()]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Ends every runner, each after its last call; returns when all are gone."""
        for runner in list(self._tasks):
            runner.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def cancel(self) -> None:
        """Ends what is left, at once."""
        for task in self._tasks.values():
            task.cancel()

    def _heirs(self, wanted: Sequence[RunnerSpec]) -> Iterator[tuple[str, str]]:
        """The names that runners had and those under which they go on, where these are others."""
        names = {spec.name for spec in wanted}
        new = [spec for spec in wanted if spec.name not in self._runners]
        for name, runner in self._runners.items():
            if name in names:
                continue
            one_of = runner.spec.host.shared_as
            heir = next((s for s in new if s.name == one_of or s.host.shared_as == name), None)
            if heir is not None:
                new.remove(heir)
                yield name, heir.name

    def _begin(self, spec: RunnerSpec, key: Secret, *, quiet: bool) -> None:
        runner = Runner(spec, key, self._config, self._jumps, self._slots, self._pool.look_at)
        runner.quiet = quiet
        self._runners[spec.name] = runner
        self._pool.add(runner)
        task = self._group.create_task(runner.run())
        self._tasks[runner] = task
        task.add_done_callback(lambda _: self._tasks.pop(runner))

    def _end(self, runner: Runner) -> None:
        self._pool.remove(runner)
        runner.stop()


def _none_started(errors: dict[str, ConnectError]) -> ConnectError:
    """Why none of them takes calls; the first one's kind decides the exit status."""
    first = next(iter(errors.values()))
    if len({error.message for error in errors.values()}) == 1:
        return first  # which is what all of them need
    lines = [f"  {name}: {error.message}" for name, error in errors.items()]
    return type(first)(f"None of the {len(errors)} runners could be started.\n" + "\n".join(lines))
