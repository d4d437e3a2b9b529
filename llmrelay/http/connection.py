"""One connection's life: request after request, each with its handler, its watch and its end.

One task for all of it, handlers included: a client that goes has it cancelled (client_watch.py) as
long as a handler runs.

Knows no parsing (incoming.py) and no listening (server.py); gives the application an Exchange and
writes the access log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Callable
from typing import Final

from ..config import Config
from ..errors import BadRequest, MisdirectedRequest, RelayError, TooManyConnections
from ..peer_text import one_line
from . import access_log, outgoing, tls
from .bodies import BodyMemory
from .client_watch import ClientWatch
from .connection_limits import ConnectionLimits
from .events import Headers, Request
from .exchange import Exchange, Handler, new_request_id
from .forwarded import client_address, is_trusted
from .guard import Guard
from .incoming import Incoming
from .peer import peer_name, peer_origin
from .responses import Header
from .wire import Wire

logger = logging.getLogger("llmrelay.http")

# How an error looks to its client: (request if known, request id, error) -> status, headers, body.
RenderError = Callable[[Request | None, str, RelayError], tuple[int, list[Header], bytes]]

# Stands for a request that could not be read.
_UNREADABLE: Final = Request(
    method="-",
    target="-",
    path="-",
    query="",
    scheme="",
    authority="",
    version=(1, 1),
    headers=Headers(),
    keep_alive=False,
    expect_continue=False,
    framing=None,
)


class Connection:
    """A client's connection, from its first byte to its last.

    Args:
        guard: who may ask.
        limits: whether it may be served; is told when it is idle.
        memory: what bodies may take.
        outbox: for what streamed answers write.
        loopback: whether the listener takes connections of this machine alone.
        encryption: the TLS that is begun before the first request; None for a plain connection.
    """

    def __init__(
        self,
        wire: Wire,
        config: Config,
        handler: Handler,
        render_error: RenderError,
        guard: Guard,
        limits: ConnectionLimits,
        memory: BodyMemory,
        outbox: outgoing.Outbox,
        *,
        loopback: bool,
        encryption: ssl.SSLContext | None = None,
    ) -> None:
        self._incoming = Incoming(config, memory)
        self._wire = wire
        self._transport = wire.transport
        self._handshake = tls.Handshake(self._transport, encryption) if encryption else None
        if encryption is None:
            self._talk_over(wire)
        self._certificate: str | None = None
        self._config = config
        self._handler = handler
        self._render_error = render_error
        self._guard = guard
        self._limits = limits
        self._outbox = outbox
        self._loopback = loopback
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None]
        self._exchange: Exchange | None = None
        self._draining = False
        self._peer = peer_name(self._transport)
        self._origin = peer_origin(self._transport)
        # "a request for an "https" resource MUST be rejected unless it has been received over a
        # connection that has been secured", or comes from a trusted gateway (RFC 9110, 7.4).
        self._secured = encryption is not None or is_trusted(self._origin, config.trusted_proxies)

    def _talk_over(self, wire: Wire) -> None:
        self._wire = wire
        self._transport = wire.transport
        self._incoming.read_from(wire)
        self._transport.set_write_buffer_limits(high=outgoing.HIGH_WATER_BYTES)

    async def run(self) -> None:
        """Serve the connection until it ends; cancel to cut it off."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        try:
            await self._serve()
        except OSError as error:
            _forget(error)  # the client reset the connection: there is nobody to tell
        finally:
            self._let_go()
            outgoing.close(self._transport)
            self._limits.leave(self)
            await asyncio.shield(self._wire.lost)

    def abort(self) -> None:
        """End one whose `run` was cancelled, maybe before its first step."""
        self._let_go()
        self._transport.abort()

    def _let_go(self) -> None:
        """Of the socket for a handshake that has not come about."""
        if self._handshake is not None:
            self._handshake.close()

    def drain(self, idle_grace_s: float) -> None:
        """Close if no request begins to come within `idle_grace_s` seconds; else after its answer.

        An answer whose head is out can no longer say that it is the last. If the client has begun
        to send its next request by then, that one's answer says so.
        """
        self._draining = True
        self._incoming.wait_at_most(idle_grace_s)
        if self._handshake is not None:
            self._handshake.limit(idle_grace_s)
        if self._exchange is not None and not self._exchange.started:
            self._exchange.keep_alive = False

    async def _encrypt(self) -> None:
        """The TLS handshake, if there is one to make.

        Raises:
            BadRequest: the client speaks plain HTTP, and can read so.
            OSError: it failed; there is nobody to tell.
        """
        if self._handshake is None:
            return
        wire = Wire()
        self._incoming.read_from(wire)  # a request may come with the end of the handshake
        try:
            await self._handshake.run(self._config.head_timeout_s, wire)
        except OSError as error:
            logger.info("%s: no TLS handshake: %s", self._peer, one_line(tls.reason(error)))
            raise
        self._talk_over(wire)
        self._certificate = tls.client_name(self._transport)
        if self._transport.get_extra_info("sslcontext") is None:
            raise BadRequest("TLS is spoken here: ask for https:// in place of http://.")

    async def _enter(self) -> None:
        """Find room, and begin TLS, also with those for whom there is none.

        Raises:
            TooManyConnections, BadRequest, OSError: as ConnectionLimits.enter and _encrypt.
        """
        try:
            await self._limits.enter(self, self._origin)
        except TooManyConnections:
            await self._encrypt()
            raise
        await self._encrypt()

    async def _serve(self) -> None:
        try:
            await self._enter()
        except RelayError as error:
            await self._refuse(error)
            return
        while True:
            self._limits.idle(self)
            try:
                request = await self._incoming.next_request(self._begun)
            except RelayError as error:
                await self._refuse(error)
                return
            finally:
                self._begun()
            if request is None:
                await self._flush()
                if not self._transport.can_write_eof():
                    await self._close_tls(tls.CLOSE_S)
                return
            if not await self._answer(request):
                await self._hang_up()
                return

    def _begun(self) -> None:
        self._limits.busy(self)

    async def _refuse(self, error: RelayError) -> None:
        """Answer what could not be read as a request: where the next one starts is not known."""
        begun_at_s = self._loop.time()
        request = _UNREADABLE
        if (method := self._incoming.method) is not None:
            # An answer to HEAD has no body, whatever is wrong with the rest (RFC 9110, 9.3.2).
            request = request._replace(method=method)
        exchange = self._open_exchange(request)
        self._fail(exchange, None, error)
        access_log.write(exchange, self._peer, self._origin, begun_at_s, self._loop.time())
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Close so that the client can read all that was written (RFC 9112, section 9.6)."""
        if self._transport.is_closing() or not await self._flush():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
            await self._incoming.linger()
        else:
            # TLS has no half-close with asyncio: who is still sending gets time to read before.
            if not self._incoming.all_read:
                await self._incoming.linger()
            await self._close_tls(self._config.keep_alive_s)

    async def _close_tls(self, limit_s: float) -> None:
        """Put close_notify behind all that was written, and wait for the client's."""
        self._transport.close()
        await asyncio.wait({self._wire.lost}, timeout=limit_s)

    async def _flush(self) -> bool:
        """Whether the client took all, in time."""
        return await outgoing.flush(self._wire, self._config.send_timeout_s)

    # --- One exchange -----------------------------------------------------------------------

    def _open_exchange(self, request: Request) -> Exchange:
        exchange = Exchange(request, new_request_id(), self._incoming, self._wire, self._outbox)
        exchange.client_address = client_address(
            self._origin, request.headers, self._config.trusted_proxies
        )
        exchange.keep_alive = request.keep_alive and not self._draining and not self._limits.crowded
        if self._certificate is not None:
            exchange.log_fields["certificate"] = self._certificate
        exchange.common_headers = self._guard.cors.headers(request)
        return exchange

    async def _answer(self, request: Request) -> bool:
        """Run the handler and the watch; whether the connection is good for another request."""
        begun_at_s = self._loop.time()
        self._exchange = exchange = self._open_exchange(request)
        try:
            with ClientWatch(exchange, self._incoming, self._task):
                await self._handle(exchange)
        finally:
            self._exchange = None
            self._incoming.let_go()
            exchange.cut()  # whatever kept it from its end; does nothing to one that has ended
            access_log.write(exchange, self._peer, self._origin, begun_at_s, self._loop.time())
        if not exchange.keep_alive or self._transport.is_closing():
            return False
        # Only then it is idle: one that made room before would lose the end of its answer.
        if self._transport.get_write_buffer_size() and not await self._flush():
            return False
        return await self._incoming.discard_body()

    async def _handle(self, exchange: Exchange) -> None:
        try:
            await self._handle_admitted(exchange)
            if not exchange.finished:
                raise RuntimeError("the handler returned before the end of its answer")
        except RelayError as error:
            self._fail(exchange, exchange.request, error)
        except Exception:
            logger.exception("A handler failed (%s).", exchange.request_id)
            bug = RelayError("The server hit a bug of its own; its log has the details.")
            self._fail(exchange, exchange.request, bug)

    async def _handle_admitted(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.scheme == "https" and not self._secured:
            raise MisdirectedRequest(
                "The target is an https URL and this connection is not encrypted: ask for http://."
            )
        admission = self._guard.check(request, loopback=self._loopback)
        if admission.preflight:
            exchange.common_headers = self._guard.cors.preflight_headers(request)
            exchange.respond(204, [], b"")
            return
        if admission.caller is not None:
            exchange.token = exchange.log_fields["token"] = admission.caller.name
        # A proxy on this machine lets in strangers: what it says of them makes them that.
        direct = exchange.client_address is self._origin
        exchange.trusted = admission.trusted and (direct or admission.caller is not None)
        with (
            self._limits.exchange(exchange.client_address, via=self._origin),
            admission.calling(self._loop.time()),
        ):
            await self._handler(exchange)

    def _fail(self, exchange: Exchange, request: Request | None, error: RelayError) -> None:
        """The answer is an error: a whole one if nothing has gone out, else a broken one."""
        if exchange.started:
            exchange.log_fields["error"] = error.code
            exchange.cut()
            return
        error = self._incoming.drop_received() or error
        exchange.log_fields["error"] = error.code
        status, headers, body = self._render_error(request, exchange.request_id, error)
        headers = [*headers, ("Cache-Control", "no-store")]
        if error.retry_after_s is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_s)))))
        if error.allow:
            headers.append(("Allow", ", ".join(error.allow)))
        if error.challenge:
            headers.append(("WWW-Authenticate", error.challenge))
        exchange.respond(status, headers, body)


def _forget(error: OSError) -> None:
    """Let go of what an error holds: the connection, whose incoming side holds the error."""
    error.__traceback__ = error.__context__ = None
