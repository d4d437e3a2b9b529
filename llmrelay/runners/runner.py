"""One runner's life: connect, start, ready, draining, lost, backoff.

The one writer of its state. Takes ssh (a login), payload (what runs there) and link (the calls),
and puts them together. Knows no HTTP, and nothing of other runners.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Callable

from runner_payload.protocol import PROTOCOL_VERSION, Call, Hello, Start

from ..config import Config
from ..errors import ConnectError, NoOpenAI, NoPython, NoRunner, RelayError, RunnerBroken
from ..secret import Secret
from ..values import HostAddress
from . import payload, ssh
from .call import LinkCall, Sink
from .link import Link

logger = logging.getLogger("llmrelay.runner")

# runner_payload/bootstrap.py's exit status for a Python that is too old; sh's for a command that is
# not there or not executable (POSIX, section 2.8.2).
EXIT_OLD_PYTHON = 94
EXITS_NO_COMMAND = (126, 127)
# tcsh says it in words alone, and ends with 1.
_NOT_FOUND = ("not found", "no such file", "unknown command")

MIN_OPENAI_MAJOR = 3

# Between attempts to get a lost runner back.
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
# What no attempt of ours will mend.
STUCK_BACKOFF_S = 300.0


class State(enum.Enum):
    """Where a runner is in its life."""

    CONNECTING = "connecting"
    READY = "ready"
    LOST = "lost"
    STOPPED = "stopped"


class Runner:
    """A runner on one host, kept alive.

    Args:
        key: goes to the host once per link, in the START frame.
    """

    def __init__(self, address: HostAddress, config: Config, key: Secret) -> None:
        self.name = str(address)
        self.state = State.CONNECTING
        self.hello: Hello | None = None
        self.reason = ""
        self._address = address
        self._config = config
        self._key = key
        self._link: Link | None = None
        self._link_over = asyncio.Event()
        self._stopping = asyncio.Event()
        self._retry_at = 0.0

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keeps the runner connected until stop().

        Args:
            on_ready: called when it takes calls for the first time.

        Raises:
            ConnectError: the very first attempt failed: whoever starts us should hear of it.
        """
        failures = 0
        first = True
        while not self._stopping.is_set():
            error: RelayError
            try:
                async with ssh.connect(self._address, self._config) as connection:
                    await self._start(connection)
                    failures = 0
                    if first:
                        first = False
                        on_ready()
                    await self._link_over.wait()
                error = NoRunner(f"it was lost: {self.reason}")
            except ConnectError as connect_error:
                if first:
                    raise
                error = connect_error
            except Exception:
                if first:
                    raise
                # A bug of ours, or of a library on a bad day: the other calls of this front-end,
                # and the next attempt, are worth more than an exit.
                logger.exception("%s: connecting failed", self.name)
                error = RunnerBroken("connecting failed; the log has the details")
            if self._stopping.is_set():
                break
            failures += 1
            await self._back_off(error, failures)
        self.state = State.STOPPED

    @property
    def max_calls(self) -> int:
        """How many calls it may have at once: as configured, or fewer if its host allows fewer."""
        most = self._config.max_calls
        return most if self.hello is None else min(most, self.hello.max_calls)

    def open(self, call: Call, sink: Sink, on_over: Callable[[], None]) -> LinkCall:
        """Opens a call.

        Raises:
            NoRunner: the runner is not ready.
            RunnerLost: it went away this moment.
        """
        if self.state is not State.READY or self._link is None:
            wait_s = max(1.0, self._retry_at - asyncio.get_running_loop().time())
            reason = f": {self.reason}" if self.reason else ""
            raise NoRunner(
                f"The runner {self.name} is {self.state.value}{reason}. Try again.",
                retry_after_s=wait_s,
            )
        return self._link.open(call, sink, on_over)

    async def stop(self) -> None:
        """Ends the runner on the host: GOAWAY, its calls, its channel; then run() returns."""
        self._stopping.set()
        if self._link is not None:
            self._link.go_away("the front-end ends")
            await self._link_over.wait()

    # --- One link -------------------------------------------------------------------------------

    async def _start(self, connection: ssh.Connection) -> None:
        """From a login to a runner that takes calls."""
        self._link_over.clear()
        shipped = payload.load()
        link = Link(self.name, self._on_lost)
        link.channel = await connection.open(shipped.command(self._config.remote_python), link)
        link.write(shipped.blob)
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                self.hello = self._checked(await link.hello(), shipped)
                ready = await link.start(self._start_message())
        except TimeoutError:
            link.fail("it did not start in time")
            raise RunnerBroken(
                f"The runner on {self.name} did not start within"
                f" {self._config.connect_timeout_s:g} s (--connect-timeout)."
                f"{_said(link)}"
            ) from None
        except ConnectError as error:
            link.fail(error.message)
            raise
        except RelayError as error:
            raise self._not_started(link, error) from error
        self._link = link
        self.state = State.READY
        self.reason = ""
        if self.max_calls < self._config.max_calls:
            logger.warning(
                "%s: its limit of open files allows %d calls at once, not %d (ulimit -n)",
                self.name,
                self.max_calls,
                self._config.max_calls,
            )
        logger.info(
            "%s is ready: Python %s, openai %s, pid %d, import %.2f s",
            self.name,
            self.hello.python,
            self.hello.openai,
            self.hello.pid,
            ready.import_s,
        )

    def _start_message(self) -> Start:
        config = self._config
        return Start(
            api_key=self._key.reveal(),
            base_url=config.base_url,
            max_body_bytes=config.max_body_bytes,
            window_bytes=config.call_window_bytes,
            timeout_s=config.timeout_s,
            delta_timeout_s=config.delta_timeout_s,
            ping_interval_s=config.ping_interval_s,
            ping_timeout_s=config.ping_timeout_s,
        )

    def _checked(self, hello: Hello, shipped: payload.Payload) -> Hello:
        """HELLO, if it comes from what we shipped and what it found there will do."""
        if hello.protocol != PROTOCOL_VERSION or hello.digest != shipped.digest:
            raise RunnerBroken(
                f"The runner on {self.name} is not the one that was sent"
                f" (protocol {hello.protocol}, digest {hello.digest[:12]})."
            )
        install = f"{hello.executable} -m pip install 'openai[aiohttp]'"
        if hello.openai is None:
            raise NoOpenAI(
                f"Python {hello.python} on {self.name} has no openai package."
                f" Install it there: {install}"
            )
        major = hello.openai.partition(".")[0]
        if not major.isdigit() or int(major) < MIN_OPENAI_MAJOR:
            raise NoOpenAI(
                f"openai {hello.openai} on {self.name} is too old ({MIN_OPENAI_MAJOR} is needed)."
                f" Upgrade it there: {install} --upgrade"
            )
        return hello

    def _not_started(self, link: Link, error: RelayError) -> ConnectError:
        """Why a channel was lost before READY."""
        status = link.exit_status
        said = _said(link)
        python = self._config.remote_python
        if status == EXIT_OLD_PYTHON:
            return NoPython(
                f"{python} on {self.name} is too old; 3.10 or later is needed."
                f"{said} Name another with --remote-python."
            )
        not_found = any(words in said.lower() for words in _NOT_FOUND)
        if status in EXITS_NO_COMMAND or (status and not_found and self.hello is None):
            return NoPython(
                f"There is no {python} on {self.name}.{said}"
                " Install Python 3.10 or later there, or name it with --remote-python."
            )
        return RunnerBroken(f"The runner on {self.name} did not start. {error.message}{said}")

    def _on_lost(self, link: Link, reason: str) -> None:
        if self._link is link:
            self._link = None
            self.state = State.LOST
            self.reason = reason
        self._link_over.set()

    async def _back_off(self, error: RelayError, failures: int) -> None:
        """Waits before the next attempt, exponentially and with jitter; ends early with stop()."""
        heals = not isinstance(error, ConnectError) or error.heals
        most_s = MAX_BACKOFF_S if heals else STUCK_BACKOFF_S
        wait_s = min(most_s, MIN_BACKOFF_S * 2 ** min(failures - 1, 16)) if heals else most_s
        wait_s *= random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
        self.state = State.LOST
        self.reason = error.message.rstrip(".")
        self._retry_at = asyncio.get_running_loop().time() + wait_s
        logger.warning("%s: %s; next attempt in %.1f s", self.name, self.reason, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            self.state = State.CONNECTING


def _said(link: Link) -> str:
    """The last thing that the host said on stderr, as a sentence."""
    return f" It said: {link.stderr.lines[-1].rstrip('.')}." if link.stderr.lines else ""
