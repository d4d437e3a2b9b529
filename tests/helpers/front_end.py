"""`llmrelay serve` as its user runs it: a process of its own, its output in files.

For tests that look from outside: through HTTP, at exit statuses, at /proc. It is forked from one
that has imported llmrelay (preloaded.py), unless it is to be started anew. Standard library only.
"""

from __future__ import annotations

import http.client
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers import preloaded
from tests.helpers.openssh import OpenSSHServer

ROOT = Path(__file__).parent.parent.parent
# A made-up key that nothing else holds, not even another run of the tests beside this one, so that
# a search finds it wherever it went.
KEY = f"sk-llmrelay-test-{secrets.token_hex(8)}"
# For what hangs: on a machine that is busy with others a start may take half a minute.
START_LIMIT_S = 45.0
STOP_LIMIT_S = 20.0
READY = re.compile(
    r"llmrelay is ready on (https?://(\S+):(\d+))(.*) \((?:runner (.+)|\d+ of \d+ runners)\)\n"
)


def runner_options(server: OpenSSHServer) -> list[str]:
    """The options that lead to a runner on `server`."""
    return [
        "--runner",
        f"{server.user}@{server.host}:{server.port}",
        "--identity",
        str(server.identity),
        "--known-hosts",
        str(server.known_hosts),
        "--ssh-config",
        os.devnull,
        "--remote-python",
        sys.executable,
        "--connect-timeout",
        f"{START_LIMIT_S:g}",
    ]


class FrontEndProcess:
    """`with FrontEndProcess(options) as front_end:` is a front-end that is ready.

    Args:
        options: `serve`'s.
        listen: options for where to listen; by default a free port of 127.0.0.1.
        env: added to an environment with OPENAI_API_KEY and without anything else of that kind.
        anew: for tests of what the kernel or Python itself keep of a program's start. Another
            `command` is always started so.
    """

    def __init__(
        self,
        options: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        listen: Sequence[str] = ("--port", "0"),
        anew: bool = False,
    ) -> None:
        self._arguments = ["serve", *listen, *options]
        self.command = [sys.executable, "-m", "llmrelay", *self._arguments]
        self._preloaded = None if anew else list(self.command)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI")}
        self.env = clean | {"OPENAI_API_KEY": KEY} | dict(env or {})
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Starts the process without waiting for it."""
        self.process: subprocess.Popen[str] | preloaded.Process
        if self.command == self._preloaded and not pass_fds:
            self.process = preloaded.start(self._arguments, self.env, self._log.fileno())
        else:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=self.env,
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=pass_fds,
            )  # fmt: skip
        self.pid = self.process.pid

    def wait_until_ready(self) -> None:
        """Reads the line with the address."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        match = READY.fullmatch(line)
        assert match, f"not ready: {line!r}\n{self.log}"
        self.url, self.host, port, _, self.runner = match.groups()
        self.port = int(port)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.process.poll() is None:
                status = self.stop()
                assert error is not None or status == 0, self.log
        finally:
            self.end()

    def end(self) -> None:
        """Leaves nothing of it behind, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    @property
    def log(self) -> str:
        """stderr until now."""
        return os.pread(self._log.fileno(), 10_000_000, 0).decode()

    def wait_for_log(self, text: str, limit_s: float = 30.0, count: int = 1) -> str:
        """The log, once it holds `text` so many times."""
        deadline = time.monotonic() + limit_s
        while (log := self.log).count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} in the log:\n{log}"
            select.select([], [], [], 0.01)
        return log

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = STOP_LIMIT_S) -> int:
        """The exit status."""
        return self.process.wait(limit_s)

    def stop(self) -> int:
        """Drains it; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    # --- Clients --------------------------------------------------------------------------------

    def connect(self, timeout_s: float = 20.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """A whole exchange on a connection of its own: the response and its body."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def chat(self, prompt: str = "hi", query: str = "") -> tuple[http.client.HTTPResponse, bytes]:
        return self.request("POST", f"/chat{query}", prompt.encode())

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Runs curl with a limit."""
        command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "20"]
        return subprocess.run([*command, *arguments], capture_output=True, check=False)


def run_serve(
    options: Sequence[str], env: Mapping[str, str] | None = None, limit_s: float = START_LIMIT_S
) -> tuple[int, str, str]:
    """A `serve` that is expected to end by itself: exit status, stdout, stderr."""
    front_end = FrontEndProcess(options, env)
    front_end._log.close()
    ran = preloaded.run(front_end._arguments, front_end.env, limit_s)
    return ran.returncode, ran.stdout, ran.stderr
