"""A supervisor whose workers serve HTTP as `serve`'s do, but have no runner: quick to start.

`python -m tests.helpers.supervised PORT FILE [reuse]` is one with two workers; the tests have it as
a process, by Supervised. A worker answers with its number, its pid and what it was sent; while FILE
exists, none starts.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llmrelay import log
from llmrelay.api.errors import render_error
from llmrelay.config import Config
from llmrelay.errors import UnusableConfig
from llmrelay.http.exchange import Exchange
from llmrelay.http.listeners import Listener
from llmrelay.http.server import Server
from llmrelay.signals import EndedBySignal, Signals
from llmrelay.supervisor import Supervisor
from llmrelay.systemd import Notifier
from llmrelay.values import Listen, ListenAddress
from llmrelay.worker import Line
from tests.helpers.front_end import ROOT

LIMIT_S = 20.0


class Supervised:
    """`with Supervised(folder) as supervised:` has been started.

    Args:
        folder: for what is to be found on disk.
        port: 0 for a free one.
        options: the module's.
    """

    def __init__(self, folder: Path, *options: str, port: int = 0, env: dict[str, str]) -> None:
        self.hindrance = folder / "hindrance"
        self.port = port
        self._options = [str(port), str(self.hindrance), *options]
        self._env = os.environ | env
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.supervised", *self._options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=self._env, cwd=ROOT,
        )  # fmt: skip
        self.pid = self.process.pid
        return self

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("ready on port "), self.log
        self.port = int(said.split()[-1])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def log(self) -> str:
        """stderr until now."""
        return os.pread(self._log.fileno(), 1_000_000, 0).decode()

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        deadline = time.monotonic() + LIMIT_S
        while len(found := re.findall(pattern, self.log)) < count:
            assert time.monotonic() < deadline, self.log
            select.select([], [], [], 0.01)
        return found


# --- The process ----------------------------------------------------------------------------------


async def _serve(number: int, line: Line, listening: Sequence[Listener]) -> None:
    async def answer(exchange: Exchange) -> None:
        body = await exchange.read_body()
        exchange.respond(200, [], f"{number} {os.getpid()} ".encode() + body)

    def reload() -> None:
        line.reloading()
        line.ready()

    server = Server(Config(listen=()), answer, render_error, listening)
    server.bind()
    with Signals(reload, line, line, lambda yes: server.give_back(succeeded=yes)) as signals:
        await server.start()
        signals.serving = True
        line.serving("runner none")
        try:
            await signals.stop.wait()
            await server.drain(LIMIT_S)
        finally:
            await server.drain(0)


def main(port: str, hindrance: str, *options: str) -> int:
    listen = (ListenAddress("127.0.0.1", int(port)),)
    config = Config(listen=listen, workers=2, reuse_port="reuse" in options)
    log.configure("info", "text")

    def work(number: int, line: Line, listening: Sequence[Listener]) -> None:
        log.configure("info", "text", number)
        if os.path.exists(hindrance):
            raise UnusableConfig("There is a hindrance.")
        asyncio.run(_serve(number, line, listening))

    def announce(addresses: Sequence[Listen], runners: str) -> None:
        [address] = addresses
        assert isinstance(address, ListenAddress)
        assert runners == "runner none"
        print("ready on port", address.port, flush=True)

    try:
        end = Supervisor(config, [], Notifier(os.environ), work, announce).run()
    except EndedBySignal as error:
        return error.exit_status
    print(end.sentence, flush=True)
    return end.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
