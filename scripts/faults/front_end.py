"""The front-end under test: `llmrelay serve` as its user starts it, and what its log says."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

START_S = 60.0
STOP_S = 60.0

Line = dict[str, Any]


class FrontEnd:
    """A process of `llmrelay serve`; its log is followed as it grows."""

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        self.lines: list[Line] = []
        self.begun_at_s = time.time()
        self._log = (folder / "front-end.log").open("w+b")
        self._read_to = 0
        self._rest = b""
        command = [sys.executable, "-m", "llmrelay", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            [*command, "--log-format", "json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, "OPENAI_API_KEY": "sk-chaos"}, start_new_session=True,
        )  # fmt: skip

    def wait_until_ready(self) -> float:
        """Reads the line with the address; how long that took, in seconds."""
        assert self.process.stdout is not None
        begun, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if begun else ""
        if "llmrelay is ready on" not in line:
            raise RuntimeError(f"the front-end is not ready:\n{self._said()}")
        self.port = int(line.split()[4].rpartition(":")[2])
        return time.time() - self.begun_at_s

    def follow(self) -> None:
        """Reads what the log says that it did not say before."""
        # The process writes at a place of its own; ours is where we have read to.
        data = os.pread(self._log.fileno(), 100_000_000, self._read_to)
        self._read_to += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines += [_parsed(line) for line in whole]

    def said(self, texts: tuple[str, ...], since_s: float) -> float | None:
        """When a message that begins so was logged, after `since_s`; None if it was not."""
        self.follow()
        for line in self.lines:
            if line["at_s"] >= since_s and line["message"].startswith(texts):
                return float(line["at_s"])
        return None

    def wait_for(self, text: str, limit_s: float) -> None:
        """Returns once a message begins so."""
        deadline = time.time() + limit_s
        while self.said((text,), self.begun_at_s) is None:
            if time.time() > deadline:
                raise RuntimeError(f"no {text!r} in the front-end's log:\n{self._said()}")
            time.sleep(0.05)

    @property
    def descriptors(self) -> int:
        """Open files of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def hang_up(self) -> None:
        """Has it reload."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """Drains it; its exit status, or -9 if it did not end in time."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _said(self) -> str:
        return os.pread(self._log.fileno(), 10_000, 0).decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def _parsed(line: bytes) -> Line:
    try:
        said: Line = json.loads(line)
        said["at_s"] = datetime.fromisoformat(said["time"]).timestamp()
    except (ValueError, KeyError):
        # Not by our logger: a traceback of the interpreter's, or a library's print.
        return {"at_s": time.time(), "message": line.decode(errors="replace"), "level": "stray"}
    return said


@contextlib.contextmanager
def serving(options: Sequence[str], folder: Path) -> Iterator[FrontEnd]:
    """A front-end that has begun; it is gone after the block."""
    front_end = FrontEnd(options, folder)
    try:
        yield front_end
    finally:
        front_end.close()
