"""The real payload as a child process with pipes: what sshd would start, without SSH.

A test plays the front-end by hand, frame by frame, so that it can say what no Link would. Payloads
may be altered: another upstream module makes a call do what a test needs, without openai's import.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import tempfile
import zlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from llmrelay.runners import payload
from llmrelay.runners.payload import Payload
from runner_payload.messages import Call, End, Failure, Hello, Message, Ready, Start
from runner_payload.protocol import DATA_BYTES, MARKER, FrameType, encode_frame
from tests.helpers.frames import Frame, Frames

LIMIT_S = 30.0


def altered_payload(**sources: str) -> Payload:
    """The payload with other sources for some of its modules."""
    whole = payload.load()
    bootstrap = whole.blob[: whole.bootstrap_bytes]
    modules = json.loads(zlib.decompress(whole.blob[whole.bootstrap_bytes :]))
    for name, source in sources.items():
        assert f"runner_payload.{name}" in modules
        modules[f"runner_payload.{name}"] = source
    blob = bootstrap + zlib.compress(json.dumps(modules).encode())
    return replace(whole, blob=blob, digest=hashlib.sha256(blob).hexdigest())


class BareRunner:
    """One runner process. Frames that a test does not wait for are kept for when it does."""

    def __init__(self, process: Process, stderr: IO[bytes]) -> None:
        self.process = process
        self.frames: list[Frame] = []
        self._stderr = stderr
        self._decoder = Frames()
        self._last_call_id = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """All that it has logged so far."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode()

    # To the runner.

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def send(self, frame_type: int, call_id: int = 0, payload: bytes | Message = b"") -> None:
        data = payload.encode() if isinstance(payload, Message) else payload
        self.send_bytes(encode_frame(frame_type, call_id, data))

    def call(self, prompt: str = "hi", **parameters: object) -> int:
        """Sends a whole call, and returns its id."""
        self._last_call_id += 1
        call_id = self._last_call_id
        self.send(FrameType.CALL, call_id, Call(**({"model": "m"} | parameters)))  # type: ignore[arg-type]
        data = prompt.encode()
        for at in range(0, len(data), DATA_BYTES):
            self.send(FrameType.DATA, call_id, data[at : at + DATA_BYTES])
        self.send(FrameType.END, call_id, End())
        return call_id

    def end_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    # From the runner.

    async def hello(self) -> Hello:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            try:
                await self.process.stdout.readuntil(MARKER)
            except asyncio.IncompleteReadError as error:
                raise AssertionError(f"no marker: {error.partial!r}; {self.stderr}") from None
        return Hello.decode((await self.frame(FrameType.HELLO)).payload)

    async def start(self, base_url: str = "http://127.0.0.1:9/v1", **settings: object) -> None:
        """HELLO, START, READY."""
        await self.hello()
        self.send(FrameType.START, 0, a_start(base_url, **settings))
        Ready.decode((await self.frame(FrameType.READY)).payload)

    async def frame(self, frame_type: FrameType, call_id: int | None = None) -> Frame:
        """The next frame of that type (and call), waited for if need be."""
        return await self.frame_of({frame_type}, call_id)

    async def frame_of(self, types: set[FrameType], call_id: int | None = None) -> Frame:
        at = 0
        async with asyncio.timeout(LIMIT_S):
            while True:
                for frame in self.frames[at:]:
                    if frame.type in types and call_id in (None, frame.call_id):
                        self.frames.remove(frame)
                        return frame
                at = len(self.frames)
                if not await self._read():
                    raise AssertionError(f"it ended without {types}: {self.stderr}")

    async def data(self, call_id: int, count: int) -> bytes:
        """`count` bytes of a call's answer; more in its last frame is an error."""
        data = b""
        while len(data) < count:
            data += (await self.frame(FrameType.DATA, call_id)).payload
        assert len(data) == count, data
        return data

    async def answer(self, call_id: int) -> tuple[str, End | Failure]:
        """A call's text, and how it ended."""
        text = b""
        while True:
            frame = await self.frame_of({FrameType.DATA, FrameType.END, FrameType.ERROR}, call_id)
            if frame.type == FrameType.DATA:
                text += frame.payload
            elif frame.type == FrameType.END:
                return text.decode(), End.decode(frame.payload)
            else:
                return text.decode(), Failure.decode(frame.payload)

    async def rest(self) -> list[Frame]:
        """All frames up to its end that nobody has waited for, PINGs left out."""
        async with asyncio.timeout(LIMIT_S):
            while await self._read():
                pass
        return [frame for frame in self.frames if frame.type != FrameType.PING]

    async def exit_status(self, limit_s: float = LIMIT_S) -> int:
        async with asyncio.timeout(limit_s):
            # Nobody may be kept from ending by an answer that is not read.
            while await self._read():
                pass
            return await self.process.wait()

    async def _read(self) -> bool:
        assert self.process.stdout is not None
        data = await self.process.stdout.read(1 << 16)
        self.frames += self._decoder.feed(data)
        return bool(data)


def a_start(base_url: str = "http://127.0.0.1:9/v1", **settings: object) -> Start:
    """Settings with times that no test reaches, but for `settings`."""
    fields: dict[str, object] = {
        "api_key": "sk-bare-runner-secret",
        "base_url": base_url,
        "max_body_bytes": 1024 * 1024,
        "window_bytes": 256 * 1024,
        "timeout_s": 60.0,
        "delta_timeout_s": 60.0,
        "ping_interval_s": 60.0,
        "ping_timeout_s": 120.0,
    }
    return Start(**(fields | settings))  # type: ignore[arg-type]


@asynccontextmanager
async def bare_runner(
    directory: Path,
    *,
    python: str = sys.executable,
    shell: str = "/bin/sh",
    shipped: Payload | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[BareRunner]:
    """A runner whose HOME and working directory are `directory`; ended with the context."""
    shipped = shipped or payload.load()
    with tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            shell,
            "-c",
            shipped.command(python),
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(directory),
                "TMPDIR": str(directory),
                **(environment or {}),
            },
        )
        assert process.stdin is not None
        runner = BareRunner(process, stderr)
        try:
            process.stdin.write(shipped.blob)
            yield runner
        finally:
            process.stdin.close()
            try:
                await runner.exit_status()
            except TimeoutError:
                process.kill()
                await runner.exit_status()
                raise
            finally:
                with suppress(ConnectionError):
                    await process.stdin.wait_closed()
