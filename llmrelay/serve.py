"""`llmrelay serve`: puts the parts together, and takes them apart in order.

Takes the addresses, starts the runners, and listens when the first is ready. A drain: no new
connections, running answers finish within the limit, the runners end. A reload reads files again
and keeps every connection. signals.py says which signal asks for what. Knows every part and does
none of their work.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner_payload.process import allow_descriptors, forbid_core_dumps

from .api.errors import render_error
from .config import Config
from .errors import ConnectError, UnusableConfig
from .http import connection_limits, tls
from .http.guard import Guard, require_credentials
from .http.listeners import Listener
from .http.server import Server
from .http.tokens import Tokens
from .inventory.load import load
from .routes import OPEN_PATHS, Routes
from .runners.fleet import Fleet
from .runners.jump import Jumps
from .runners.pool import Pool
from .runners.spec import RunnerSpec
from .secret import Keys, Secret
from .signals import Signals
from .systemd import Notifier
from .values import Listen
from .watch import watch
from .worker import Line

logger = logging.getLogger("llmrelay")


@dataclass(frozen=True, slots=True)
class _Files:
    """What was read of the files that SIGHUP reads again, and which they were."""

    encryption: ssl.SSLContext | None
    plan: Sequence[tuple[RunnerSpec, Secret]]
    files: Sequence[Path]


# Runners close their upstream connections and say goodbye; a lost one is not waited for.
RUNNER_END_S = 3.0
# Descriptors beside those of client connections: SSH, listeners, files, the loop.
SPARE_DESCRIPTORS = 64


class FrontEnd:
    """Runners, the pool in front of them, and the HTTP server in front of that.

    Args:
        keys: where the runners' keys are read.
        notifier: hears of reloads.
        handed_in: sockets that another process has bound.

    Attributes:
        reload_wanted: to be set to have the files read again.

    Raises:
        UnusableConfig: a file for TLS, of tokens or of runners cannot be used.
        NoKey: a runner has no key.
    """

    def __init__(
        self,
        config: Config,
        keys: Keys,
        notifier: Notifier,
        handed_in: Sequence[Listener] = (),
    ) -> None:
        self.reload_wanted = asyncio.Event()
        self._config = config
        self._keys = keys
        self._notifier = notifier
        self._serving = False
        self._pool = Pool(config)
        self._routes = Routes(self._pool, config)
        file = config.auth_tokens
        self._tokens = None if file is None else Tokens(file, config.share)
        guard = Guard(config, self._tokens, OPEN_PATHS)
        limited = _with_descriptors(config)
        self._server = Server(limited, self._routes, render_error, handed_in, guard)
        self._read = self._read_files()
        self._take_up(self._read)

    async def run(self, stop: asyncio.Event, on_ready: Callable[[Sequence[Listen]], None]) -> None:
        """Serves until `stop` is set, and drains.

        Args:
            on_ready: called with the addresses once clients can connect.

        Raises:
            ConnectError: no runner can be started, or the address not listened on.
        """
        forbid_core_dumps()
        _collect_rarely()
        self._bind()
        with ungrouped_connect_error():
            async with Jumps(self._config) as jumps, asyncio.TaskGroup() as group:
                fleet = Fleet(self._config, self._pool, jumps, group)
                fleet.apply(self._read.plan)
                upkeep = [group.create_task(self._keep_up_to_date(fleet))]
                if self._config.watch:
                    watching = watch(lambda: self._read.files, self.reload_wanted.set)
                    upkeep.append(group.create_task(watching))
                try:
                    await fleet.first_ready()
                    await self._server.start()
                    self._serving = True
                    on_ready([listener.address for listener in self._server.listening])
                    await stop.wait()
                    await self._drain(fleet)
                finally:
                    # Only what a cancelled drain has left: a second one cuts it off.
                    await self._server.drain(0)
                    for task in upkeep:
                        task.cancel()
                    fleet.cancel()

    @property
    def runners(self) -> str:
        """Which runners are ready, for the line that says that it serves."""
        return self._pool.summary()

    def give_back(self, succeeded: bool) -> None:
        """As http/server.py says it."""
        self._server.give_back(succeeded=succeeded)

    def _bind(self) -> None:
        self._server.bind()
        listening = self._server.listening
        others = [listener.address for listener in listening if not listener.local]
        try:
            require_credentials(others, self._config)
        except UnusableConfig:
            self._server.abort()
            raise

    # --- What SIGHUP reads again ----------------------------------------------------------------

    def _read_files(self) -> _Files:
        """Everything that is read again; blocks, for `ansible-inventory` as long as that takes.

        Raises:
            UnusableConfig, NoKey: a file cannot be used.
        """
        config = self._config
        encryption = None
        if config.tls_cert is not None:
            encryption = tls.make_context(config.tls_cert, config.tls_key, config.tls_client_ca)
        understood = load(config)
        for warning in understood.warnings:
            logger.warning("%s", warning)
        plan = [
            (replace(spec, max_calls=config.share(spec.max_calls)), self._keys.read(spec.host.key))
            for spec in understood.specs
        ]
        keys = [spec.host.key.file for spec in understood.specs] + [config.openai_key_file]
        others = (config.tls_cert, config.tls_key, config.tls_client_ca, config.auth_tokens, *keys)
        files = dict.fromkeys([*understood.files, *(file for file in others if file is not None)])
        return _Files(encryption, plan, list(files))

    def _take_up(self, read: _Files) -> None:
        """Holds from now on for clients; the runners are the fleet's.

        Raises:
            UnusableConfig: the file of tokens cannot be used; then all is as it was.
        """
        if self._tokens is not None:
            self._tokens.load()
        self._server.encryption = read.encryption
        self._read = read

    async def _keep_up_to_date(self, fleet: Fleet) -> None:
        """Takes up what was renewed, whenever that is wanted; what cannot be used is logged, and
        changes nothing.
        """
        while True:
            await self.reload_wanted.wait()
            self.reload_wanted.clear()
            # Before it serves, what was read at the start may be renewed; systemd does not ask.
            if self._serving:
                self._notifier.reloading()
            try:
                read = await asyncio.to_thread(self._read_files)
                self._take_up(read)
            except ConnectError as error:
                logger.error("nothing is reloaded: %s", error.message.rstrip("."))
            else:
                changed = fleet.apply(read.plan)
                fleet.retry_now()
                files = ", ".join(map(str, read.files)) or "there is nothing to reload"
                logger.info("reloaded: %s%s", files, f" ({changed})" if changed else "")
            if self._serving:
                self._notifier.ready()

    async def _drain(self, fleet: Fleet) -> None:
        logger.info("draining: running answers have %g s", self._config.drain_s)
        self._routes.draining = True
        await self._server.drain(self._config.drain_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUNNER_END_S):
                await fleet.stop()
        logger.info("drained")


@contextlib.contextmanager
def ungrouped_connect_error() -> Iterator[None]:
    """Around a TaskGroup: a ConnectError that ends it is raised as itself.

    No `except*`: what is raised in one comes out in another group, before Python 3.11.4.

    Raises:
        ConnectError: the first one, if the group's tasks failed with nothing else.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        failed, other = group.split(ConnectError)
        if failed is None or other is not None:
            raise
        raise failed.exceptions[0] from None


