"""How long a user waits for `llmrelay serve`, from its start to the line that says it is ready.

Warm, over sshd on loopback, again and again; `ssh host true` takes turns with it and is the floor
that no login goes below. The parts are seen from outside: when the kernel started sshd's process
for the connection and the first one behind it (in ticks of 10 ms), and what the log says of the
runner, in which it tells how long `import openai` took.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.helpers.openssh import OpenSSHServer, descendants_of

from . import report
from .child import Child, ChildFailed
from .figures import over_rounds
from .peers import READY_LIMIT_S, is_sshd, running

_ALIAS = "benchmark"


@dataclass(frozen=True)
class Start:
    """One start, in seconds since the process was started; None is what could not be seen.

    Attributes:
        login: sshd took the connection.
        runner: the first process of the session was there.
        runner_ready: the log said so.
        import_openai: how long that took, as the runner says.
        ready: what the user waits for.
    """

    login: float | None
    runner: float | None
    runner_ready: float | None
    import_openai: float | None
    ready: float


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: a table, the JSON's content, and that nothing was wrong: it raises."""
    starts: list[Start] = []
    logins_s: list[float] = []
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(running([]))
        sshd = stack.enter_context(OpenSSHServer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmrelay-bench-")))
        report.progress("warm-up")
        _login_s(sshd)
        _start(sshd, bench.simulator_port, folder)
        for number in range(arguments.rounds):
            report.progress(f"start {number + 1} of {arguments.rounds}")
            logins_s.append(_login_s(sshd))
            starts.append(_start(sshd, bench.simulator_port, folder))
    report.write(f"\n{_table(starts, logins_s)}")
    return {"starts": [asdict(each) for each in starts], "ssh_true_s": logins_s}, False


def _login_s(sshd: OpenSSHServer) -> float:
    """What `ssh host true` takes."""
    begun_s = time.monotonic()
    command = sshd.ssh_command("true")
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603 - our own
    return time.monotonic() - begun_s


def _start(sshd: OpenSSHServer, upstream_port: int, folder: Path) -> Start:
    """`llmrelay serve` until it is ready; it is ended then.

    Raises:
        ChildFailed: it did not become ready.
    """
    command = [sys.executable, "-m", "llmrelay", "serve", "--runner", _ALIAS]
    command += ["--ssh-config", str(sshd.ssh_config(_ALIAS)), "--remote-python", sys.executable]
    command += ["--listen", "127.0.0.1:0", "--base-url", f"http://127.0.0.1:{upstream_port}/v1"]
    command += ["--log-format", "json", "--log-level", "debug"]
    log = folder / "front-end.log"
    environment = {**os.environ, "OPENAI_API_KEY": "benchmark"}
    before = set(descendants_of(sshd.pid))
    with log.open("wb") as stderr:
        # Of all three clocks: ours, the kernel's for processes, and the log's.
        begun_s, begun_boot_s, begun_at = time.monotonic(), _boot_s(), time.time()
        with Child(command, stderr=stderr, env=environment) as front_end:
            try:
                line = front_end.line(READY_LIMIT_S)
            except ChildFailed as error:
                raise ChildFailed(f"{error}: {log.read_text(errors='replace').strip()}") from None
            ready_s = time.monotonic() - begun_s
            if "is ready" not in line:
                raise ChildFailed(f"llmrelay serve said: {line}")
            started = set(descendants_of(sshd.pid)) - before
            login = [_started_s(pid) for pid in started if is_sshd(pid)]
            runner = [_started_s(pid) for pid in started if not is_sshd(pid)]
    runner_ready, import_s = said(log.read_text(), begun_at)
    return Start(
        min(login) - begun_boot_s if login else None,
        min(runner) - begun_boot_s if runner else None,
        runner_ready,
        import_s,
        ready_s,
    )


def said(log: str, begun_at: float) -> tuple[float | None, float | None]:
    """What the log tells: when the runner was ready, and how long it took to import openai."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if " is ready" in entry.get("message", ""):
                took = re.search(r"import (\d+\.\d+) s", entry["message"])
                at = datetime.fromisoformat(entry["time"]).timestamp()
                return at - begun_at, float(took[1]) if took else None
    return None, None


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _started_s(pid: int) -> float:
    """When a process was started, in seconds since the machine was."""
    # The name in parentheses may hold anything; what follows it is numbers.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _table(starts: list[Start], logins_s: list[float]) -> str:
    parts: dict[str, list[float | None]] = {
        "until it has called sshd": [each.login for each in starts],
        "login": [_between(each.login, each.runner) for each in starts],
        "runner, until it is ready": [_between(each.runner, each.runner_ready) for each in starts],
        "of that, import openai": [each.import_openai for each in starts],
        "from there to the line": [_between(each.runner_ready, each.ready) for each in starts],
        "in all: llmrelay serve is ready": [each.ready for each in starts],
        "beside it: ssh host true": [*logins_s],
    }
    rows = [[name, over_rounds(values, 2)] for name, values in parts.items()]
    return report.table(["part", "seconds"], rows)


def _between(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
