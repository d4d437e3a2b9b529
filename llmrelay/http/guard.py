"""Who may ask: keeps web pages of other sites from using a front-end through a person's browser.

Two attacks reach a server that listens on loopback only: a page whose name is made to resolve to
127.0.0.1 (DNS rebinding; its requests carry the page's Host), and a page that just sends requests
across origins (they carry Origin or Sec-Fetch-Site). Clients that are no browsers send no Origin
and pass.

Pure functions over a Request; knows no socket and no configuration. connection.py calls `check`
before the application hears of the request.
"""

from __future__ import annotations

import ipaddress

from ..errors import Forbidden, MisdirectedRequest
from .events import Request
from .head import split_authority

_DEFAULT_PORTS = {"http": 80, "https": 443}


def check(request: Request, *, loopback: bool) -> None:
    """Refuse what a page of another site sent.

    Args:
        request: its head.
        loopback: whether the listener takes connections of this machine alone.

    Raises:
        MisdirectedRequest: on loopback, the request is for another name.
        Forbidden: it comes from another origin.
    """
    if loopback and request.authority and not is_loopback_authority(request.authority):
        raise MisdirectedRequest(
            "This server answers for this machine only; use localhost or 127.0.0.1 as its name."
        )
    if not is_same_origin(request):
        raise Forbidden("A web page of another origin may not send requests here.")


def is_loopback_authority(authority: str) -> bool:
    """Whether `host[:port]` is localhost, a name under it, 127.0.0.0/8 or [::1] (RFC 6761, 6.3)."""
    try:
        host, _ = split_authority(authority)
    except ValueError:
        return False
    if is_loopback_address(host.strip("[]")):
        return True
    name = host.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def is_loopback_address(text: str) -> bool:
    """Whether `text` is an IP address that only this machine reaches."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def is_same_origin(request: Request) -> bool:
    """Whether the request comes from no web page, or from one of this very origin.

    `Sec-Fetch-Site: none` is the address bar. Schemes may differ: behind a proxy that ends TLS the
    page's is https and ours is not.
    """
    if any(
        site not in ("same-origin", "none") for site in request.headers.get_all("sec-fetch-site")
    ):
        return False
    return all(_is_origin_of(o, request.authority) for o in request.headers.get_all("origin"))


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
