"""nginx and LiteLLM, as people put them in front of a tunnel: started, ready, and their processes.

nginx passes on what comes at once, over connections that it keeps. LiteLLM's proxy has one model
and one worker, as its users run it. Neither is required: who wants them beside the others installs
them, and is told how here.

Knows where they are to send requests, and nothing of the tunnel, the relay or the load.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.openssh import descendants_of

from .child import Child, ChildFailed

NGINX_LIMIT_S = 10.0
# It imports for 20 s of CPU, and ends only after that if something is wrong.
LITELLM_LIMIT_S = 300.0
# As many processes as help on the machine, and no more than the others have.
NGINX_WORKERS = 2

_ROOT = Path(__file__).parent.parent.parent

_NGINX = """
daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream tunnel {{
        server 127.0.0.1:{to_port};
        keepalive 1024;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=16384;
        location / {{
            proxy_pass http://tunnel;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""

_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{to_port}/v1
      api_key: benchmark
"""


class NotInstalled(Exception):
    """The program is not here; the text says how to get it."""


@dataclass(frozen=True)
class Proxy:
    """One that is ready on `port`."""

    port: int
    pids: list[int]


def nginx(stack: contextlib.ExitStack, folder: Path, to_port: int, port: int) -> Proxy:
    """nginx on `port`, ended when the stack is.

    Raises:
        NotInstalled: there is none.
        ChildFailed: it did not start.
    """
    program = nginx_program()
    if program is None:
        raise NotInstalled("install it by your system's packages, as apt-get install nginx")
    folder = folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            # Its workers would be nobody, who may not write into the temporary folder.
            user="user root;" if os.geteuid() == 0 else "",
            workers=min(NGINX_WORKERS, len(os.sched_getaffinity(0))),
            connections=resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64,
            folder=folder,
            to_port=to_port,
            port=port,
        )
    )
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(config)]
    return _started(stack, command, folder / "log", port, NGINX_LIMIT_S, {})


def litellm(
    stack: contextlib.ExitStack, folder: Path, to_port: int, port: int, model: str
) -> Proxy:
    """LiteLLM's proxy on `port`, ended when the stack is.

    Raises:
        NotInstalled: there is none, or it is installed without its proxy.
    """
    hint = "pip install 'litellm[proxy]' into a venv, whose bin has to be in PATH"
    program = litellm_program()
    if program is None:
        raise NotInstalled(hint)
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(model=model, to_port=to_port))
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        # From the package, not from the network.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Nobody else is asked here, and to check a key for each call would only cost.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        # What is on loopback is not asked for by way of a proxy.
        "NO_PROXY": "127.0.0.1,localhost",
    }
    log = folder / "litellm.log"
    try:
        return _started(stack, command, log, port, LITELLM_LIMIT_S, environment)
    except ChildFailed as error:
        raise NotInstalled(f"{hint}; {program} does not start: {error}") from error


def nginx_program() -> str | None:
    # In sbin, which only root has in PATH.
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")


def litellm_program() -> str | None:
    """The one in PATH, else that of the clients' tests."""
    return shutil.which("litellm", path=f"{os.environ['PATH']}:{_ROOT / '.venv-clients/bin'}")


def litellm_version() -> str | None:
    program = litellm_program()
    if program is None:
        return None
    venv = Path(program).resolve().parent.parent
    for found in venv.glob("lib/python*/site-packages/litellm-*.dist-info"):
        return found.name.removeprefix("litellm-").removesuffix(".dist-info")
    return "of unknown version"


def _started(
    stack: contextlib.ExitStack,
    command: Sequence[str],
    log: Path,
    port: int,
    limit_s: float,
    environment: Mapping[str, str],
) -> Proxy:
    # LiteLLM writes a line per request to stdout: a pipe that nobody reads would stop it.
    command = ["/bin/sh", "-c", f'exec "$0" "$@" > {log} 2>&1', *command]
    child = stack.enter_context(Child(command, env={**os.environ, **environment}))
    deadline_s = time.monotonic() + limit_s
    while not _answers(port):
        if child.ended or time.monotonic() > deadline_s:
            said = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
            raise ChildFailed(said[-1])
        time.sleep(0.05)
    return Proxy(port, [child.pid, *descendants_of(child.pid)])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as probe:
        # A connect to a port of loopback that nobody listens on may connect to itself.
        return bool(probe.getsockname() != probe.getpeername())
    return False
