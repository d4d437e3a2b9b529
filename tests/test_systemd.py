"""What systemd hands in and is told, played by a test: it is a set of variables and descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmrelay.systemd import Notifier, handed_in_sockets
from tests.helpers.front_end import ROOT


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "A": "b"}
    assert handed_in_sockets(environ) == []
    assert environ == {"A": "b"}
    assert handed_in_sockets({}) == []


def test_sockets_come_from_descriptor_3_on_and_no_child_inherits_them() -> None:
    script = (
        "import os\n"
        "from llmrelay.systemd import handed_in_sockets\n"
        "environ = dict(os.environ, LISTEN_PID=str(os.getpid()))\n"
        "for sock in handed_in_sockets(environ):\n"
        "    print(sock.fileno(), sock.getsockname()[1], sock.get_inheritable())\n"
        "print([name for name in environ if name.startswith('LISTEN')])\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        command = f'exec "$0" -c "$1" 3<&{one.fileno()} 4<&{two.fileno()}'
        shown = subprocess.run(
            ["bash", "-c", command, sys.executable, script],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"},
            pass_fds=(one.fileno(), two.fileno()),
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout  # fmt: skip
        ports = [sock.getsockname()[1] for sock in (one, two)]
    assert shown.splitlines() == [f"3 {ports[0]} False", f"4 {ports[1]} False", "[]"]


@pytest.mark.parametrize("abstract", [False, True])
def test_the_state_goes_to_the_socket_that_systemd_names(tmp_path: Path, abstract: bool) -> None:
    name = f"@llmrelay@{os.getpid()}" if abstract else str(tmp_path / "notify@1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(20)
        environ = {"NOTIFY_SOCKET": name}
        notifier = Notifier(environ)
        assert environ == {}
        notifier.ready()
        notifier.reloading()
        notifier.stopping()
        assert sock.recv(100) == b"READY=1"
        assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert sock.recv(100) == b"STOPPING=1"


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
