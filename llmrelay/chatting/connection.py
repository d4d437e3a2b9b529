"""One `POST /chat` to a front-end, as any client sends it, and its response.

Blocking, with the standard library's HTTP client: whoever waits for an answer has nothing else to
do, and one that must not wait runs it in a thread. Each asking has a connection of its own, so that
leaving is closing it. Knows no format of a body; answers.py reads what `llmrelay chat` asks for,
demo/asking.py what curl does. Every failure becomes AskingFailed here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from .. import __version__
from ..peer_text import one_line
from ..values import parse_url

# What says where to ask, and as whom.
URL_VARIABLE, TOKEN_VARIABLE = "LLMRELAY_URL", "LLMRELAY_TOKEN"

# A host that swallows what is sent to it; one that refuses says so at once.
CONNECT_LIMIT_S = 10.0
# Of an error's sentence.
_MAX_ERROR_BYTES = 64 * 1024
# Closes with a reset, which tells the other side at once that nobody reads any more.
_RESET = struct.pack("ii", 1, 0)


class AskingFailed(Exception):
    """There is no answer, or no whole one; says why in a sentence.

    Attributes:
        status: of the response that is the error; 0 if there was none.
        code: the front-end's for the error; empty if it said none.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class FrontEndUrl:
    """Where a front-end is: its URL up to the path of an endpoint."""

    host: str
    port: int | None
    path: str
    tls: bool
    text: str

    def __str__(self) -> str:
        return self.text


def parse_front_end_url(text: str) -> FrontEndUrl:
    """An http or https URL, where a proxy needs it with a path before ours."""
    parse_url(text)
    unusable = f"{text!r} is no URL of a front-end (write http://127.0.0.1:8080)"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        # What cannot go into a request fails here.
        host.encode("idna")
        parts.path.encode("ascii")
    except ValueError:
        raise ValueError(unusable) from None
    if not host or parts.query or parts.fragment:
        raise ValueError(unusable)
    return FrontEndUrl(host, port, parts.path.rstrip("/"), parts.scheme == "https", text)


class Connection:
    """A connection for one asking.

    Raises:
        AskingFailed: from each method but leave() and close().
    """

    def __init__(self, url: FrontEndUrl) -> None:
        self._url = url
        self._http = _connection(url)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._left = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Sends a prompt; the response, which is an answer that begins."""
        self._connect()
        try:
            response = self._response(body, headers)
            if response.status != http.client.OK:
                raise self._refused(response)
        except OSError as error:
            raise AskingFailed("The connection was cut before an answer came.") from error
        except http.client.BadStatusLine as error:
            raise AskingFailed(f"What listens at {self._url} speaks no HTTP.") from error
        except http.client.HTTPException as error:
            raise AskingFailed(f"What {self._url} answered cannot be read.") from error
        return response

    def leave(self) -> None:
        """Ends what is under way, also from another thread: the socket ends midway."""
        with self._lock:
            self._left = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, *, midway: bool = False) -> None:
        """Closes it; midway, so that the front-end cancels the call and does not try to go on."""
        if midway and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._http.close()

    def _connect(self) -> None:
        try:
            self._http.connect()
        except OSError as error:
            raise AskingFailed(_unreachable(self._url, error)) from error
        assert self._http.sock is not None
        # A model may think for long, and the front-end has limits of its own.
        self._http.sock.settimeout(None)
        self._http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with self._lock:
            self._socket = self._http.sock
            if self._left:
                raise AskingFailed("The asking was left before it began.")

    def _response(self, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"llmrelay/{__version__}", **headers}
        # A body that is refused for its length is not read to its end, and the reason is there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._http.request("POST", f"{self._url.path}/chat", body, headers)
        return self._http.getresponse()

    def _refused(self, response: http.client.HTTPResponse) -> AskingFailed:
        """The error that a response is: the front-end's sentence, or whose answer it may be."""
        text = response.read(_MAX_ERROR_BYTES).decode("utf-8", "replace")
        kind = response.headers.get_content_type()
        message = one_line(text) if kind == "text/plain" else ""
        if kind == "application/json":
            message = error_message(text)
        if not message:
            reason = one_line(f"{response.status} {response.reason}")
            message = f"{self._url} answered {reason}: is it `llmrelay serve`?"
        elif response.status == http.client.UNAUTHORIZED:
            message += f" `llmrelay chat` sends the one in {TOKEN_VARIABLE}."
        code = one_line(response.headers.get("X-Error-Code", ""))
        return AskingFailed(message, status=response.status, code=code)


def error_message(text: str | bytes) -> str:
    """The sentence of an error object as OpenAI and its like write it; empty if there is none."""
    try:
        error = json.loads(text)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return one_line(message) if isinstance(message, str) else ""


def _connection(url: FrontEndUrl) -> http.client.HTTPConnection:
    if not url.tls:
        return http.client.HTTPConnection(url.host, url.port, timeout=CONNECT_LIMIT_S)
    # The system's authorities, and what SSL_CERT_FILE adds.
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(url.host, url.port, timeout=CONNECT_LIMIT_S, context=context)


def _unreachable(url: FrontEndUrl, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"Nothing listens at {url}: is `llmrelay serve` running? --url says where."
    if isinstance(error, socket.gaierror):
        return f"The name {url.host} does not resolve: {error.strerror}."
    if isinstance(error, TimeoutError):
        return f"{url} does not answer within {CONNECT_LIMIT_S:g} s."
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {url} is not trusted: {error.verify_message}."
            " SSL_CERT_FILE names the authorities to trust."
        )
    if isinstance(error, ssl.SSLError):
        return f"What listens at {url} speaks no TLS: is it http://?"
    return f"{url} cannot be reached: {error.strerror or error}."
