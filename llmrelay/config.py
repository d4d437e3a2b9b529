"""Every option, declared once: name, type, default, the reason for the default.

One frozen Config is made at start and handed to whoever needs it; nobody else reads argv or the
environment. The command line (cli.py) and docs/options.md are both generated from the fields below,
so an option cannot be in one and not in the other. Those of the clients' side stand in
client_options.py, those of the hosts' side in runner_options.py, those of the API in
api_options.py.

Knows no HTTP, no SSH and no asyncio. Units are in the names: `_s` seconds, `_bytes` bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .api_options import API, MODEL, ApiOptions
from .client_options import CLIENTS, ClientOptions
from .errors import UnusableConfig
from .option import Option
from .option import option as _option
from .runner_options import RUNNERS, RunnerOptions
from .values import (
    KIB,
    MIB,
    count,
    duration,
    number,
    one_of,
    size,
)

_LIMITS = "Limits"
_LOG = "Log"
# The order in which they are shown.
_GROUPS = [RUNNERS, MODEL, API, CLIENTS, _LIMITS, _LOG]


@dataclass(frozen=True, kw_only=True)
class Config(RunnerOptions, ApiOptions, ClientOptions):
    """All settings of one front-end. Defaults are those of the command line."""

    timeout_s: float = _option(
        "--timeout",
        "TIME",
        duration(0.05, 86400),
        120.0,
        "Longest silence of upstream before its first delta: long prompts take a minute.",
        _LIMITS,
    )
    delta_timeout_s: float = _option(
        "--delta-timeout",
        "TIME",
        duration(0.05, 86400),
        60.0,
        "Longest silence of upstream after a delta: models pause, a dead one stays silent.",
        _LIMITS,
    )
    connect_timeout_s: float = _option(
        "--connect-timeout",
        "TIME",
        duration(0.05, 3600),
        15.0,
        "Longest wait for each step towards a ready runner: connect, log in, start.",
        _LIMITS,
    )
    ping_interval_s: float = _option(
        "--ping-interval",
        "TIME",
        duration(0.05, 3600),
        2.0,
        "How often both ends of a link ask whether the other is there.",
        _LIMITS,
    )
    ping_timeout_s: float = _option(
        "--ping-timeout",
        "TIME",
        duration(0.1, 3600),
        8.0,
        "A link silent for so long is lost, whatever TCP thinks.",
        _LIMITS,
    )
    call_window_bytes: int = _option(
        "--call-window",
        "BYTES",
        size(4 * KIB, 64 * MIB),
        256 * KIB,
        "What may be under way to one slow client, per call; to a fast one, four times as much.",
        _LIMITS,
    )
    max_calls: int = _option(
        "--max-calls",
        "N",
        count(1, 65536),
        1024,
        "Calls at once on a runner; further ones wait in the queue.",
        _LIMITS,
    )
    retries: int = _option(
        "--retries",
        "N",
        count(0, 16),
        2,
        "Other runners that a call may be tried on before its first byte.",
        _LIMITS,
    )
    retry_budget: float = _option(
        "--retry-budget",
        "X",
        number(0, 1),
        0.1,
        "Retries per call, on average: keeps a bad day from doubling itself.",
        _LIMITS,
    )
    connects: int = _option(
        "--connects",
        "N",
        count(1, 10_000),
        16,
        "Runners that are being started at once; one that takes long is not counted.",
        _LIMITS,
    )
    queue_length: int = _option(
        "--queue",
        "N",
        count(0, 1_000_000),
        1024,
        "Calls, and connections, that may wait for a free place; further ones get 503.",
        _LIMITS,
    )
    queue_timeout_s: float = _option(
        "--queue-timeout",
        "TIME",
        duration(0, 3600),
        30.0,
        "Longest wait in the queue: about as long as a person waits.",
        _LIMITS,
    )
    max_connections: int = _option(
        "--max-connections",
        "N",
        count(1, 1_000_000),
        10_000,
        "Client connections at once; past it the longest idle one makes room for a new one.",
        _LIMITS,
    )
    max_connections_per_address: int | None = _option(
        "--max-connections-per-address",
        "N",
        count(1, 1_000_000),
        None,
        "Connections of one IPv4 address or IPv6 /64; else 1000, and any number of this machine's.",
        _LIMITS,
    )
    max_head_bytes: int = _option(
        "--max-head",
        "BYTES",
        size(1 * KIB, 1 * MIB),
        32 * KIB,
        "Request line and headers together: cookies and long URLs fit.",
        _LIMITS,
    )
    max_headers: int = _option(
        "--max-headers",
        "N",
        count(1, 10_000),
        100,
        "Header lines in a request.",
        _LIMITS,
    )
    max_body_bytes: int = _option(
        "--max-body",
        "BYTES",
        size(1, 1024 * MIB),
        8 * MIB,
        "A request's body: the longest context that models take, with room.",
        _LIMITS,
    )
    max_upload_bytes: int = _option(
        "--max-upload",
        "BYTES",
        size(1, 1 << 40),
        32 * MIB,
        "The longest upload (audio, images): it goes through, and is held nowhere as a whole.",
        _LIMITS,
    )
    body_memory_bytes: int = _option(
        "--body-memory",
        "BYTES",
        size(1 * MIB, 1024 * 1024 * MIB),
        1024 * MIB,
        "The bodies of all requests together, in memory: 1 MiB for each call of a runner.",
        _LIMITS,
    )
    head_timeout_s: float = _option(
        "--head-timeout",
        "TIME",
        duration(0.05, 3600),
        10.0,
        "A request's head must be whole so long after its first byte.",
        _LIMITS,
    )
    body_timeout_s: float = _option(
        "--body-timeout",
        "TIME",
        duration(0.05, 3600),
        30.0,
        "A body must be whole after this and the time that it takes at --body-rate.",
        _LIMITS,
    )
    body_rate_bytes: int = _option(
        "--body-rate",
        "BYTES",
        size(1, 1024 * MIB),
        1 * KIB,
        "The least that a body has to come at, per second: the slowest phone line is faster.",
        _LIMITS,
    )
    keep_alive_s: float = _option(
        "--keep-alive",
        "TIME",
        duration(0.05, 86400),
        75.0,
        "How long an idle connection is kept, as nginx does.",
        _LIMITS,
    )
    send_timeout_s: float = _option(
        "--send-timeout",
        "TIME",
        duration(0.05, 86400),
        60.0,
        "Longest wait for a client to take what waits for it of its answer, as nginx does.",
        _LIMITS,
    )
    drain_s: float = _option(
        "--drain",
        "TIME",
        duration(0, 86400),
        30.0,
        "How long running answers may go on after SIGTERM or Ctrl-C.",
        _LIMITS,
    )

    workers: int = _option(
        "--workers",
        "N",
        count(1, 64),
        1,
        "Front-end processes that share the address, for when one core is not enough: each has its"
        " own connections to the runners' hosts, and runners there (docs/deploy.md). Of calls at"
        " once on a runner, and of what a token may, each allows its share, rounded up; every other"
        " limit holds for each of them.",
        _LIMITS,
    )

    log_level: str = _option(
        "--log-level",
        "LEVEL",
        one_of("debug", "info", "warning", "error"),
        "info",
        "The least level that is logged: debug, info, warning or error.",
        _LOG,
    )
    log_format: str = _option(
        "--log-format",
        "FORMAT",
        one_of("text", "json"),
        "text",
        "text for people, json (an object a line) for collectors.",
        _LOG,
    )

    @property
    def max_call_bytes(self) -> int:
        """A body as a runner gets it, where that is held: it may have grown on its way.

        Images become base64, and a recording gets a form around it. The last part that is read of
        a body may be longer than it had to be (64 KiB).
        """
        return 2 * self.max_body_bytes + 128 * KIB

    def share(self, limit: int) -> int:
        """One worker's part of a limit that holds for all of them; none has less than 1."""
        return -(-limit // self.workers)

    def __post_init__(self) -> None:
        if self.runners and self.inventory is not None:
            raise UnusableConfig("Give --runner or --inventory, not both: write it into the file.")
        if self.inventory is None and (self.limit is not None or self.watch):
            raise UnusableConfig("--limit and --watch go with --inventory.")
        if self.ping_timeout_s <= self.ping_interval_s:
            raise UnusableConfig("--ping-timeout must be longer than --ping-interval.")
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise UnusableConfig("--tls-key and --tls-client-ca need --tls-cert beside them.")


def options() -> list[tuple[dataclasses.Field[Any], Option]]:
    """Config's fields with their options, group by group, each in the order of declaration."""
    declared = [(f, f.metadata["option"]) for f in dataclasses.fields(Config)]
    return sorted(declared, key=lambda each: _GROUPS.index(each[1].group))
