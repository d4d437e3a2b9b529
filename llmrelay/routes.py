"""Which URL means what: paths and methods to handlers.

Knows the pool and the configuration because it hands them on; decides nothing else.
"""

from __future__ import annotations

from typing import Final

from .api import ops
from .api.errors import is_v1
from .config import Config
from .endpoints import Endpoints
from .errors import MethodNotAllowed, NotFound, NotImplementedHere
from .http.exchange import Exchange, Handler
from .runners.pool import Member, Pool

# Load balancers and supervisors ask these, and have no token.
OPEN_PATHS = ("/healthz",)
# RFC 9110, section 9.1: a method that is "unrecognized or not implemented" gets 501, one that is
# known but not allowed here 405. CONNECT and TRACE are refused with the head.
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Routes:
    """The handler of every exchange."""

    def __init__(self, pool: Pool, config: Config) -> None:
        self.draining = False
        self._pool = pool
        endpoints = Endpoints(pool, config)
        self._v1 = endpoints.v1
        self._table: dict[str, dict[str, Handler]] = {
            "/chat": {"POST": endpoints.chat},
            "/transcribe": {"POST": endpoints.transcribe, "PUT": endpoints.transcribe},
            "/speak": {"POST": endpoints.speak},
            "/embed": {"POST": endpoints.embed},
            "/healthz": {"GET": self._health, "HEAD": self._health},
        }

    async def __call__(self, exchange: Exchange) -> None:
        """Hands the exchange to its handler.

        Raises:
            NotFound, MethodNotAllowed, NotImplementedHere
        """
        request = exchange.request
        if request.method not in _METHODS:
            raise NotImplementedHere(
                "That method is not known here; methods are written in capitals."
            )
        if request.method == "OPTIONS" and request.path == "*":
            exchange.respond(204, [], b"")
            return
        if is_v1(request):
            await self._v1(exchange)
            return
        methods = self._table.get(request.path)
        if methods is None:
            raise NotFound(f"There is nothing here; there is {', '.join(self._table)} and /v1/….")
        handler = methods.get(request.method)
        if handler is None:
            raise MethodNotAllowed(
                f"{request.path} takes {' or '.join(methods)} alone.", allow=tuple(methods)
            )
        await handler(exchange)

    async def _health(self, exchange: Exchange) -> None:
        status, body = ops.health(
            {member.runner.name: self._told(member) for member in self._pool.members},
            self._pool.in_flight,
            self._pool.queued,
            detailed=exchange.trusted,
        )
        exchange.respond(status, ops.JSON_HEADERS, body)

    def _told(self, member: Member) -> dict[str, object]:
        """What an operator wants to know of a runner; what goes without saying is left out."""
        runner, standing = member.runner, member.standing
        told: dict[str, object] = {
            "state": "draining" if self.draining else runner.state.value,
            "in_flight": standing.in_flight,
            "max_calls": runner.max_calls,
        }
        if runner.spec.groups:
            told["groups"] = sorted(runner.spec.groups)
        if runner.spec.labels:
            told["labels"] = dict(runner.spec.labels)
        if runner.loss:
            told |= {"reason": runner.loss, "next_attempt_in_s": round(runner.retry_in_s, 1)}
        if standing.breaker.out:
            told["out"] = "its last calls failed; one at a time tries it again"
        return told
