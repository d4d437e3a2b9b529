"""Web pages in a real browser: Chromium without a window, and a server for the pages.

`PageServer` serves a page from an origin of its own and takes what the page's script reports;
`browsing` opens a URL for as long as a test wants. Every browser has a fresh profile, resolves no
name but those that the test maps, and is gone with all its processes when the context ends.

It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.helpers.openssh import INSTALL_HINT, skip_or_fail

LIMIT_S = 20.0

_OPTIONS = [
    "--headless",
    "--no-sandbox",  # which root cannot have; the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def require_chromium() -> str:
    """Its path; skips the calling test without it, fails it where CI=true."""
    path = shutil.which("chromium")
    if path is None:
        skip_or_fail(f"no chromium on this machine ({INSTALL_HINT})")
    assert path is not None
    return path


def _command(url: str, profile: str, hosts: Mapping[str, str], *options: str) -> list[str]:
    rules = [f"MAP {name} {address}" for name, address in hosts.items()]
    rules += ["MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1", "EXCLUDE localhost"]
    return [
        require_chromium(),
        *_OPTIONS,
        f"--user-data-dir={profile}",
        f"--host-resolver-rules={', '.join(rules)}",
        *options,
        url,
    ]


@contextlib.contextmanager
def browsing(url: str, hosts: Mapping[str, str] | None = None) -> Iterator[None]:
    """A browser that shows `url` while the context lasts.

    Args:
        hosts: what names resolve to.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            _command(url, home, hosts or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": home},
            start_new_session=True,
        )
        try:
            yield
        finally:
            # The group is its own: whatever it started ends with it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def text_shown(url: str, hosts: Mapping[str, str] | None = None) -> str:
    """The document that a browser makes of `url`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        return subprocess.run(
            _command(url, home, hosts or {}, "--dump-dom"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | {"HOME": home},
            timeout=LIMIT_S,
            check=True,
        ).stdout


class PageServer:
    """`with PageServer() as pages:` serves `pages.html` from an origin of its own, on loopback.

    What the page's script sends to /report, as JSON, is returned by `report`.
    """

    def __init__(self) -> None:
        self.html = ""
        self._reports: queue.Queue[Any] = queue.Queue()
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, pages.html.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(200, b"")
                pages._reports.put(json.loads(body))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages")

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def report(self, limit_s: float = LIMIT_S) -> Any:
        """The next report, or queue.Empty after the limit."""
        return self._reports.get(timeout=limit_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
