"""200 MB up and 200 MB down, beside `ssh host cat`: how fast, at what cost, in how much memory.

The way up is a recording to be transcribed, the way down speech; the simulator and the client
compare SHA-256. Rounds take turns with OpenSSH's own client and the same sshd: `ssh host 'cat >
/dev/null'` and `ssh host cat FILE`. `direct` says what simulator and client can do by themselves.
Then the same once more with an upstream, and with a client, that stops reading for a while: memory
should grow by windows and buffers, and not by what is sent.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.helpers.openssh import descendants_of

from . import report
from .bulk_bytes import blocks
from .bulk_client import Cat, Transfer, http_down, http_up
from .child import cpu_s, pss_kib
from .figures import over_rounds
from .peers import FRONT_END, RUNNER, SSH, SSHD, Bench, is_sshd, running
from .profiler import spied

SIZE_MB = 200
UNREAD_S = 2.0
SAMPLE_S = 0.05
WAYS = ("direct", "ssh cat", "relay")
DIRECTIONS = ("up", "down")
_WARM_UP_BYTES = 16 * 1024 * 1024

Groups = Mapping[str, list[int]]


@dataclass(frozen=True)
class Measurement:
    """One transfer.

    Attributes:
        said: what was wrong, or nothing.
        cpu_s: by group of processes.
        grown_kib: by group, its most PSS less what it held before.
        peak_kib: by group, the kernel's own peak of its RSS (VmHWM) less the RSS before.
    """

    way: str
    direction: str
    mb_per_s: float
    said: str
    cpu_s: dict[str, float]
    grown_kib: dict[str, int]
    peak_kib: dict[str, int]


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The command: tables, the JSON's content, and whether anything was wrong."""
    size_bytes = arguments.megabytes * 1_000_000
    report.write(f"{arguments.megabytes} MB up and down, one at a time")
    found: list[Measurement] = []
    slow: list[Measurement] = []
    options = ["--max-upload", "1024MiB"]
    with (
        running(["direct", "relay"], simulator="bulk_simulator", options=options) as bench,
        tempfile.NamedTemporaryFile(prefix="llmrelay-bench-") as file,
    ):
        file.writelines(blocks(size_bytes))
        file.flush()
        bulk = _Bulk(bench, Path(file.name))
        report.progress("warm-up")
        for direction in DIRECTIONS:
            bulk.by_http("relay", direction, _WARM_UP_BYTES)
        for number in range(arguments.rounds):
            shift = number % len(WAYS)
            for way in WAYS[shift:] + WAYS[:shift]:
                for direction in DIRECTIONS:
                    report.progress(f"round {number + 1} of {arguments.rounds}: {way} {direction}")
                    found.append(bulk.measure(way, direction, size_bytes))
        for direction in DIRECTIONS:
            report.progress(f"{direction}, unread for {UNREAD_S:g} s")
            slow.append(bulk.by_http("relay", direction, size_bytes, UNREAD_S))
        if arguments.profile:
            for direction in DIRECTIONS:
                report.write(f"\n{direction}:")
                with spied(bench):
                    bulk.by_http("relay", direction, size_bytes)
    report.write(f"\n{_speed_table(found)}\n\n{_cost_table(found)}\n\n{_memory_table(found, slow)}")
    wrong = [f"{each.way} {each.direction}: {each.said}" for each in found + slow if each.said]
    report.write("\n" + ("\n".join(wrong) or "Every SHA-256 was right."))
    content = {
        "bytes": size_bytes,
        "measurements": [asdict(each) for each in found],
        "unread": [asdict(each) for each in slow],
    }
    return content, bool(wrong)


class _Bulk:
    """Transfers between what runs."""

    def __init__(self, bench: Bench, file: Path) -> None:
        self._bench = bench
        self._file = file

    def measure(self, way: str, direction: str, size_bytes: int) -> Measurement:
        if way == "ssh cat":
            return self._by_cat(direction, size_bytes)
        return self.by_http(way, direction, size_bytes)

    def by_http(
        self, way: str, direction: str, size_bytes: int, unread_s: float = 0.0
    ) -> Measurement:
        peer = self._bench.peer(way)
        client = http_up if direction == "up" else http_down
        transfer = functools.partial(client, peer.port, size_bytes, unread_s)
        return _measured(way, direction, size_bytes, peer.groups, transfer)

    def _by_cat(self, direction: str, size_bytes: int) -> Measurement:
        sshd = self._bench.sshd
        assert sshd is not None
        before = set(descendants_of(sshd.pid))
        with Cat(sshd, direction, self._file, size_bytes) as cat:
            started = set(descendants_of(sshd.pid)) - before
            groups = {SSH: [cat.pid], SSHD: [pid for pid in started if is_sshd(pid)]}
            return _measured("ssh cat", direction, size_bytes, groups, cat.run)


