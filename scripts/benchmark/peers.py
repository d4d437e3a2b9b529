"""What is measured: the relay, and the peers that it stands beside.

Each is a way from the load generator to the simulator, set up once and used round after round:
`relay` is `llmrelay serve` with its runner behind OpenSSH's sshd, asked at /chat, and `raw` is the
same, asked at /v1; `tunnel` is `ssh -L` through the same sshd; `nginx` and `litellm` are those in
front of such a tunnel; `direct` is no way at all, and says what the simulator and the load
generator add. A Peer names its port, what is spoken there, and the processes whose cost is its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.helpers.openssh import OpenSSHServer, descendants_of

from . import proxied
from .child import Child, ChildFailed
from .records import Framing

# A machine on which something else is measured may take long.
READY_LIMIT_S = 120.0
_ALIAS = "benchmark"
_MODEL = "benchmark"
_SAID_LINES = 5

# Names of the groups of processes, as tables show them.
FRONT_END = "front-end"
SSHD = "sshd"
RUNNER = "runner"
SSH = "ssh"


@dataclass(frozen=True)
class Peer:
    """A way to the simulator.

    Attributes:
        groups: its processes' pids by what they are.
        log: what its front-end says on stderr.
    """

    name: str
    port: int
    framing: Framing
    groups: dict[str, list[int]] = field(default_factory=dict)
    log: Path | None = None

    def said(self) -> list[str]:
        """The last lines of its log that are not of calls: why one failed stands there."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return [line for line in lines if " llmrelay.access: " not in line][-_SAID_LINES:]


@dataclass(frozen=True)
class Bench:
    """All that runs for a measurement besides the load generator.

    Attributes:
        sshd: if a peer needs one.
        left_out: by name, why a peer that was asked for is not among them.
    """

    simulator: Child
    simulator_port: int
    peers: list[Peer]
    sshd: OpenSSHServer | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def peer(self, name: str) -> Peer:
        return next(peer for peer in self.peers if peer.name == name)


NAMES = ("direct", "tunnel", "relay")
# Not measured unless it is asked for: the same front-end and runner, asked for OpenAI's own bytes.
RAW = "raw"
NGINX = "nginx"
LITELLM = "litellm"
ALL_NAMES = (*NAMES, RAW, NGINX, LITELLM)


@contextlib.contextmanager
def running(
    names: Sequence[str], *, simulator: str = "simulator", options: Sequence[str] = ()
) -> Iterator[Bench]:
    """The simulator and these peers, ready; all of it is ended on exit.

    Args:
        simulator: the module that is upstream.
        options: more of `llmrelay serve`.

    Raises:
        ChildFailed: a process did not start, or not one of the peers is here.
    """
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Child.module(simulator))
        port = int(upstream.line())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmrelay-bench-")))
        peers = []
        if "direct" in names:
            peers.append(Peer("direct", port, "completions"))
        sshd = None
        left_out = {}
        if set(names) - {"direct"}:
            sshd = stack.enter_context(OpenSSHServer())
            if "tunnel" in names:
                peers.append(_tunnel(stack, sshd, port))
            if {"relay", RAW} & set(names):
                relay = _relay(stack, sshd, port, folder, options)
                raw = replace(relay, name=RAW, framing="completions")
                peers += [peer for peer in (relay, raw) if peer.name in names]
            for name in (name for name in (NGINX, LITELLM) if name in names):
                try:
                    peers.append(_proxied(stack, sshd, port, folder, name))
                except proxied.NotInstalled as error:
                    left_out[name] = str(error)
        if names and not peers:
            raise ChildFailed("; ".join(f"no {name}: {why}" for name, why in left_out.items()))
        yield Bench(upstream, port, peers, sshd, left_out)


def _tunnel(stack: contextlib.ExitStack, sshd: OpenSSHServer, to_port: int) -> Peer:
    port = _free_port()
    before = set(descendants_of(sshd.pid))
    # A session is held open beside the forwarding: without one ssh leaves Nagle's algorithm on,
    # which costs 40 ms per delta. That it speaks says that the forwarding stands.
    remote = sshd.ssh_command("echo ready; exec cat")
    forward = ["-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:{to_port}"]
    ssh = stack.enter_context(Child([remote[0], *forward, *remote[1:]]))
    ssh.line(READY_LIMIT_S)
    started = set(descendants_of(sshd.pid)) - before
    groups = {SSH: [ssh.pid], SSHD: [pid for pid in started if is_sshd(pid)]}
    return Peer("tunnel", port, "completions", groups)


def _proxied(
    stack: contextlib.ExitStack, sshd: OpenSSHServer, to_port: int, folder: Path, name: str
) -> Peer:
    """nginx or LiteLLM in front of a tunnel of its own, which goes if it is not here."""
    with contextlib.ExitStack() as own:
        tunnel = _tunnel(own, sshd, to_port)
        if name == NGINX:
            proxy = proxied.nginx(own, folder, tunnel.port, _free_port())
        else:
            proxy = proxied.litellm(own, folder, tunnel.port, _free_port(), _MODEL)
        stack.enter_context(own.pop_all())
    return Peer(name, proxy.port, "completions", {name: proxy.pids, **tunnel.groups})


def _relay(
    stack: contextlib.ExitStack,
    sshd: OpenSSHServer,
    to_port: int,
    folder: Path,
    options: Sequence[str],
) -> Peer:
    before = set(descendants_of(sshd.pid))
    command = [sys.executable, "-m", "llmrelay", "serve", "--runner", _ALIAS]
    command += ["--ssh-config", str(sshd.ssh_config(_ALIAS)), "--remote-python", sys.executable]
    command += ["--listen", "127.0.0.1:0", "--model", _MODEL, "--system", ""]
    command += ["--base-url", f"http://127.0.0.1:{to_port}/v1"]
    command += ["--connect-timeout", f"{READY_LIMIT_S:g}s", *options]
    log = folder / "front-end.log"
    environment = {**os.environ, "OPENAI_API_KEY": "benchmark"}
    with log.open("wb") as stderr:
        front_end = stack.enter_context(Child(command, stderr=stderr, env=environment))
    try:
        line = front_end.line(READY_LIMIT_S)
    except ChildFailed as error:
        raise ChildFailed(f"{error}: {log.read_text(errors='replace').strip()}") from None
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise ChildFailed(f"llmrelay serve said: {line}")
    started = set(descendants_of(sshd.pid)) - before
    groups = {
        FRONT_END: [front_end.pid],
        SSHD: [pid for pid in started if is_sshd(pid)],
        # With whatever shell the login left between sshd and the runner.
        RUNNER: [pid for pid in started if not is_sshd(pid)],
    }
    return Peer("relay", int(found[1]), "chat", groups, log)


def is_sshd(pid: int) -> bool:
    # `sshd-session` since OpenSSH 9.8.
    return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
