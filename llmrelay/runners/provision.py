"""From a login on a host to a link that takes calls, or the reason why not.

Ships the payload, checks what HELLO says of the host (Python, openai, that it is ours), hands over
the key, waits for READY. Whatever fails becomes a ConnectError that names what to mend on the host.
Knows one attempt; runner.py knows when to make another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from runner_payload.messages import Hello, Start
from runner_payload.protocol import PROTOCOL_VERSION

from ..config import Config
from ..errors import (
    ConnectError,
    NoOpenAI,
    NoPython,
    RelayError,
    RunnerBroken,
    RunnerFailed,
)
from ..peer_text import one_line
from ..secret import Secret
from ..upstreams import OTHER, UPSTREAMS
from . import payload
from .link import Link
from .reach import Connection
from .spec import HostSpec

# runner_payload/bootstrap.py's exit status for a Python that is too old; sh's for a command that is
# not there or not executable (POSIX, section 2.8.2).
EXIT_OLD_PYTHON = 94
EXITS_NO_COMMAND = (126, 127)
# tcsh says it in words alone, and ends with 1.
_NOT_FOUND = ("not found", "no such file", "unknown command")

MIN_OPENAI_MAJOR = 3


@dataclass(frozen=True, slots=True)
class Started:
    """A link that takes calls.

    Attributes:
        import_s: how long the runner took to import openai, in seconds.
    """

    link: Link
    hello: Hello
    import_s: float


async def start(
    name: str,
    connection: Connection,
    host: HostSpec,
    config: Config,
    key: Secret,
    on_lost: Callable[[Link, str], None],
) -> Started:
    """Starts a runner over `connection`, within config.connect_timeout_s for each of two steps.

    Args:
        name: the runner's, for errors and the log.
        on_lost: called when the link is of no more use; also if it never was.

    Raises:
        ConnectError: no runner that takes calls; nothing of it is left then.
    """
    shipped = payload.load()
    command = shipped.command(host.python)
    limit_s = config.connect_timeout_s
    link = Link(name, on_lost)
    hello: Hello | None = None
    started: Started | None = None
    try:
        async with asyncio.timeout(limit_s):
            link.channel = await connection.open(command, link)
        link.write(shipped.blob)
        async with asyncio.timeout(limit_s):
            hello = _checked(name, await link.hello(), shipped)
            ready = await link.start(_start_message(host, config, key))
        # Nobody has been told yet if it was lost in the very turn that made it ready.
        if link.lost:
            raise RunnerBroken(f"The runner on {name} was lost as soon as it was ready.")
        started = Started(link, hello, ready.import_s)
        return started
    except TimeoutError:
        raise RunnerBroken(
            f"The runner on {name} did not start within {limit_s:g} s (--connect-timeout)."
            f"{_said(link)}"
        ) from None
    except ConnectError:
        raise
    except RelayError as error:
        raise _not_started(name, host, link, hello, error) from error
    finally:
        if started is None:
            link.fail("it did not start")


def _start_message(host: HostSpec, config: Config, key: Secret) -> Start:
    known = UPSTREAMS.get(host.upstream, OTHER)
    return Start(
        api_key=key.reveal(),
        base_url=host.base_url,
        sdk=known.sdk,
        adapter=known.adapter,
        native=" ".join(known.native),
        key_header=known.key_header,
        max_tokens_field=known.max_tokens,
        ask_usage=config.usage == "on" or (config.usage == "auto" and known.usage),
        max_body_bytes=config.max_call_bytes,
        window_bytes=config.call_window_bytes,
        timeout_s=config.timeout_s,
        delta_timeout_s=config.delta_timeout_s,
        ping_interval_s=config.ping_interval_s,
        ping_timeout_s=config.ping_timeout_s,
    )


def _checked(name: str, hello: Hello, shipped: payload.Payload) -> Hello:
    """HELLO, if it comes from what we shipped and what it found there will do."""
    if hello.protocol != PROTOCOL_VERSION or hello.digest != shipped.digest:
        raise RunnerBroken(
            f"The runner on {name} is not the one that was sent"
            f" (protocol {hello.protocol}, digest {one_line(hello.digest, 12)})."
        )
    install = f"{one_line(hello.executable)} -m pip install openai uvloop"
    if hello.openai is None:
        raise NoOpenAI(
            f"Python {one_line(hello.python)} on {name} has no openai package."
            f" Install it there: {install}"
        )
    major = hello.openai.partition(".")[0]
    if not (major.isascii() and major.isdigit()) or int(major) < MIN_OPENAI_MAJOR:
        raise NoOpenAI(
            f"openai {one_line(hello.openai)} on {name} is too old ({MIN_OPENAI_MAJOR} is needed)."
            f" Upgrade it there: {install} --upgrade"
        )
    return hello


def _not_started(
    name: str, host: HostSpec, link: Link, hello: Hello | None, error: RelayError
) -> ConnectError:
    """Why a channel was lost, or a runner gave up, before READY."""
    status = link.exit_status
    # A runner that gave up has said why in its own words; its log says the same again.
    said = "" if isinstance(error, RunnerFailed) else _said(link)
    python = host.python
    if status == EXIT_OLD_PYTHON:
        return NoPython(
            f"{python} on {name} is too old; 3.10 or later is needed."
            f"{said} Name another with --remote-python, or ansible_python_interpreter."
        )
    not_found = any(words in said.lower() for words in _NOT_FOUND)
    if status in EXITS_NO_COMMAND or (status and not_found and hello is None):
        return NoPython(
            f"There is no {python} on {name}.{said}"
            " Install Python 3.10 or later there, or name it with --remote-python or"
            " ansible_python_interpreter."
        )
    return RunnerBroken(f"The runner on {name} did not start. {error.message}{said}")


def _said(link: Link) -> str:
    """The last thing that the host said on stderr, as a sentence."""
    return f" It said: {link.stderr.lines[-1].rstrip('.')}." if link.stderr.lines else ""
