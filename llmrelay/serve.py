"""`llmrelay serve`: puts the parts together, and takes them apart in order.

Takes the addresses, starts the runner, and listens when it is ready. A drain: no new connections,
running answers finish within the limit, the runner ends. A reload reads files again and keeps
every connection. signals.py says which signal asks for what. Knows every part and does none of
their work.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from runner_payload.process import allow_descriptors, forbid_core_dumps

from .api.errors import render_error
from .config import Config
from .errors import ConnectError, UnusableConfig
from .http import connection_limits, tls
from .http.guard import Guard, require_credentials
from .http.server import Server
from .http.tokens import Tokens
from .routes import OPEN_PATHS, Routes
from .runners.pool import Pool
from .runners.runner import Runner
from .secret import Secret
from .signals import Signals
from .systemd import Notifier
from .values import HostAddress, Listen

logger = logging.getLogger("llmrelay")

# The runner closes its upstream connections and says goodbye; a lost one is not waited for.
RUNNER_END_S = 3.0
# Descriptors beside those of client connections: SSH, listeners, files, the loop.
SPARE_DESCRIPTORS = 64


class FrontEnd:
    """A runner, the pool in front of it, and the HTTP server in front of that.

    Args:
        handed_in: listening sockets that another process has bound.

    Raises:
        UnusableConfig: a file for TLS or of tokens cannot be used.
    """

    def __init__(
        self,
        config: Config,
        host: HostAddress,
        key: Secret,
        handed_in: Sequence[socket.socket] = (),
    ) -> None:
        self._config = config
        self._runner = Runner(host, config, key)
        self._pool = Pool(self._runner, config)
        self._routes = Routes(self._pool, config)
        self._tokens = None if config.auth_tokens is None else Tokens(config.auth_tokens)
        guard = Guard(config, self._tokens, OPEN_PATHS)
        limited = _with_descriptors(config)
        self._server = Server(limited, self._routes, render_error, handed_in, guard)
        self._load()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[Sequence[Listen]], None]) -> None:
        """Serves until `stop` is set, and drains.

        Args:
            on_ready: called with the addresses once clients can connect.

        Raises:
            ConnectError: the runner cannot be started, or the address not listened on.
        """
        forbid_core_dumps()
        _collect_rarely()
        ready = asyncio.Event()
        self._bind()
        try:
            async with asyncio.TaskGroup() as group:
                living = group.create_task(self._runner.run(ready.set))
                try:
                    await ready.wait()
                    await self._server.start()
                    on_ready([listener.address for listener in self._server.listening])
                    await stop.wait()
                    await self._drain()
                finally:
                    # Only what a cancelled drain has left: a second one cuts it off.
                    await self._server.drain(0)
                    living.cancel()
        except* ConnectError as errors:
            raise errors.exceptions[0] from None

    def _bind(self) -> None:
        self._server.bind()
        listening = self._server.listening
        others = [listener.address for listener in listening if not listener.local]
        try:
            require_credentials(others, self._config)
        except UnusableConfig:
            self._server.abort()
            raise

    def _load(self) -> list[Path]:
        """Reads what SIGHUP reads again; returns the files.

        Raises:
            UnusableConfig: one of them cannot be used; then all is as it was.
        """
        config = self._config
        encryption = None
        if config.tls_cert is not None:
            encryption = tls.make_context(config.tls_cert, config.tls_key, config.tls_client_ca)
        if self._tokens is not None:
            self._tokens.load()
        self._server.encryption = encryption
        files = (config.tls_cert, config.tls_key, config.tls_client_ca, config.auth_tokens)
        return [file for file in files if file is not None]

    def reload(self) -> None:
        """Takes up what was renewed since; what cannot be used is logged, and changes nothing."""
        try:
            files = self._load()
        except UnusableConfig as error:
            logger.error("nothing is reloaded: %s", error.message.rstrip("."))
            return
        logger.info("reloaded: %s", ", ".join(map(str, files)) or "there is nothing to reload")

    async def _drain(self) -> None:
        logger.info("draining: running answers have %g s", self._config.drain_s)
        self._routes.draining = True
        await self._server.drain(self._config.drain_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUNNER_END_S):
                await self._runner.stop()
        logger.info("drained")


def _collect_rarely() -> None:
    """Lets the garbage collector look through all objects when that can be worth it.

    To look through those of 10,000 connections takes 0.2 s, in which all answers stand still, and
    by default it happens several times while they come. Hardly any garbage here needs it: what a
    connection leaves is freed by its reference counts.
    """
    gc.collect()
    gc.freeze()  # code and constants, never to be looked through again
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
    host: HostAddress,
    key: Secret,
    on_ready: Callable[[Sequence[Listen]], None],
    notifier: Notifier,
    handed_in: Sequence[socket.socket] = (),
) -> None:
    """Serves until SIGTERM or Ctrl-C has drained it.

    Raises:
        ConnectError: the runner cannot be started, or the address not listened on.
        EndedBySignal: a signal that did not wait for the drain.
    """
    front_end = FrontEnd(config, host, key, handed_in)
    with Signals(front_end.reload, notifier) as signals:

        def serving_now(addresses: Sequence[Listen]) -> None:
            signals.serving = True
            on_ready(addresses)

        await front_end.run(signals.stop, serving_now)
