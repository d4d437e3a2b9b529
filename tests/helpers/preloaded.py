"""`llmrelay` in processes of their own that did not have to import it: its start for a tenth.

Most of what a command's start costs is Python reading the program and asyncssh. One process for
each of pytest's workers (`python -m tests.helpers.preloaded`) has done that, and forks for whoever
calls `start`: the child has its own arguments, environment and descriptors, and runs the command
from its first line to its exit status. What the kernel keeps of a program's start
(/proc/PID/cmdline and environ) is the first one's, and so is what Python itself reads from the
environment: tests that look there start a program anew, as do those of the command line.

Standard library only, but for llmrelay.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent.parent
MAX_MESSAGE_BYTES = 200_000


@dataclass(frozen=True)
class Request:
    """What a new process is told beside its descriptors."""

    arguments: list[str]
    env: dict[str, str]


# --- Whoever starts one -------------------------------------------------------------------------


class Process:
    """What tests use of a subprocess.Popen, for a process that is another one's child."""

    def __init__(self, pid: int, ending: int, stdout: IO[str] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._ending = ending

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, limit_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._ending], [], [], limit_s)[0]:
            self.returncode = int(os.read(self._ending, 100))
            os.close(self._ending)
        return self.returncode


def start(
    arguments: Sequence[str], env: Mapping[str, str], stderr: int, stdout: int | None = None
) -> Process:
    """`llmrelay` with these; stdout is a pipe of the Process's if None is given."""
    read, write = os.pipe() if stdout is None else (None, stdout)
    ending, ended = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        asked = json.dumps(asdict(Request(list(arguments), dict(env)))).encode()
        assert len(asked) < MAX_MESSAGE_BYTES
        forks = _forks()
        socket.send_fds(forks, [asked], [nothing, write, stderr, ended])
        pid = int(forks.recv(100))
    finally:
        for descriptor in (nothing, ended, *([write] if stdout is None else [])):
            os.close(descriptor)
    return Process(pid, ending, None if read is None else open(read))


def run(
    arguments: Sequence[str], env: Mapping[str, str], limit_s: float, stdout: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`llmrelay` to its end; what it printed, but for what went to a `stdout` that was given."""
    with contextlib.ExitStack() as files:
        out, err = (files.enter_context(_temporary_file()) for _ in range(2))
        process = start(arguments, env, err.fileno(), (stdout or out).fileno())
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        said = [os.pread(file.fileno(), 10_000_000, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(list(arguments), process.wait(), *said)


def _temporary_file() -> IO[bytes]:
    descriptor = os.memfd_create("output")
    return open(descriptor, "r+b")


@functools.cache
def _forks() -> socket.socket:
    """The way to this worker's process that has imported llmrelay."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(theirs.fileno())],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        cwd=ROOT, pass_fds=[theirs.fileno()],
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- The process that has imported it -----------------------------------------------------------


def fork_for(asking: socket.socket) -> Request | None:
    """Forks for each request. Returns in the child, with it; and in the parent, with none."""
    awake, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ended: dict[int, int] = {}
    waits_for: list[int | socket.socket] = [asking, awake]
    while True:
        ready, _, _ = select.select(waits_for, [], [])
        if awake in ready:
            os.read(awake, 4096)
            _tell_who_ended(ended)
        if asking in ready:
            asked, descriptors, _, _ = socket.recv_fds(asking, MAX_MESSAGE_BYTES, 4)
            if not asked:
                return None
            pid = os.fork()
            if pid == 0:
                _become_a_program(descriptors[:3])
                return Request(**json.loads(asked))
            ended[pid] = descriptors.pop()
            asking.send(b"%d" % pid)
            for descriptor in descriptors:
                os.close(descriptor)


def _tell_who_ended(ended: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            # Nobody may wait for it any more.
            with contextlib.suppress(BrokenPipeError):
                os.write(ended[pid], b"%d" % os.waitstatus_to_exitcode(status))
            os.close(ended.pop(pid))


def _become_a_program(standard: Sequence[int]) -> None:
    """As if it had been started: three descriptors, and no handler of ours."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def main() -> None:
    from llmrelay import cli
    from llmrelay.__main__ import main as llmrelay

    assert cli  # which that imports when it runs
    asking = socket.socket(fileno=int(sys.argv[1]))
    if request := fork_for(asking):
        asking.detach()  # closed already
        os.environ.clear()
        os.environ.update(request.env)
        sys.argv[1:] = request.arguments
        llmrelay()


if __name__ == "__main__":
    main()
