"""A front-end that answers `POST /chat` as a test scripts it, for the tests of what asks one.

A script is a function of an Asked: it says what goes out, byte by byte if it likes, and can wait
for the client to leave. Standard library only, one thread for each connection.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT_S = 20.0

Script = Callable[["Asked"], None]


class Asked(BaseHTTPRequestHandler):
    """A request, and what goes back."""

    protocol_version = "HTTP/1.1"
    server: _Server
    raw: bytes
    body: dict[str, Any]

    def do_POST(self) -> None:
        front_end = self.server.front_end
        self.close_connection = True
        self.raw = b"" if front_end.deaf else self.rfile.read(int(self.headers["Content-Length"]))
        self.body = json.loads(self.raw or b"{}")
        front_end.asked.append(self)
        front_end.came.release()
        try:
            front_end.script(self)
        except ConnectionError as error:
            front_end.reset = isinstance(error, ConnectionResetError)
            front_end.left.set()

    def log_message(self, *_: object) -> None:
        """Not on the test's stderr."""

    def head(self, status: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def refuse(self, status: int, text: str, code: str = "", kind: str = "text/plain") -> None:
        self.head(status, kind, {"X-Error-Code": code, "Content-Length": str(len(text.encode()))})
        self.wfile.write(text.encode())

    def begin(self) -> None:
        self.head(200, "text/event-stream", {"Transfer-Encoding": "chunked"})

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def delta(self, text: str) -> None:
        event = json.dumps({"delta": text}, ensure_ascii=False)
        self.chunk(f"data: {event}\n\n".encode())

    def end(self, finish_reason: str = "stop") -> None:
        last = json.dumps({"finish_reason": finish_reason, "model": "m"})
        self.chunk(f"data: {last}\n\ndata: [DONE]\n\n".encode())
        self.chunk(b"")

    def wait_until_left(self) -> None:
        """Until the client is gone, which it has to be within the limit."""
        self.connection.settimeout(LIMIT_S)
        if not self.connection.recv(1):
            raise ConnectionError


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    front_end: ScriptedFrontEnd

    def handle_error(self, *_: object) -> None:
        """That the client went away is no news."""


class ScriptedFrontEnd:
    """`with ScriptedFrontEnd().serving() as front_end:` listens.

    Attributes:
        script: what answers the next request.
        asked: the requests until now.
        came: is released by each of them.
        left: a client has left before its answer's end.
        reset: it did so with a reset, which says that it reads no more.
        deaf: no body is read, as of one that is too long.
    """

    def __init__(self) -> None:
        self.url = ""
        self.forget()

    def forget(self) -> None:
        """As new."""
        self.script: Script = says("Hello", ", wörld")
        self.asked: list[Asked] = []
        self.came = threading.Semaphore(0)
        self.left = threading.Event()
        self.reset = False
        self.deaf = False

    @contextlib.contextmanager
    def serving(self, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedFrontEnd]:
        server = _Server(("127.0.0.1", 0), Asked)
        server.front_end = self
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def says(*deltas: str, finish_reason: str = "stop") -> Script:
    """A whole answer."""

    def script(asked: Asked) -> None:
        asked.begin()
        for delta in deltas:
            asked.delta(delta)
        asked.end(finish_reason)

    return script


def stalls(*deltas: str) -> Script:
    """An answer that begins, and then nothing until the client leaves."""

    def script(asked: Asked) -> None:
        asked.begin()
        for delta in deltas:
            asked.delta(delta)
        asked.wait_until_left()

    return script
