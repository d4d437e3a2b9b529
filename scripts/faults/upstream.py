"""An upstream that counts aloud: `python -m scripts.faults.upstream PORT FOLDER`.

Answers a prompt with `<prompt>:0 <prompt>:1 …`, a delta each tenth of a second, so that a text that
is mixed up, doubled or not whole is seen by whoever reads it. FOLDER/mode says how it does: `well`,
`refuse` (503 at once), `slow` (thinks for two seconds, then half as fast) or `flap` (takes
connections and closes them). FOLDER/requests grows by a line with each request. Standard library
only: it runs where a real one would, beside the runner.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

DELTAS = 50
GAP_S = 0.1
THINKS_S = 2.0

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


class Upstream:
    """The server; `folder` is where it is told how to do, and tells what it was asked."""

    def __init__(self, folder: Path) -> None:
        self._mode = folder / "mode"
        self._requests = folder / "requests"

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        print("ready", flush=True)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self._mode.read_text() != "flap":
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = json.loads(await reader.readexactly(length))
                with self._requests.open("a") as requests:
                    requests.write("1\n")
                await self._answer(body["messages"][-1]["content"], writer)
        except (OSError, asyncio.IncompleteReadError, StopIteration):
            pass  # the runner has gone, or has heard enough
        finally:
            writer.close()

    async def _answer(self, prompt: str, writer: asyncio.StreamWriter) -> None:
        mode = self._mode.read_text()
        if mode in ("refuse", "flap"):
            writer.write(_REFUSAL)
            return
        gap_s = GAP_S
        if mode == "slow":
            await asyncio.sleep(THINKS_S)
            gap_s *= 2
        writer.write(_HEAD)
        for number in range(DELTAS):
            _send(writer, {"choices": [{"index": 0, "delta": {"content": f"{prompt}:{number} "}}]})
            await writer.drain()
            await asyncio.sleep(gap_s)
        _send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _send(writer: asyncio.StreamWriter, event: object) -> None:
    _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


if __name__ == "__main__":
    asyncio.run(Upstream(Path(sys.argv[2])).serve(int(sys.argv[1])))
