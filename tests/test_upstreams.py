"""Upstreams by name through a whole front-end: one `llmrelay serve`, a runner for each provider.

Each provider has the key in the variable that its documentation names, and a simulator that takes
no other (tests/helpers/providers.py). tests/runner_payload/test_providers.py asks every provider at
every path without a front-end; here are some with an API of their own, and all of them where
LLMRELAY_EVERY_PROVIDER is set: each runner takes a second of CPU to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrelay.upstreams import UPSTREAMS
from tests.helpers import provider_answers as answers
from tests.helpers.front_end import FrontEndProcess
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.provider_errors import RETRY_AFTER_S, says_when
from tests.helpers.provider_requests import WAVE, assert_answered, request_of
from tests.helpers.provider_rows import CASES, ROWS, base_url
from tests.helpers.providers import RATE_LIMITED, REVOKED, Provider

OWN_WAYS = ["openai", "anthropic", "elevenlabs"]
NAMES = list(ROWS) if os.environ.get("LLMRELAY_EVERY_PROVIDER") else OWN_WAYS
ASKED = [(name, path) for name, path in CASES if name in NAMES and path != "models"]
CHATTING = [name for name, path in ASKED if path == "chat/completions"]
# What a client of OpenAI sends besides, and may not reach any upstream.
CLIENTS_OWN = {
    "Authorization": "Bearer client-secret",
    "x-api-key": "client-secret",
    "Cookie": "session=client-secret",
}
MODELS = {"m": "m-1", "limited": RATE_LIMITED, "revoked": REVOKED}


def runner_of(name: str) -> str:
    """What the simulator's runner is called; its models are called so, too."""
    return re.sub(r"\W+", "-", name)


class Providers:
    """The simulators, and the front-end that has a runner for each."""

    def __init__(self, simulators: dict[str, Provider], front_end: FrontEndProcess) -> None:
        self.simulators = simulators
        self.front_end = front_end

    def ask(self, name: str, path: str, model: str = "m") -> tuple[int, dict[str, str], bytes]:
        """A request to /v1 that the provider's runner answers: status, headers, body."""
        simulator = self.simulators[name]
        before = len(simulator.mistakes)
        as_json = simulator.takes_json(path)
        method, content_type, body = request_of(path, f"{runner_of(name)}.{model}", as_json=as_json)
        headers = CLIENTS_OWN | ({"Content-Type": content_type} if content_type else {})
        response, said = self.front_end.request(method, f"/v1/{path}", body or None, headers)
        assert simulator.mistakes[before:] == []
        return response.status, {k.lower(): v for k, v in response.getheaders()}, said


def line(name: str, provider: Provider, sshd: OpenSSHServer) -> str:
    """Its runner's line in the inventory."""
    models = (f"{runner_of(name)}.{asked}={own}" for asked, own in MODELS.items())
    variables = {
        "ansible_host": sshd.host,
        "ansible_port": sshd.port,
        "ansible_user": sshd.user,
        "ansible_ssh_private_key_file": sshd.identity,
        "ansible_python_interpreter": sys.executable,
        "llmrelay_upstream": ROWS[name],
        "llmrelay_base_url": base_url(name, provider),
        "llmrelay_models": f"{runner_of(name)}.*",
        "llmrelay_model_map": ",".join(models),
    }
    return " ".join([runner_of(name), *(f"{key}='{value}'" for key, value in variables.items())])


@pytest.fixture(scope="module")
def providers(sshd: OpenSSHServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    inventory: Path = tmp_path_factory.mktemp("providers") / "hosts.ini"
    keys = {row: f"key-of-{row}-{secrets.token_hex(8)}" for row in UPSTREAMS}
    env = {row.key_variable: keys[name] for name, row in UPSTREAMS.items() if row.key_variable}
    with contextlib.ExitStack() as cleanup:
        simulators = {name: Provider(name, keys[ROWS[name]]) for name in NAMES}
        for simulator in simulators.values():
            cleanup.enter_context(simulator.in_thread())
        inventory.write_text(
            "".join(f"{line(name, each, sshd)}\n" for name, each in simulators.items())
        )
        options = [
            "--inventory", str(inventory), "--known-hosts", str(sshd.known_hosts),
            "--ssh-config", os.devnull,
        ]  # fmt: skip
        front_end = cleanup.enter_context(FrontEndProcess(options, env))
        front_end.wait_for_log(" is ready: Python", 240.0, count=len(NAMES))
        yield Providers(simulators, front_end)


@pytest.mark.parametrize(("name", "path"), ASKED)
def test_a_client_of_openai_is_answered_whatever_the_upstream(
    providers: Providers, name: str, path: str
) -> None:
    status, headers, body = providers.ask(name, path)
    assert (status, b"client-secret" in body) == (200, False), body
    assert_answered(path, headers["content-type"], body)
    assert not {"set-cookie", "openai-organization"} & headers.keys()


@pytest.mark.parametrize("name", CHATTING)
def test_curl_has_its_text_whatever_the_upstream(providers: Providers, name: str) -> None:
    response, body = providers.front_end.chat("hi", f"?model={runner_of(name)}.m")
    assert (response.status, body.decode()) == (200, answers.TEXT)
    assert not providers.simulators[name].mistakes


@pytest.mark.parametrize("name", CHATTING)
def test_errors_are_openais_whatever_the_upstream(providers: Providers, name: str) -> None:
    status, headers, body = providers.ask(name, "chat/completions", "limited")
    assert status == 429
    assert "Too many requests." in json.loads(body)["error"]["message"]
    if says_when(name):
        assert float(headers["retry-after"]) == RETRY_AFTER_S
    status, _, body = providers.ask(name, "chat/completions", "revoked")
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_auth")


def test_the_list_of_models_is_asked_for_as_each_upstream_has_it(providers: Providers) -> None:
    response, body = providers.front_end.request("GET", "/v1/models", headers=CLIENTS_OWN)
    assert response.status == 200
    listed = {model["id"] for model in json.loads(body)["data"]}
    assert {f"{runner_of(name)}.m" for name in NAMES} <= listed
    assert not [mistake for each in providers.simulators.values() for mistake in each.mistakes]


@pytest.mark.parametrize("name", ["openai", "elevenlabs"])
def test_curl_is_spoken_to_and_heard_by_either_of_the_two(providers: Providers, name: str) -> None:
    query = f"?model={runner_of(name)}.m"
    front_end = providers.front_end
    response, body = front_end.request("POST", f"/speak{query}&voice=JBFqnCBsd6RMkjVDRZzb", "hi")
    assert (response.status, body) == (200, answers.AUDIO)
    headers = {"Content-Type": "audio/wav"}
    response, body = front_end.request("POST", f"/transcribe{query}", WAVE, headers)
    assert (response.status, body.decode()) == (200, answers.TEXT)
    assert not providers.simulators[name].mistakes
