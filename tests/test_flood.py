"""A front-end that is allowed few open files, under more connections than it can hold.

Over OpenSSH, from outside; scripts/bench flood measures the same with ten thousand.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time

from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import ScriptedUpstream

OPEN_FILES = 400
CLIENTS = 600
LIMIT_S = 30.0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_clients_cannot_use_up_open_files_and_a_prompt_is_answered(sshd: OpenSSHServer) -> None:
    with ScriptedUpstream().in_thread() as upstream, contextlib.ExitStack() as stack:
        front_end = FrontEndProcess([*runner_options(sshd), "--base-url", upstream.base_url])
        limited = f"ulimit -n {OPEN_FILES}; exec {shlex.join(front_end.command)}"
        front_end.command = ["/bin/sh", "-c", limited]
        with front_end:
            front_end.wait_for_log("allows 168 connections at once, not 10000")
            assert front_end.chat()[1] == b"Hello, world"
            before = descriptors(front_end.pid)
            for number in range(CLIENTS):
                sock = stack.enter_context(
                    socket.create_connection((front_end.host, front_end.port))
                )
                if number % 10 == 0:
                    sock.send(b"GET /")  # and no more
            assert front_end.chat()[1] == b"Hello, world"
            assert descriptors(front_end.pid) < OPEN_FILES
            assert "no more connections can be taken" not in front_end.log
            stack.close()
            deadline_s = time.monotonic() + LIMIT_S
            while descriptors(front_end.pid) > before and time.monotonic() < deadline_s:
                time.sleep(0.02)
            assert descriptors(front_end.pid) <= before
