"""Several hosts for several runners: an sshd and an upstream each, and an inventory over them.

`with Fleet(3) as fleet:` is three of OpenSSH's sshds on 127.0.0.2 and so on, each with a scripted
upstream of its own that answers with the host's name. `fleet.inventory` is a file that leads there;
`write` changes it. Knows how a front-end is told of hosts, and nothing of what it does with them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.front_end import START_LIMIT_S
from tests.helpers.held import Held
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import ScriptedUpstream, ThreadedUpstream, answer


class Host:
    """One of them.

    Attributes:
        name: the inventory's, and what its upstream answers.
        variables: its line in the inventory.
    """

    def __init__(self, name: str, server: OpenSSHServer, upstream: ThreadedUpstream) -> None:
        self.name = name
        self.server = server
        self.upstream = upstream
        self.script: ScriptedUpstream = upstream.upstream
        self.variables = {
            "ansible_host": server.host,
            "ansible_port": str(server.port),
            "ansible_user": server.user,
            "ansible_ssh_private_key_file": str(server.identity),
            "ansible_python_interpreter": sys.executable,
            "llmrelay_base_url": upstream.base_url,
        }

    def line(self, **more: str) -> str:
        """Its line in the inventory, with more or other variables."""
        given = {name: value for name, value in (self.variables | more).items() if value}
        return " ".join([self.name, *(f"{name}='{value}'" for name, value in given.items())])


class Fleet(Held):
    """`count` hosts, called a, b and so on, with these lines of sshd_config besides."""

    def __init__(self, count: int, *options: str) -> None:
        self.hosts: list[Host] = []
        self._count = count
        self._options = options

    def _take(self, cleanup: contextlib.ExitStack) -> None:
        for number in range(self._count):
            # These hosts die: what a login shell runs of its user's would be killed halfway.
            server = OpenSSHServer("SetEnv HOME=/", *self._options, host=f"127.0.0.{number + 2}")
            cleanup.enter_context(server)
            name = chr(ord("a") + number)
            script = ScriptedUpstream(answer(name))
            self.hosts.append(Host(name, server, cleanup.enter_context(script.in_thread())))
        self.folder = self.hosts[0].server.folder
        self.known_hosts = self.folder / "all_known_hosts"
        self.inventory = self.folder / "hosts.ini"
        self.trust()
        self.write(*(host.line() for host in self.hosts))

    def trust(self, *more: Path) -> None:
        """The host keys of all, and those in `more`, are known."""
        files = [host.server.known_hosts for host in self.hosts] + list(more)
        self.known_hosts.write_text("".join(file.read_text() for file in files))

    def write(self, *lines: str, path: Path | None = None) -> Path:
        """Writes the inventory, at once and whole as a careful editor does."""
        path = path or self.inventory
        new = path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.rename(path)
        return path

    def options(self, ssh_config: Path = Path(os.devnull)) -> list[str]:
        """What `serve` needs to be told of them; `ssh_config` may know jump hosts."""
        return [
            "--inventory",
            str(self.inventory),
            "--known-hosts",
            str(self.known_hosts),
            "--ssh-config",
            str(ssh_config),
            "--connect-timeout",
            f"{START_LIMIT_S:g}",
        ]


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A port of 127.0.0.1 where no attempt to connect is ever answered, nor refused."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        # Whose queue is full: the kernel drops what comes then.
        listener.listen(0)
        for _ in range(2):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]
