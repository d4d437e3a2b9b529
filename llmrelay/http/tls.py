"""TLS on the clients' side: certificates to a context, and the handshake on one connection.

The context is made anew when certificates are renewed, and replaces the old one as a whole;
connections keep the one that they began with. The handshake is made in the connection's own task,
not by the listener: one that stalls counts among the connections, like a slow head.

Versions and ciphers are those of Python's standard library: TLS 1.2 and up. Knows no HTTP beyond
its name in ALPN. Used by server.py and connection.py.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from pathlib import Path
from typing import Final

from ..errors import UnusableConfig
from .wire import Wire

# How long the end of an idle connection waits for the client's own (RFC 8446, section 6.1).
CLOSE_S: Final = 2.0
# asyncio's limit for what is still to be sent in the end; connection.py has limits of its own.
NO_LIMIT_S: Final = 3600.0


def make_context(cert: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """A server's context.

    Args:
        cert: PEM: our certificate, then those between it and the root.
        key: PEM, unencrypted; None if it is in `cert`.
        client_ca: PEM: whoever connects has to show a certificate that these have signed.

    Raises:
        UnusableConfig: a file cannot be read or used; names it, and never what is in it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Debian's Python leaves this to OpenSSL (RFC 8996 forbids what is older).
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A terminal may be there, but nobody would answer on SIGHUP.
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        files = f"--tls-cert {cert}" + (f" with --tls-key {key}" if key else "")
        raise UnusableConfig(f"{files} cannot be used: {reason(error)}.") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise UnusableConfig(
                f"--tls-client-ca {client_ca} cannot be used: {reason(error)}."
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        # Whoever resumes a session is not asked again; with a renewed CA that has to be seen.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


class Handshake:
    """TLS on a connection that was made just now, before a byte of it was read; server side.

    A server's own transport may begin to read before anybody could begin a handshake on it, so the
    socket is taken from it and gets another.
    """

    def __init__(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        self._context = context
        self._sock: socket.socket | None = None
        self._failure: OSError | None = None
        try:
            self._sock = sock = transport.get_extra_info("socket").dup()
            sock.setblocking(False)
        except OSError as error:  # no descriptor is left
            self._failure = error
        self._deadline: asyncio.Timeout | None = None
        self._ends_at_s = math.inf
        transport.abort()

    async def run(self, limit_s: float, wire: Wire) -> None:
        """Make it, within `limit_s` seconds; if it fails, `close` lets go of the connection.

        Args:
            wire: what goes over it. It is plain if the client begins with a letter, as HTTP does
                and no TLS record: it can be told so in its own language.

        Raises:
            OSError: the client broke it off, was too slow, or speaks something else (ssl.SSLError);
                or no descriptor was left for it.
        """
        if self._sock is None:
            raise self._failure or ConnectionAbortedError()
        loop = asyncio.get_running_loop()
        ends_at_s = min(loop.time() + limit_s, self._ends_at_s)
        try:
            async with asyncio.timeout_at(ends_at_s) as self._deadline:
                plain = (await _first_byte(self._sock)).isalpha()
                await loop.connect_accepted_socket(
                    lambda: wire,
                    self._sock,
                    ssl=None if plain else self._context,
                    ssl_handshake_timeout=None if plain else limit_s,
                    ssl_shutdown_timeout=None if plain else NO_LIMIT_S,
                )
        finally:
            self._deadline = None
        self._sock = None  # the transport's from now on

    def close(self) -> None:
        """Let go of the socket, if no transport has it: it was not begun, or it failed."""
        if self._sock is not None:
            self._sock.close()

    def limit(self, limit_s: float) -> None:
        """Let it go on for `limit_s` seconds at most from now on, also one yet to be begun."""
        self._ends_at_s = asyncio.get_running_loop().time() + limit_s
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._ends_at_s)


async def _first_byte(sock: socket.socket) -> bytes:
    """What comes first, left where it is; empty if the client ends instead.

    Raises:
        OSError: the connection is lost.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK)


def client_name(transport: asyncio.Transport) -> str | None:
    """The common name in the client's certificate, for the log; None if it showed none."""
    certificate = transport.get_extra_info("peercert") or {}
    for attributes in certificate.get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return None


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it unencrypted, readable by this user alone")


def reason(error: Exception) -> str:
    """An exception of this file in words."""
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        # OpenSSL's own, as PEER_DID_NOT_RETURN_A_CERTIFICATE; of a file that is no PEM it has none.
        return (error.reason or "no certificate or no key is in it").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "it was broken off"
