"""The benchmark's processes: started, talked to in lines, measured, and ended one by one.

CPU time is the kernel's clock of a process (clock_getcpuclockid(3)): all threads, user and system,
in nanoseconds, where /proc/PID/stat counts in ticks of 10 ms and /proc/PID/schedstat knows the
main thread alone. Memory is PSS, which splits shared pages among those who share them.

Knows nothing of what the processes are for.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

END_LIMIT_S = 10.0
LINE_LIMIT_S = 30.0

_CPUCLOCK_SCHED = 2


class ChildFailed(Exception):
    """A process ended, or kept silent, before it had said what it was started for."""


class Child:
    """A process of ours; a context manager that ends it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._name = " ".join(command[:4])
        self._process = subprocess.Popen(  # noqa: S603 - our own command lines
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._output = self._process.stdout
        self._stdout = self._output.fileno()
        self._rest = b""
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @classmethod
    def module(cls, name: str, *arguments: str) -> Self:
        """One of the benchmark's own programs."""
        return cls([sys.executable, "-m", f"{__package__}.{name}", *arguments])

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def say(self, line: str) -> None:
        self._stdin.write(line.encode() + b"\n")
        self._stdin.flush()

    def send(self, data: bytes) -> None:
        """Writes `data` to its stdin, all of it."""
        self._stdin.write(data)

    def end_input(self) -> None:
        """Its stdin ends."""
        self._stdin.close()

    def read(self, limit_s: float = LINE_LIMIT_S) -> bytes:
        """What it says next, as much as there is; empty at its end.

        Raises:
            ChildFailed: it is silent for so long.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise ChildFailed(f"{self._name}: nothing within {limit_s:g} s")
        return os.read(self._stdout, 1 << 20)

    def line(self, limit_s: float = LINE_LIMIT_S) -> str:
        """Its next line.

        Raises:
            ChildFailed: there is none.
        """
        line = self.line_within(limit_s)
        if line is None:
            raise ChildFailed(f"{self._name}: nothing within {limit_s:g} s")
        return line

    def line_within(self, wait_s: float) -> str | None:
        """Its next line, or None if that takes longer.

        Raises:
            ChildFailed: it ended.
        """
        deadline = time.monotonic() + wait_s
        while b"\n" not in self._rest:
            try:
                data = self.read(max(0.0, deadline - time.monotonic()))
            except ChildFailed:
                return None
            if not data:
                raise ChildFailed(f"{self._name} ended ({self._process.wait(END_LIMIT_S)})")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def interrupt(self) -> None:
        """What Ctrl-C does, unless it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Closes its stdin and asks it to end; kills it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
        with contextlib.suppress(OSError):  # it ended with something unread
            self._stdin.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


def cpu_s(pids: Iterable[int]) -> float:
    """The CPU seconds that these processes have used since they began.

    Raises:
        ChildFailed: one of them has ended.
    """
    try:
        return sum(time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED) for pid in pids)
    except OSError as error:
        raise ChildFailed("a process ended while it was measured") from error


def wakes(pids: Iterable[int]) -> int:
    """How often these processes went to sleep since they began, and so were woken."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def pss_kib(pids: Iterable[int]) -> int | None:
    """What these processes hold in memory; None where the kernel does not tell."""
    total = 0
    for pid in pids:
        try:
            found = re.search(
                r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
            )
        except OSError:
            return None
        total += int(found[1]) if found else 0
    return total