def _measured(
    way: str, direction: str, size_bytes: int, groups: Groups, transfer: Callable[[], Transfer]
) -> Measurement:
    memory = _Memory({name: groups[name] for name in (FRONT_END, RUNNER) if name in groups})
    before = {name: cpu_s(pids) for name, pids in groups.items()}
    with memory.watched():
        done = transfer()
    used = {name: cpu_s(pids) - before[name] for name, pids in groups.items()}
    mb_per_s = size_bytes / 1e6 / done.took_s
    return Measurement(way, direction, mb_per_s, done.said, used, memory.grown_kib, memory.peak_kib)


class _Memory:
    """What groups of processes hold while something goes on, above what they held before."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._over = threading.Event()
        self._pss_kib = {name: pss_kib(pids) or 0 for name, pids in groups.items()}
        self.grown_kib = dict.fromkeys(groups, 0)
        self.peak_kib = dict.fromkeys(groups, 0)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        before = {name: self._reset_peak_kib(pids) for name, pids in self._groups.items()}
        sampler = threading.Thread(target=self._sample)
        sampler.start()
        try:
            yield
        finally:
            self._over.set()
            sampler.join()
        for name, pids in self._groups.items():
            self.peak_kib[name] = _status_kib(pids, "VmHWM") - before[name]

    @staticmethod
    def _reset_peak_kib(pids: list[int]) -> int:
        """Makes the kernel's peak what is held now, and returns that."""
        for pid in pids:
            # Without leave it is the peak since the process began.
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        return _status_kib(pids, "VmRSS")

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for name, pids in self._groups.items():
                grown_kib = (pss_kib(pids) or 0) - self._pss_kib[name]
                self.grown_kib[name] = max(grown_kib, self.grown_kib[name])


def _status_kib(pids: list[int], field: str) -> int:
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


# --- Tables -------------------------------------------------------------------------------------


def _of(found: list[Measurement], way: str, direction: str) -> list[Measurement]:
    return [each for each in found if (each.way, each.direction) == (way, direction)]


def _speed_table(found: list[Measurement]) -> str:
    rows = []
    for direction in DIRECTIONS:
        cat = _of(found, "ssh cat", direction)
        for way in WAYS:
            rounds = _of(found, way, direction)
            beside = [a.mb_per_s / b.mb_per_s for a, b in zip(rounds, cat, strict=True)]
            speed = over_rounds([each.mb_per_s for each in rounds], 0)
            rows.append([direction, way, speed, over_rounds(beside, 2)])
    return report.table(["", "by", "MB/s", "of ssh cat's"], rows)


def _cost_table(found: list[Measurement]) -> str:
    rows = []
    for direction in DIRECTIONS:
        for way in WAYS:
            rounds = _of(found, way, direction)
            rows += [
                [direction, way, group, over_rounds([each.cpu_s[group] for each in rounds], 2)]
                for group in rounds[0].cpu_s
            ]
    return report.table(["", "by", "process", "CPU s"], rows)


def _memory_table(found: list[Measurement], slow: list[Measurement]) -> str:
    rows = []
    for direction in DIRECTIONS:
        who = "upstream" if direction == "up" else "client"
        kinds = {
            "": _of(found, "relay", direction),
            f"{who} stops for {UNREAD_S:g} s": _of(slow, "relay", direction),
        }
        for kind, rounds in kinds.items():
            for group in (FRONT_END, RUNNER):
                grown = over_rounds([each.grown_kib[group] / 1024 for each in rounds])
                peak = over_rounds([each.peak_kib[group] / 1024 for each in rounds])
                rows.append([direction, kind, group, grown, peak])
    return report.table(["", "", "process", "PSS grew MiB", "VmHWM over RSS before, MiB"], rows)
