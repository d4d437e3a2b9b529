"""Hosts in network namespaces: an sshd, an upstream and a cable each, that can all be pulled out.

`with Hosts(["a", "b"], behind={"d": "bastion"}) as hosts:` has a namespace for each name, with a
cable to ours; d's goes to bastion's instead. Ours is one that scripts/chaos has made: neither the
machine's own network nor another run is met there. Whatever happens, nothing of it is left: no
process, no namespace, no file. Linux and root only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.helpers.held import Held
from tests.helpers.openssh import generate_key, known_hosts_line

PORT = 2222
UPSTREAM_PORT = 8000
_NETWORK = "10.213"
_START_S = 10.0


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


class Host:
    """One of them: its processes, and the end of its cable."""

    def __init__(self, name: str, number: int, hosts: Hosts) -> None:
        self.name = name
        self.namespace = f"llmrelay-{os.getpid()}-{name}"
        self.cable = f"llr{os.getpid() % 100000}{name[:2]}"
        self.address = f"{_NETWORK}.{number}.2"
        self.folder = hosts.folder / name
        self.folder.mkdir()
        self.key = generate_key(self.folder / "host_key")
        self._hosts = hosts
        self._sshd: subprocess.Popen[bytes] | None = None
        self._upstream: subprocess.Popen[bytes] | None = None

    # --- Its parts ------------------------------------------------------------------------------

    def start(self) -> None:
        """The upstream, and the sshd."""
        self.set_mode("well")
        (self.folder / "requests").touch()
        command = [sys.executable, "-m", "scripts.faults.upstream", str(UPSTREAM_PORT)]
        self._upstream = self._spawn([*command, str(self.folder)], subprocess.PIPE)
        assert self._upstream.stdout is not None
        assert self._upstream.stdout.readline() == b"ready\n"
        self.start_sshd()

    def start_sshd(self) -> None:
        """Returns when it listens."""
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {PORT}\nListenAddress {self.address}\nHostKey {self.key}\n"
            f"AuthorizedKeysFile {self._hosts.identity}.pub\nStrictModes no\nUsePAM no\n"
            "PidFile none\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            # What a login shell runs of its user's would be killed halfway with the sessions.
            "SetEnv HOME=/\nMaxStartups 1000\nUseDNS no\n"
        )
        log = self.folder / "sshd.log"
        begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
            self._sshd = self._spawn([sshd, "-D", "-e", "-f", str(config)], file)
        deadline = time.monotonic() + _START_S
        while b"Server listening on" not in log.read_bytes()[begun:]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd of {self.name} did not start:\n{log.read_text()}")
            time.sleep(0.01)

    def set_mode(self, mode: str) -> None:
        """How its upstream does from now on."""
        new = self.folder / "mode.new"
        new.write_text(mode)
        new.rename(self.folder / "mode")

    @property
    def requests(self) -> int:
        """What its upstream was asked so far."""
        return (self.folder / "requests").read_bytes().count(b"\n")

    def pull_cable(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        run("ip", "-n", self.namespace, "link", "set", self.cable, "down")

    def plug_in(self) -> None:
        run("ip", "-n", self.namespace, "link", "set", self.cable, "up")

    def kill_sshd(self) -> None:
        """sshd and its sessions; what these had started is left to notice."""
        for pid in self._pids("sshd"):
            _kill(pid, signal.SIGKILL)
        if self._sshd is not None:
            self._sshd.wait()

    def runners(self) -> list[int]:
        """Its runner processes."""
        return self._pids("llmrelay-runner")

    def signal_runners(self, number: signal.Signals) -> None:
        for pid in self.runners():
            _kill(pid, number)

    def _pids(self, word: str) -> list[int]:
        """Its processes with `word` in their command line."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False
        )
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                    found.append(pid)
        return found

    def _spawn(self, command: Sequence[str], stdout: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def end(self) -> None:
        """Everything that runs in its namespace."""
        for pid in self._pids(""):
            _kill(pid, signal.SIGKILL)
        for process in (self._sshd, self._upstream):
            if process is not None:
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Hosts(Held):
    """All of them; `behind` names those whose cable goes to another host."""

    def __init__(self, names: Sequence[str], behind: Mapping[str, str] | None = None) -> None:
        self._names = names
        self._behind = dict(behind or {})
        self.by_name: dict[str, Host] = {}

    def _take(self, cleanup: contextlib.ExitStack) -> None:
        if os.geteuid() != 0:
            raise SystemExit("Network namespaces take root.")
        # Ours is one, too (scripts/chaos), and new.
        run("ip", "link", "set", "lo", "up")
        self.folder = Path(tempfile.mkdtemp(prefix="llmrelay-chaos-"))
        cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o711)
        self.identity = generate_key(self.folder / "identity")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for number, name in enumerate(self._names, 1):
            host = Host(name, number, self)
            self.by_name[name] = host
            cleanup.enter_context(_namespace(host.namespace))
            cleanup.callback(host.end)
            self._plug(host, number)
            host.start()
        self._write_known_hosts()

    def __getitem__(self, name: str) -> Host:
        return self.by_name[name]

    def _plug(self, host: Host, number: int) -> None:
        """A cable between the host and us, or the host that it is behind."""
        other = f"{host.cable}x"
        run("ip", "link", "add", other, "type", "veth", "peer", "name", host.cable,
            "netns", host.namespace)  # fmt: skip
        where: list[str] = []
        if (before := self._behind.get(host.name)) is not None:
            where = ["-n", self.by_name[before].namespace]
            run("ip", "link", "set", other, "netns", self.by_name[before].namespace)
        run("ip", *where, "addr", "add", f"{_NETWORK}.{number}.1/30", "dev", other)
        run("ip", *where, "link", "set", other, "up")
        within = ["-n", host.namespace]
        run("ip", *within, "addr", "add", f"{host.address}/30", "dev", host.cable)
        run("ip", *within, "link", "set", host.cable, "up")
        run("ip", *within, "link", "set", "lo", "up")

    def _write_known_hosts(self) -> None:
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text(
            "".join(
                known_hosts_line(host.address, PORT, host.key.with_suffix(".pub"))
                for host in self.by_name.values()
            )
        )
        self.ssh_config = self.folder / "ssh_config"
        self.ssh_config.write_text(
            "".join(
                f"Host {host.name}\n  HostName {host.address}\n  Port {PORT}\n  User root\n"
                f"  IdentityFile {self.identity}\n  IdentitiesOnly yes\n"
                for host in self.by_name.values()
            )
        )

    def line(self, name: str, **more: str) -> str:
        """A host's line in the inventory."""
        given = {
            "ansible_python_interpreter": sys.executable,
            "llmrelay_base_url": f"http://127.0.0.1:{UPSTREAM_PORT}/v1",
        }
        if (before := self._behind.get(name)) is not None:
            given["ansible_ssh_common_args"] = f"-J {before}"
        return " ".join([name, *(f"{key}='{value}'" for key, value in (given | more).items())])


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    run("ip", "netns", "add", name)
    try:
        yield
    finally:
        run("ip", "netns", "del", name)
