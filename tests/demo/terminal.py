"""`llmrelay demo` as its user runs it: on a terminal of its own, or in a pipe.

Every wait is for something that the demo says or for its end, and has a limit. What it started is
known by pid, so that a test can tell whether all of it has gone. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.openssh import descendants_of

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 30.0
CTRL_C = b"\x03"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This one, without a key, and with `folder` for temporary files."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI")}
    return clean | {"TMPDIR": str(folder)} | more


def take_as_terminal() -> None:
    """Makes stdin the terminal whose Ctrl-C is for this process; runs in the child."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class DemoProcess:
    """`with DemoProcess(...) as demo:` runs it, and kills what is left at the end.

    Args:
        terminal: on a terminal; else stdin is empty, and stdout and stderr are a pipe.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str], terminal: bool = False) -> None:
        self._output, theirs = os.openpty() if terminal else os.pipe()
        preexec: Callable[[], None] | None = take_as_terminal if terminal else None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmrelay", "demo", *arguments],
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=preexec,  # noqa: PLW1509 - one system call, before any thread matters
        )
        os.close(theirs)
        self.said = ""
        self.reads = 0
        self._noted: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Killed or not, what it started ends with it; if a test failed, that too is killed.
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        os.close(self._output)

    def wait_for(self, text: str) -> None:
        """Reads until it says `text`."""
        while text not in self.said:
            assert self._read(), f"it ended without saying {text!r}:\n{self.said}"

    def wait(self) -> int:
        """Reads until nobody holds its stdout any more, host included; its exit status."""
        while self._read():
            pass
        return self.process.wait(LIMIT_S)

    def type(self, keys: bytes) -> None:
        """What a person types."""
        os.write(self._output, keys)

    def note_processes(self) -> int:
        """Remembers what runs under it now; how many processes that are."""
        for pid in descendants_of(self.process.pid):
            self._noted[pid] = started_at(pid)
        return len(self._noted)

    def left(self) -> list[int]:
        """The noted processes that still live."""
        return [pid for pid, started in self._noted.items() if started_at(pid) == started != ""]

    def _read(self) -> bool:
        ready, _, _ = select.select([self._output], [], [], LIMIT_S)
        assert ready, f"silent for {LIMIT_S:g} s:\n{self.said}"
        try:
            data = os.read(self._output, 65536)
        except OSError:  # EIO: the terminal's other end has closed
            data = b""
        self.reads += 1
        self.said += data.decode().replace("\r\n", "\n")
        return bool(data)


def started_at(pid: int) -> str:
    """When a process was started, which tells it from a later one with its pid; empty if it ended.

    One that has ended and only waits for its parent's notice counts as ended.
    """
    try:
        # The name in parentheses may hold anything; what follows it is state and numbers.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    """For what no descriptor tells: whether `condition` comes true within the limit."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True
