"""The options of the clients' side: where they connect, and who may ask.

A part of Config, by inheritance, in a file of its own: config.py says what holds for every option.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .option import option, switch
from .values import (
    AllowedHost,
    Listen,
    ListenAddress,
    TrustedProxy,
    parse_allowed_host,
    parse_listen,
    parse_mode,
    parse_origin,
    parse_path,
    parse_trusted_proxy,
)

CLIENTS = "Clients"


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Where clients connect, and who may ask."""

    listen: tuple[Listen, ...] = option(
        "--listen",
        "ADDRESS",
        parse_listen,
        (ListenAddress("127.0.0.1", 8080),),
        "Where clients connect: HOST:PORT, port 0 for a free one, or unix:PATH. Sockets that"
        " systemd hands in take the default's place.",
        CLIENTS,
        repeated=True,
    )
    socket_mode: int = option(
        "--socket-mode",
        "MODE",
        parse_mode,
        0o600,
        "Permissions of a unix socket's file, octal: by default it is this user's alone.",
        CLIENTS,
    )
    reuse_port: bool = switch(
        "--reuse-port",
        "Share the addresses with another front-end of this user: an upgrade without a gap.",
        CLIENTS,
    )
    tls_cert: Path | None = option(
        "--tls-cert",
        "FILE",
        parse_path,
        None,
        "Speak TLS on TCP addresses, with the certificate chain in FILE (PEM); re-read on SIGHUP.",
        CLIENTS,
    )
    tls_key: Path | None = option(
        "--tls-key",
        "FILE",
        parse_path,
        None,
        "The certificate's private key (PEM), if it is not in --tls-cert's file.",
        CLIENTS,
    )
    tls_client_ca: Path | None = option(
        "--tls-client-ca",
        "FILE",
        parse_path,
        None,
        "Mutual TLS: let in only clients with a certificate that those in FILE (PEM) have signed.",
        CLIENTS,
    )
    auth_tokens: Path | None = option(
        "--auth-tokens",
        "FILE",
        parse_path,
        None,
        "Answer only requests that bring a token of FILE (docs/access.md); re-read on SIGHUP.",
        CLIENTS,
    )
    allow_anonymous: bool = switch(
        "--allow-anonymous",
        "Listen for other machines without asking for tokens: whoever gets through may ask.",
        CLIENTS,
    )
    allowed_hosts: tuple[AllowedHost, ...] = option(
        "--allowed-host",
        "HOST[:PORT]",
        parse_allowed_host,
        (),
        "A name that requests may be for; on loopback its own names may always be.",
        CLIENTS,
        repeated=True,
    )
    cors_origins: tuple[str, ...] = option(
        "--cors-origin",
        "ORIGIN",
        parse_origin,
        (),
        "An origin whose web pages may ask, * for any; else pages of this server alone.",
        CLIENTS,
        repeated=True,
    )
    trusted_proxies: tuple[TrustedProxy, ...] = option(
        "--trusted-proxy",
        "NET",
        parse_trusted_proxy,
        (),
        "Believe Forwarded and X-Forwarded-For of peers at this address, in this network"
        " (10.0.0.0/8) or on a unix socket (unix); of nobody else.",
        CLIENTS,
        repeated=True,
    )
