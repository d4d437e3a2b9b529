"""A login on one host: made, verified, kept, closed.

Over a TCP connection, a ProxyCommand, or a login on the hop before. Tells whoever wants to know
which step it is at. Knows no hop but its own, and what a channel is for not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncssh

from ...errors import RunnerBroken
from ..channel import Receiver
from .channel import Channel
from .failures import Offered, connect_error, reason_of
from .proxy import Proxy
from .settings import Settings

_CLOSE_S = 1.0
# RFC 4253, section 11.2; asyncssh's own name for it is not public.
_MSG_IGNORE = 2
# Within the longest silence of a connection that has to say something.
_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A step towards a host that went well.

    Attributes:
        hop: the host, as it was given.
        what: `name`, `tcp`, `host key` or `login`.
        took_s: seconds since the step before.
        found: what there was to see.
    """

    hop: str
    what: str
    took_s: float
    found: str


OnStep = Callable[[Step], None]


class Login:
    """A login on a host.

    Attributes:
        lost: set when it is of no more use.
        loss: why, then.
    """

    def __init__(self, hop: Settings, on_step: OnStep | None) -> None:
        self.lost = asyncio.Event()
        self.loss = "it was closed"
        self._hop = hop
        self._connection: asyncssh.SSHClientConnection | None = None
        self._proxy: Proxy | None = None
        self._sessions: list[asyncssh.SSHClientChannel[bytes]] = []
        self._opening = 0
        self._witness = _Witness(self, hop, on_step)

    async def make(self, tunnel: Login | None, silence_s: float | None) -> None:
        """Logs in, over `tunnel` if there is a hop before this one.

        Raises:
            ConnectError: whatever stands in the way, told apart.
        """
        hop = self._hop
        if tunnel is None and hop.proxy is not None:
            self._proxy = Proxy(hop.proxy, str(hop.address))
        through = self._proxy if tunnel is None else tunnel._connection
        kept_alive = {}
        if silence_s is not None:
            # Lost at the last of these: asyncssh asks after so long, and as often as it may.
            kept_alive = {
                "keepalive_interval": silence_s / _QUESTIONS,
                "keepalive_count_max": _QUESTIONS - 1,
            }
        try:
            async with asyncio.timeout(hop.limit_s):
                if through is None:
                    await self._witness.resolve()
                self._connection = await asyncssh.connect(
                    hop.address.host,
                    tunnel=through,
                    known_hosts=hop.trusted,
                    client_factory=lambda: self._witness,
                    agent_forwarding=False,
                    **kept_alive,
                    **hop.arguments,
                )
            _send_no_empty_packets(self._connection)
        except (asyncssh.Error, OSError, ValueError) as error:
            said = "" if self._proxy is None else self._proxy.said
            raise connect_error(error, hop, self._witness.offered, said) from error
        finally:
            if self._connection is None and self._proxy is not None:
                await self._proxy.end()

    async def open(self, command: str, receiver: Receiver) -> Channel:
        """Starts `command` on the host, without a terminal and without forwarding.

        Raises:
            RunnerBroken: the host does not let us.
        """
        assert self._connection is not None
        opening = asyncio.ensure_future(
            self._connection.create_session(
                lambda: Channel(receiver),
                command,
                encoding=None,
                request_pty=False,
                x11_forwarding=False,
            )
        )
        self._opening += 1
        try:
            opened, channel = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # It may be opened all the same, and hold one of the host's sessions.
            opening.add_done_callback(_close_late)
            raise
        except (asyncssh.Error, OSError) as error:
            raise RunnerBroken(self._refusal(error)) from error
        finally:
            self._opening -= 1
        self._sessions = [each for each in self._sessions if not each.is_closing()]
        self._sessions.append(opened)
        assert isinstance(channel, Channel)
        return channel

    def _refusal(self, error: Exception) -> str:
        """Why there is no session, in a sentence."""
        # It is one of those that are being opened itself.
        others = self._opening > 1 or not all(each.is_closing() for each in self._sessions)
        if others and isinstance(error, asyncssh.ChannelOpenError) and not self.lost.is_set():
            # sshd gives no reason of its own; nothing else keeps it from opening one more.
            return (
                f"{self._hop.address} refuses a further session on the connection that its runners"
                f" share ({reason_of(error)}): have fewer of them (llmrelay_instances or"
                " --instances), or raise MaxSessions in its sshd_config."
            )
        return f"{self._hop.address} accepts the login but no command: {reason_of(error)}."

    async def close(self) -> None:
        """Says goodbye, but waits for nobody who does not answer."""
        assert self._connection is not None
        self._connection.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._connection.wait_closed()
        except TimeoutError:
            pass
        finally:
            # Nor does it stay half closed if we are cancelled.
            self._connection.abort()
            if self._proxy is not None:
                await self._proxy.end()
        await self._connection.wait_closed()

    def is_lost(self, error: Exception | None) -> None:
        """What asyncssh tells."""
        if error is not None:
            self.loss = reason_of(error)
        self.lost.set()


