"""`llmrelay chat` as its user runs it: to its end in this process, or on a terminal of its own.

Every wait has a limit. Standard library only, but for the command itself.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from llmrelay import cli
from tests.demo.terminal import ROOT, take_as_terminal, wait_until

LIMIT_S = 20.0


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would say where to ask and how to look."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LLMRELAY", "NO_COLOR"))}
    return clean | {"TERM": "xterm"} | more


def run_chat(*arguments: str, piped: bytes = b"") -> int:
    """Runs it in this process with `piped` as its standard input; the exit status."""
    kept = os.dup(0)
    with TemporaryFile() as stdin:
        stdin.write(piped)
        stdin.seek(0)
        os.dup2(stdin.fileno(), 0)
        try:
            return cli.main(["chat", *arguments])
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:
            os.dup2(kept, 0)
            os.close(kept)


class ChatOnTerminal(AbstractContextManager["ChatOnTerminal"]):
    """`with ChatOnTerminal(...) as chat:` runs it on a terminal, and kills it at the end.

    Attributes:
        said: what the terminal shows and was not waited for yet.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._terminal, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmrelay", "chat", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs,
            env=env, cwd=ROOT, start_new_session=True,
            preexec_fn=take_as_terminal,  # noqa: PLW1509 - one system call
        )  # fmt: skip
        os.close(theirs)
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    def type(self, keys: str) -> None:
        """What a person types."""
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> str:
        """Reads until it shows `text`; what came before that."""
        while text not in self.said:
            assert self._read(), f"it ended without {text!r}:\n{self.said}"
        before, _, self.said = self.said.partition(text)
        return before

    def wait_until_it_waits(self) -> None:
        """Until it sleeps: Python's readline misses a signal that comes as it goes to sleep."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        assert wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", LIMIT_S)

    def wait(self) -> int:
        """Reads to its end; the exit status."""
        while self._read():
            pass
        return self.process.wait(LIMIT_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], LIMIT_S)
        assert ready, f"silent for {LIMIT_S:g} s:\n{self.said}"
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.said += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return True
