"""Clients of OpenAI's API that know nothing of llmrelay, against `llmrelay serve` over OpenSSH.

Each is a program of tests/clients with its own library, all run side by side, and each line that it
has to print is a test: `ok NAME`. Upstream is a simulated API that takes no request with a byte
amiss or with the client's key (tests/helpers/openai_api.py).
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmrelay.http.tokens import make_line, make_token
from tests.clients.table import ASYNC, CLIENTS, FEATURES, PAGE, Client, page
from tests.helpers.front_end import KEY, ROOT, FrontEndProcess, runner_options
from tests.helpers.openai_api import OpenAIApi
from tests.helpers.openssh import OpenSSHServer, skip_or_fail
from tests.helpers.upstream import Recorded, ScriptedUpstream

PROGRAMS = tuple(dict.fromkeys(client.program for client in CLIENTS))
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
INSTALL_HINT = "run scripts/install-test-clients"
# Together they keep two processors busy for 15 s.
LIMIT_S = 100.0
pytestmark = pytest.mark.timeout(120)


class Program:
    """One client's program: started at once, its lines read when they are asked for."""

    def __init__(self, name: str, *arguments: str, home: Path) -> None:
        self.missing, command = _command(name)
        self._lines: list[str] | None = None
        if self.missing:
            return
        # Files: a pipe that is not read holds its writer.
        self._out, self._err = (open(home / f"{name}.{each}", "w+b") for each in ("out", "err"))  # noqa: SIM115 - closed by end()
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err,
            cwd=ROOT, env=_environment(home),
        )  # fmt: skip

    def results(self) -> dict[str, str]:
        """Each feature that was tried, with why it failed, or nothing."""
        if self.missing:
            skip_or_fail(self.missing)
        if self._lines is None:
            status = self._process.wait(LIMIT_S)
            self._out.seek(0)
            self._lines = self._out.read().decode().splitlines()
            assert status == 0, self.errors()
        ok = {line[3:]: "" for line in self._lines if line.startswith("ok ")}
        failed = [line[7:].partition(": ") for line in self._lines if line.startswith("FAILED ")]
        return ok | {name: why or "no reason" for name, _, why in failed}

    def errors(self) -> str:
        self._err.seek(0)
        return self._err.read().decode()[-4000:]

    def end(self) -> None:
        if self.missing:
            return
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._err.close()


def _command(name: str) -> tuple[str, list[str]]:
    """What is missing for it to run, or nothing; and the command."""
    path = ROOT / "tests" / "clients" / name
    match path.suffix:
        case ".sh":
            missing = "" if shutil.which("curl") else "no curl on this machine"
            return missing, ["sh", str(path)]
        case ".mjs":
            there = shutil.which("node") and (ROOT / "node_modules" / "openai").exists()
            return "" if there else f"no openai for Node here ({INSTALL_HINT})", ["node", str(path)]
        case _:
            missing = "" if PYTHON.exists() else f"no {PYTHON.parent.parent.name} ({INSTALL_HINT})"
            return missing, [str(PYTHON), "-m", "tests.clients", name]


def _environment(home: Path) -> dict[str, str]:
    # Nothing that a client would take for its settings; and litellm would fetch a list of prices.
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


class Stage:
    """The clients, the front-end that they ask, and the API that its runner asks."""

    def __init__(self, sshd: OpenSSHServer, cleanup: ExitStack) -> None:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="clients-")))
        self.token = make_token()
        tokens = home / "tokens"
        tokens.write_text(make_line("client", self.token, None, None))
        self.api = OpenAIApi(KEY)
        self.upstream = cleanup.enter_context(
            ScriptedUpstream(self.api.chat, paths=self.api.paths).in_thread()
        )
        options = [*runner_options(sshd), "--base-url", self.upstream.base_url]
        options += ["--auth-tokens", str(tokens)]
        self.front_end = cleanup.enter_context(FrontEndProcess(options))
        self.programs: dict[str, Program] = {}
        for name in PROGRAMS:
            arguments = (f"{self.front_end.url}/v1", self.token)
            program = self.programs[name] = Program(name, *arguments, home=home)
            cleanup.callback(program.end)

    def finished(self) -> list[Recorded]:
        """What upstream was asked, once all have ended."""
        for program in self.programs.values():
            program.results()
        return self.upstream.requests


@pytest.fixture(scope="module")
def clients(sshd: OpenSSHServer) -> Iterator[Stage]:
    with ExitStack() as cleanup:
        yield Stage(sshd, cleanup)


@pytest.mark.parametrize(
    ("client", "feature"),
    [
        pytest.param(client, feature, id=f"{client.name}: {feature}")
        for client in CLIENTS
        for feature in client.features
    ],
)
def test_an_unmodified_client_has(clients: Stage, client: Client, feature: str) -> None:
    program = clients.programs[client.program]
    results = program.results()
    assert feature in results, program.errors()
    assert not results[feature], results[feature]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_program_shows_stands_in_the_table(clients: Stage, name: str) -> None:
    expected = [client.features for client in CLIENTS if client.program == name]
    assert set(clients.programs[name].results()) == set().union(*expected)


def test_upstream_takes_every_request_of_every_client(clients: Stage) -> None:
    clients.finished()
    assert clients.api.complaints == []


def test_the_clients_token_never_goes_up_and_the_key_never_comes_down(clients: Stage) -> None:
    requests = clients.finished()
    assert requests
    token = clients.token.encode()
    for request in requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert token not in request.body + repr(request.headers).encode()
    for program in clients.programs.values():
        assert KEY not in program.errors()


def test_the_page_with_the_table_is_up_to_date() -> None:
    shown = {name.removeprefix(ASYNC) for client in CLIENTS for name in client.features}
    assert shown == set(FEATURES)
    assert PAGE.read_text() == page(), f"run {Path(sys.executable).name} -m tests.clients.table"


# --- The simulated API itself --------------------------------------------------------------------


def _asked(body: bytes, content_type: str, path: str, key: str = KEY) -> tuple[int, list[str]]:
    """The status of a request without a client or a relay, and what there was to complain of."""
    api = OpenAIApi(KEY)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": content_type}
    with ScriptedUpstream(api.chat, paths=api.paths).in_thread() as upstream:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.upstream.port, timeout=5)
        connection.request("POST", f"/v1/{path}", body, headers)
        status = connection.getresponse().status
        connection.close()
    return status, api.complaints


FORM = b"".join(
    b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % field
    for field in ((b"model", b"", b"m"), (b"file", b'; filename="a.wav"', b"\r--b\n"))
)
UPLOAD = "multipart/form-data; boundary=b"


def test_the_simulated_api_takes_a_whole_upload_only() -> None:
    whole = FORM + b"--b--\r\n"
    assert _asked(whole, UPLOAD, "audio/transcriptions") == (200, [])
    for broken in (FORM, whole[1:], whole.replace(b"\r\n\r\n", b"\r\n", 1), whole[:-6] + b"\r\n"):
        status, complaints = _asked(broken, UPLOAD, "audio/transcriptions")
        assert (status, len(complaints)) == (400, 1), broken


def test_the_simulated_api_takes_no_other_key_and_no_other_type_of_content() -> None:
    body = b'{"model": "m", "input": "a"}'
    assert _asked(body, "application/json", "embeddings") == (200, [])
    assert _asked(body, "application/json", "embeddings", "another")[0] == 401
    assert _asked(body, "text/plain", "embeddings")[0] == 400