def _collect_rarely() -> None:
    """Lets the garbage collector look through all objects when that can be worth it.

    To look through those of 10,000 connections takes 0.2 s, in which all answers stand still, and
    by default it happens several times while they come. Hardly any garbage here needs it: what a
    connection leaves is freed by its reference counts.
    """
    # Code and constants, never to be looked through again; to look through them now for the little
    # garbage that imports leave would take a tenth of the start.
    gc.freeze()
    gc.set_threshold(2_000, 10, 50)


def _with_descriptors(config: Config) -> Config:
    """As many connections as open files are allowed for, so that clients cannot use those up."""
    needed = connection_limits.descriptors(config) + SPARE_DESCRIPTORS
    allowed = allow_descriptors(needed)
    fitted = connection_limits.fitted(config, allowed - SPARE_DESCRIPTORS)
    if fitted.max_connections < config.max_connections:
        logger.warning(
            "the limit of open files, %d, allows %d connections at once, not %d: for those it would"
            " have to be %d (ulimit -n, or LimitNOFILE= of a systemd unit)",
            allowed,
            fitted.max_connections,
            config.max_connections,
            needed,
        )
    return fitted


async def serve(
    config: Config,
    keys: Keys,
    on_ready: Callable[[Sequence[Listen], str], None],
    notifier: Notifier,
    handed_in: Sequence[Listener] = (),
    line: Line | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C has drained it.

    Args:
        on_ready: called with the addresses and the runners once clients can connect.
        line: to the supervisor, if there is one.

    Raises:
        ConnectError: no runner can be started, or the address not listened on.
        EndedBySignal: a signal that did not wait for the drain.
    """
    front_end = FrontEnd(config, keys, notifier, handed_in)
    with Signals(front_end.reload_wanted.set, notifier, line, front_end.give_back) as signals:

        def serving_now(addresses: Sequence[Listen]) -> None:
            signals.serving = True
            on_ready(addresses, front_end.runners)

        await front_end.run(signals.stop, serving_now)
