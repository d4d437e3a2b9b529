"""Who may ask: keeps web pages of other sites and callers without a token out.

Two attacks reach a server that listens on loopback only: a page whose name is made to resolve to
127.0.0.1 (DNS rebinding; its requests carry the page's Host), and a page that just sends requests
across origins (they carry Origin or Sec-Fetch-Site). Clients that are no browsers send no Origin
and pass. Where tokens are asked for, those of pages are asked for theirs, too.

Knows no socket, no clock and no path but those that it was told are open. connection.py asks before
the application hears of a request; what a token may ask is counted in tokens.py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..config import Config
from ..errors import BadRequest, Forbidden, MisdirectedRequest, Unauthorized, UnusableConfig
from ..values import AllowedHost, Listen
from . import cors
from .events import Request
from .head import split_authority
from .tokens import TOKEN, Caller, Tokens

logger = logging.getLogger("llmrelay.http")

_UNCOUNTED: Final = contextlib.nullcontext()

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 6750, section 3; the realm is for people (RFC 9110, section 11.5).
_CHALLENGE: Final = 'Bearer realm="llmrelay"'


def require_credentials(addresses: Sequence[Listen], config: Config) -> None:
    """Refuse to serve whoever happens to reach this machine, unless that is said on purpose.

    Args:
        addresses: those that other machines can connect to.

    Raises:
        UnusableConfig: nobody there is asked who they are; with the ways out.
    """
    if config.auth_tokens or config.tls_client_ca or not addresses:
        return
    where = " or ".join(map(str, addresses))
    if not config.allow_anonymous:
        raise UnusableConfig(
            f"Whoever reaches {where} could ask at the key's cost: give --auth-tokens FILE"
            " (llmrelay token NAME makes one), listen on 127.0.0.1, or say --allow-anonymous."
        )
    logger.warning(
        "whoever reaches %s can ask at the key's cost, as nobody is asked for a token", where
    )


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may go on.

    Attributes:
        caller: whose token it brought.
        trusted: its sender may see more than a stranger may, such as the names of hosts.
        preflight: it is one, and the answer is 204: the application does not hear of it.
        counted: it counts as a call of its caller.
    """

    caller: Caller | None = None
    trusted: bool = False
    preflight: bool = False
    counted: bool = False

    def calling(self, now_s: float) -> AbstractContextManager[None]:
        """A context to answer in.

        Raises:
            RateLimited: on entry: the caller's limits are reached.
        """
        if self.caller is None or not self.counted:
            return _UNCOUNTED
        return self.caller.calling(now_s)


# Where nobody is asked for a token.
_TRUSTED: Final = Admission(trusted=True)
_STRANGER: Final = Admission()


class Guard:
    """What one front-end asks of every request, in this order: Host, origin, token.

    Args:
        config: the names and origins that are allowed.
        tokens: whose requests are taken; None if nobody is asked.
        open_paths: those that need no token.
    """

    def __init__(
        self, config: Config, tokens: Tokens | None = None, open_paths: Collection[str] = ()
    ) -> None:
        self._hosts = frozenset(config.allowed_hosts)
        self._anonymous = config.allow_anonymous
        self._tokens = tokens
        self._open_paths = frozenset(open_paths)
        self.cors = cors.Policy(config.cors_origins)

    def check(self, request: Request, *, loopback: bool) -> Admission:
        """Refuse what may not ask.

        Args:
            request: its head.
            loopback: whether the listener takes connections of this machine alone.

        Raises:
            MisdirectedRequest: it is for another name than those of this server.
            Forbidden: it comes from another origin.
            Unauthorized: it has no token, or one that is not known.
            BadRequest: its credentials, or what a preflight asks for, are malformed.
        """
        self._check_host(request, loopback=loopback)
        if not self.cors.allows(request) and not is_same_origin(request):
            raise Forbidden(
                "A web page of another origin may not ask here; --cors-origin names those that may."
            )
        if self.cors.is_preflight(request):
            return Admission(preflight=True)
        if self._tokens is None:
            return _TRUSTED if loopback or not self._anonymous else _STRANGER
        caller = _find_caller(request, self._tokens)
        if request.path in self._open_paths:
            return Admission(caller, trusted=caller is not None)
        if caller is None:
            raise Unauthorized(
                "A token is needed here: send `Authorization: Bearer TOKEN`.", challenge=_CHALLENGE
            )
        return Admission(caller, trusted=True, counted=True)

    def _check_host(self, request: Request, *, loopback: bool) -> None:
        """DNS rebinding brings a page's own name, which is no name of this server.

        HTTP/1.0 without Host is no browser's.
        """
        authority = request.authority
        if not authority or not (loopback or self._hosts):
            return
        if is_loopback_authority(authority) or self._is_allowed_host(authority):
            return
        if not loopback and _is_address(authority):
            return  # nobody can make an address resolve to another
        raise MisdirectedRequest(
            "This server does not go by the name that Host has: use localhost or 127.0.0.1 on its"
            " own machine; --allowed-host lets it have others."
        )

    def _is_allowed_host(self, authority: str) -> bool:
        host, port = split_authority(authority)
        name = _canonical(host)
        if AllowedHost(name) in self._hosts:
            return True
        ports = _DEFAULT_PORTS.values() if port is None else [port]
        return any(AllowedHost(name, each) in self._hosts for each in ports)