def _send_no_empty_packets(connection: asyncssh.SSHClientConnection) -> None:
    """Spares what each write would cost again, and sshd besides.

    asyncssh puts an SSH_MSG_IGNORE in front of each packet: with CBC it keeps an eavesdropper from
    choosing what is encrypted with a known IV (RFC 4251, section 9.3.1). No other cipher needs it.
    """
    if "cbc" in connection.get_extra_info("send_cipher"):
        return
    send = connection.send_packet

    def send_packet(pkttype: int, *args: bytes, **how: Any) -> None:
        if pkttype != _MSG_IGNORE:
            send(pkttype, *args, **how)

    connection.send_packet = send_packet  # type: ignore[method-assign]


def _close_late(opening: asyncio.Task[tuple[asyncssh.SSHClientChannel[Any], Any]]) -> None:
    """Closes a session that nobody waited for any more, should there be one."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()


class _Witness(asyncssh.SSHClient):
    """Sees how a login goes: its steps, its end, and the host key that was not trusted.

    Trusts none itself: what known_hosts has is asyncssh's to compare.
    """

    def __init__(self, login: Login, hop: Settings, on_step: OnStep | None) -> None:
        self.offered: Offered | None = None
        self._login = login
        self._hop = hop
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._since_s = self._loop.time()
        self._connection: asyncssh.SSHClientConnection

    async def resolve(self) -> None:
        """Looks the name up, if anybody wants to know how that goes."""
        options = self._hop.options
        if self._on_step is None:
            return
        found = await self._loop.getaddrinfo(options.host, options.port)
        self._step("name", ", ".join(dict.fromkeys(str(each[4][0]) for each in found)))

    # What asyncssh calls.

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        if self._login._proxy is not None:
            return  # it runs, but whether it leads anywhere is seen by what comes
        asked = self._hop.options.host, self._hop.options.port
        host, port = (conn.get_extra_info("peername") or asked)[:2]
        self._step("tcp", f"{host} port {port}")

    def begin_auth(self, username: str) -> None:
        if self._login._proxy is not None:
            self._step("tcp", "by ProxyCommand")
        key = self._connection.get_server_host_key()
        if key is not None:
            self._step("host key", f"{key.get_algorithm()} {key.get_fingerprint()}")

    def auth_completed(self) -> None:
        self._step("login", f"as {self._hop.options.username}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._login.is_lost(exc)

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.offered = host, addr, port, key
        return False

    def _step(self, what: str, found: str) -> None:
        if self._on_step is not None:
            since_s, self._since_s = self._since_s, self._loop.time()
            took_s = self._since_s - since_s
            self._on_step(Step(str(self._hop.address), what, took_s, found))


async def log_in(
    hop: Settings,
    tunnel: Login | None,
    on_step: OnStep | None = None,
    silence_s: float | None = None,
) -> Login:
    """A login on the host that `hop` describes; whoever asks for it closes it.

    Args:
        tunnel: the login on the hop before.
        silence_s: a host that does not answer for so long is lost; None if somebody else sees to
            that, as links do.

    Raises:
        ConnectError: whatever stands in the way, told apart.
    """
    login = Login(hop, on_step)
    await login.make(tunnel, silence_s)
    return login
