"""The clients of bulk.py: so many bytes up or down, by HTTP or through `ssh host cat`.

All of them send the same blocks and keep what they read, so that what a client costs is alike. Each
says how long it took, and whether what came was what was sent; neither a login nor the digests are
a part of it. Blocking: bulk.py looks at memory beside this, in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.openssh import OpenSSHServer

from .bulk_bytes import blocks, digest
from .child import Child

LIMIT_S = 300.0
_BOUNDARY = "benchmark-boundary"
_READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class Transfer:
    """What a client found.

    Attributes:
        said: an error, or nothing.
    """

    took_s: float
    said: str = ""


def _form(unread_s: float) -> tuple[bytes, bytes]:
    """What stands before the recording and behind it."""
    fields = {"model": "benchmark", "prompt": f"unread_s={unread_s:g}"}
    before = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    before += (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return before.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


def http_up(port: int, size_bytes: int, unread_s: float = 0.0) -> Transfer:
    """A recording to be transcribed; upstream reads none of it for so long."""
    before, behind = _form(unread_s)
    length = len(before) + size_bytes + len(behind)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    begun_s = time.monotonic()
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    with contextlib.suppress(OSError):  # it was refused before its end: the answer says why
        connection.send(before)
        for block in blocks(size_bytes):
            connection.send(block)
        connection.send(behind)
    response = connection.getresponse()
    body = response.read(1)
    took_s = time.monotonic() - begun_s
    body += response.read()
    connection.close()
    if response.status != 200:
        return Transfer(took_s, f"{response.status}: {body[:200]!r}")
    expected = {"bytes": length, "sha256": digest(size_bytes, before, behind)}
    return Transfer(took_s, "" if json.loads(body) == expected else "not what was sent")


def http_down(port: int, size_bytes: int, unread_s: float = 0.0) -> Transfer:
    """Speech of so many bytes; its client reads the beginning, and then none for so long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    asked = {"model": "benchmark", "voice": "alloy", "input": f"bytes={size_bytes}"}
    begun_s = time.monotonic()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/audio/speech", json.dumps(asked), headers)
    response = connection.getresponse()
    kept = []
    while data := response.read(_READ_BYTES):
        kept.append(data)
        time.sleep(unread_s)
        unread_s = 0.0
    took_s = time.monotonic() - begun_s
    connection.close()
    if response.status != 200:
        return Transfer(took_s, f"{response.status}: {kept[:1]!r}")
    return Transfer(took_s, _compared(kept, size_bytes))


def _compared(kept: list[bytes], size_bytes: int) -> str:
    found = hashlib.sha256()
    for data in kept:
        found.update(data)
    return "" if found.hexdigest() == digest(size_bytes) else "not what was sent"


class Cat:
    """`ssh host cat`, logged in and ready; a context manager that ends it.

    Args:
        file: what is there to be read: as many bytes.
    """

    def __init__(self, sshd: OpenSSHServer, direction: str, file: Path, size_bytes: int) -> None:
        self._direction = direction
        self._size_bytes = size_bytes
        # Both processes are still there when it is done, to be asked what they have cost.
        script = "cat > /dev/null; echo done; sleep 5"
        if direction == "down":
            script = f"read go; cat {shlex.quote(str(file))}; read end"
        self._child = Child(sshd.ssh_command(f"echo ready; {script}"))
        self.pid = self._child.pid

    def __enter__(self) -> Cat:
        self._child.line()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()

    def run(self) -> Transfer:
        return self._up() if self._direction == "up" else self._down()

    def _up(self) -> Transfer:
        begun_s = time.monotonic()
        for block in blocks(self._size_bytes):
            self._child.send(block)
        self._child.end_input()
        self._child.line(LIMIT_S)
        return Transfer(time.monotonic() - begun_s)

    def _down(self) -> Transfer:
        kept = []
        left = self._size_bytes
        begun_s = time.monotonic()
        self._child.say("go")
        while left and (data := self._child.read(LIMIT_S)):
            kept.append(data)
            left -= len(data)
        return Transfer(time.monotonic() - begun_s, _compared(kept, self._size_bytes))