# --- Tokens -------------------------------------------------------------------------------------


def _find_caller(request: Request, tokens: Tokens) -> Caller | None:
    """Whose token the request brings; None if it brings none.

    "If the request lacks any authentication information", another scheme's included, "the resource
    server SHOULD NOT include an error code" (RFC 6750, section 3.1); a token in the query is none.

    Raises:
        BadRequest, Unauthorized: with RFC 6750's error code.
    """
    credentials = request.headers.get_all("authorization")
    if not credentials:
        # Where clients of Anthropic's API have theirs.
        credentials = [f"Bearer {key}" for key in request.headers.get_all("x-api-key")]
    if not credentials:
        return None
    if len(credentials) > 1:
        raise _malformed("The token is there twice.")
    scheme, _, token = credentials[0].partition(" ")
    if scheme.lower() != "bearer":  # RFC 9110, section 11.1: case-insensitive
        return None
    token = token.lstrip(" ")
    if not TOKEN.fullmatch(token):
        raise _malformed("Authorization is not `Bearer TOKEN`.")
    caller = tokens.find(token)
    if caller is None:
        raise Unauthorized(
            "The token is not known here.", challenge=f'{_CHALLENGE}, error="invalid_token"'
        )
    return caller


def _malformed(message: str) -> BadRequest:
    return BadRequest(message, challenge=f'{_CHALLENGE}, error="invalid_request"')


# --- Names and origins --------------------------------------------------------------------------


@lru_cache(maxsize=64)  # asked of every request
def is_loopback_authority(authority: str) -> bool:
    """Whether `host[:port]` is localhost, a name under it, 127.0.0.0/8 or [::1] (RFC 6761, 6.3)."""
    try:
        host, _ = split_authority(authority)
    except ValueError:
        return False
    return is_loopback_address(host.strip("[]")) or _is_loopback_name(host)


def is_loopback_address(text: str) -> bool:
    """Whether `text` is an IP address that only this machine reaches."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _is_loopback_name(host: str) -> bool:
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _is_address(authority: str) -> bool:
    host, _ = split_authority(authority)
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _canonical(host: str) -> str:
    """A host of split_authority as AllowedHost has it; IPvFuture, which that has not, as it is."""
    if not host.startswith("["):
        return host.removesuffix(".")
    with contextlib.suppress(ValueError):
        return ipaddress.IPv6Address(host[1:-1]).compressed
    return host


def is_same_origin(request: Request) -> bool:
    """Whether the request comes from no web page, or from one of this very origin.

    `Sec-Fetch-Site: none` is the address bar. Schemes may differ: behind a proxy that ends TLS the
    page's is https and ours is not.
    """
    for site in request.headers.get_all("sec-fetch-site"):
        if site not in ("same-origin", "none"):
            return False
    for origin in request.headers.get_all("origin"):
        if not _is_origin_of(origin, request.authority):
            return False
    return True


def _is_origin_of(origin: str, authority: str) -> bool:
    scheme, _, origin_authority = origin.lower().partition("://")
    default_port = _DEFAULT_PORTS.get(scheme)
    if default_port is None:  # `null`, a browser's extension, no origin at all
        return False
    try:
        host, port = split_authority(origin_authority)
        own_host, own_port = split_authority(authority)
    except ValueError:
        return False
    return (host, port or default_port) == (own_host, own_port or default_port)
