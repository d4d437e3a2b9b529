"""`llmrelay demo`: the whole of llmrelay on this machine alone, with throwaway keys.

Starts a host (local.py), serves from it as `llmrelay serve` would, and asks the first prompt itself
(asking.py). With OPENAI_API_KEY the runner asks the real API; without it, a simulated one on the
host. Prints what a person should see and try. Knows no SSH and no HTTP: the parts that it puts
together are those of a real installation, and only their addresses are made up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import platform
import secrets
import shlex
import signal
import sys
from collections.abc import MutableMapping, Sequence

from ..chatting.connection import AskingFailed
from ..config import Config
from ..errors import UnusableConfig
from ..secret import VARIABLE, Keys
from ..serve import FrontEnd, ungrouped_connect_error
from ..signals import EndedBySignal
from ..systemd import Notifier
from ..upstreams import UPSTREAMS
from ..values import Listen, ListenAddress, parse_url
from .asking import Asking
from .local import started_host

DEFAULT_PROMPT = "Explain SSH in one sentence."
_BASE_URL_VARIABLE = "OPENAI_BASE_URL"


class Demo:
    """One run of the demo.

    Args:
        config: the limits, the log and where to listen; the runner's part is made here.
        once: end after the answer, and do not go on serving.
    """

    def __init__(self, prompt: str, config: Config, *, once: bool) -> None:
        self._prompt = prompt
        self._config = config
        self._once = once
        self._stop = asyncio.Event()
        self._asking: Asking | None = None
        self._task: asyncio.Task[object] | None = None
        self._signal: int | None = None
        self._status = 0

    async def run(self, environ: MutableMapping[str, str]) -> int:
        """Runs it to its end; the process's exit status.

        Raises:
            ConnectError: some part of it cannot be started.
            EndedBySignal: a signal that did not wait for the drain.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._serve(environ)
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            raise EndedBySignal(self._signal) from None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return self._status

    def _on_signal(self, number: int) -> None:
        """As in serve.py: the first one drains, if there is anything to drain; else at once."""
        first = self._signal is None and not self._stop.is_set()
        self._signal = number
        if first and self._asking is not None:
            # Our own answer is for nobody any more; those of other clients may come to their end.
            self._asking.leave()
            self._stop.set()
            _say("\nEnding, after answers that are under way; Ctrl-C again ends at once.\n")
        else:
            assert self._task is not None
            self._task.cancel()

    async def _serve(self, environ: MutableMapping[str, str]) -> None:
        real_url, keys = _upstream(self._config, environ)
        _say("Starting it all on this machine, with keys that are made for this run:\n\n")
        async with started_host(real_url) as machine:
            upstream = "real" if real_url else "simulated, as OPENAI_API_KEY is not set"
            _part("upstream", upstream, machine.base_url)
            _part("host", "an SSH server on loopback", machine.address)
            config = dataclasses.replace(
                self._config,
                runners=(machine.address,),
                base_url=machine.base_url,
                remote_python=sys.executable,
                identity=machine.identity,
                known_hosts=machine.known_hosts,
                ssh_config=machine.ssh_config,
            )
            await self._relay(config, keys)
        if self._signal is not None:
            _say("Nothing is left running.\n")

    async def _relay(self, config: Config, keys: Keys) -> None:
        """The front-end's life, and in it the prompt's."""
        ready: asyncio.Future[Sequence[Listen]] = asyncio.get_running_loop().create_future()
        with ungrouped_connect_error():
            async with asyncio.TaskGroup() as group:
                front_end = FrontEnd(config, keys, Notifier({}))
                group.create_task(front_end.run(self._stop, ready.set_result))
                [address] = await ready
                assert isinstance(address, ListenAddress)
                await self._show(address)
                if self._once or self._status:
                    self._stop.set()

    async def _show(self, address: ListenAddress) -> None:
        """What there is to see once everything runs."""
        _part("runner", "on the host, started over SSH", f"Python {platform.python_version()}")
        _part("front-end", "llmrelay, for HTTP clients", f"http://{address}")
        _say(f"\nThe demo now asks what you can ask, too:\n\n  {_curl(address, self._prompt)}\n")
        _say(f"\n> {self._prompt}\n\n")
        self._asking = asking = Asking(address, self._prompt)
        try:
            await asyncio.to_thread(asking.run, _say)
        except AskingFailed as error:
            if self._signal is not None:
                self._status = 128 + self._signal
                return
            self._status = 1
            _say("\n" if asking.deltas else "")
            print(f"llmrelay: {error}", file=sys.stderr)  # noqa: T201
            return
        _say(f"\n\n{_pace(asking)}\n")
        if not self._once:
            _say("Serving until Ctrl-C.\n")


def _upstream(config: Config, environ: MutableMapping[str, str]) -> tuple[str | None, Keys]:
    """The real API and its key; or None and a made-up key for the simulated one."""
    if not environ.get(VARIABLE, "").strip():
        return None, Keys(config, {VARIABLE: f"demo-{secrets.token_hex(16)}"})
    text = environ.get(_BASE_URL_VARIABLE, "").strip() or str(UPSTREAMS["openai"].base_url)
    try:
        base_url = parse_url(text)
    except ValueError as error:
        raise UnusableConfig(f"{_BASE_URL_VARIABLE}: {error}.") from error
    return base_url, Keys(config, environ)


def _curl(address: ListenAddress, prompt: str) -> str:
    # To curl, -d @NAME is the content of a file.
    option = "--data-raw" if prompt.startswith("@") else "-d"
    return f"curl -N http://{address}/chat {option} {shlex.quote(prompt)}"


def _pace(asking: Asking) -> str:
    text = f"time to first delta {asking.first_delta_s * 1000:.0f} ms"
    if asking.deltas > 1 and asking.deltas_s > 0:
        text += f", {(asking.deltas - 1) / asking.deltas_s:.0f} deltas/s"
    return text


def _part(name: str, what: str, where: object) -> None:
    _say(f"  {name:<10} {what:<40} {where}\n")


def _say(text: str) -> None:
    """Shows text at once; when nobody reads any more (`| head`), nothing."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python's documentation advises, so that its own flush at exit does not fail again.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
