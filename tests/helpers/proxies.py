"""nginx and HAProxy in front of a front-end, as docs/deploy.md sets them up.

The configuration is the snippet of that page, with other addresses in it, among the settings of
Debian's own configuration file. Each proxy runs in the foreground, from a temporary folder, without
root's rights, on a socket that is listening before it starts: so nothing has to be waited for, and
no port can be lost. It ends, and its workers with it, when the context does.

It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.openssh import INSTALL_HINT, skip_or_fail

HOST = "127.0.0.1"
DEPLOY = Path(__file__).parent.parent.parent / "docs/deploy.md"
STOP_LIMIT_S = 15.0

# What Debian's /etc/nginx/nginx.conf says around a site, but for where files are.
NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    gzip on;
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{snippet}
}}
"""

# And what its /etc/haproxy/haproxy.cfg says before a site.
HAPROXY = """
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
{snippet}
"""


def account() -> pwd.struct_passwd | None:
    """Whom the proxies run as; None for who runs the tests."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def snippet(language: str) -> str:
    """The block of docs/deploy.md that is marked as being in this language."""
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", DEPLOY.read_text(), re.M | re.S)
    return str(block)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, (old, text)
    return text.replace(old, new)


class Proxy:
    """`with Proxy("nginx", "127.0.0.1:8080") as proxy:` answers on `proxy.port`.

    Args:
        name: nginx or haproxy.
        front_end: where the front-end listens: `HOST:PORT` or `unix:PATH`.
    """

    def __init__(self, name: str, front_end: str) -> None:
        # In sbin, which only root has in PATH.
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")
        if program is None:
            skip_or_fail(f"no {name} on this machine ({INSTALL_HINT})")
        self.host = HOST
        self.name = name
        self._program = str(program)
        self._front_end = front_end if name == "nginx" else front_end.replace("unix:", "unix@")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it said on stderr until now."""
        return (self._folder / "log").read_text()

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix=f"llmrelay-{self.name}-"))
        with socket.create_server((HOST, 0)) as listener, (self._folder / "log").open("wb") as log:
            self.port = listener.getsockname()[1]
            config = self._folder / "config"
            config.write_text(self._config(listener.fileno()))
            user = account()
            if user:
                shutil.chown(self._folder, user.pw_uid)
            self._process = subprocess.Popen(
                self._command(config),
                env={"NGINX": f"{listener.fileno()};"},
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=user and [],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self._process.poll()
        try:
            if ended is None:
                self._process.terminate()
                self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        finally:
            log = self.log
            shutil.rmtree(self._folder)
        assert ended is None or error is not None, log

    def _command(self, config: Path) -> list[str]:
        if self.name == "nginx":
            return [self._program, "-e", "stderr", "-p", str(self._folder), "-c", str(config)]
        return [self._program, "-db", "-f", str(config)]

    def _config(self, descriptor: int) -> str:
        text = replaced(snippet(self.name), "127.0.0.1:8080", self._front_end)
        if self.name == "nginx":
            # The socket that $NGINX names is the one with this address.
            text = replaced(text, "listen 80;", f"listen {HOST}:{self.port};")
            return NGINX.format(folder=self._folder, snippet=text)
        return HAPROXY.format(snippet=replaced(text, "bind :80", f"bind fd@{descriptor}"))
