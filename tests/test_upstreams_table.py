"""The table of upstreams by name, and `llmrelay upstreams`, which prints it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from llmrelay.cli import main
from llmrelay.inventory.variables import KNOWN
from llmrelay.upstreams import UPSTREAMS, KnownUpstream
from llmrelay.values import parse_url

# What Mélodium's ml package has: LLM backends, and who transcribes and who speaks there.
LLM = [
    "mistral", "openai", "anthropic", "google", "groq", "deepseek", "xai", "cohere", "openrouter",
    "huggingface", "ollama", "azure-openai", "aws-bedrock",
]  # fmt: skip
TRANSCRIBING = ["openai", "elevenlabs"]
SPEAKING = ["elevenlabs"]

rows = pytest.mark.parametrize(("name", "row"), UPSTREAMS.items())


def test_every_backend_of_the_reference_has_a_row() -> None:
    assert all("chat/completions" in UPSTREAMS[name].paths for name in LLM)
    assert all("audio/transcriptions" in UPSTREAMS[name].paths for name in TRANSCRIBING)
    assert all("audio/speech" in UPSTREAMS[name].paths for name in SPEAKING)


@rows
def test_a_row_has_a_base_url_or_shows_what_one_looks_like(name: str, row: KnownUpstream) -> None:
    assert (row.base_url is None) == bool(row.example_url)
    url = row.base_url or row.example_url
    assert parse_url(url) == url.rstrip("/")


@rows
def test_a_key_goes_over_tls_unless_it_stays_on_the_host(name: str, row: KnownUpstream) -> None:
    assert row.source.startswith("https://")
    url = row.base_url or row.example_url
    assert url.startswith("https://" if row.key_variable else "http://127.0.0.1:")


@rows
def test_a_variable_is_one_that_an_inventory_could_name(name: str, row: KnownUpstream) -> None:
    if row.key_variable is not None:
        assert KNOWN["llmrelay_key_env"].parse(row.key_variable) == row.key_variable


@rows
def test_what_is_native_is_served_and_has_an_adapter(name: str, row: KnownUpstream) -> None:
    assert set(row.native) <= set(row.paths)
    assert bool(row.native) == bool(row.adapter)
    assert len(set(row.paths)) == len(row.paths)


def test_the_command_prints_every_row_within_the_width_of_a_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["upstreams"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert names == list(UPSTREAMS)


def test_the_command_prints_the_rows_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upstreams", "ollama", "groq"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "ollama (Ollama)\n"
        "  base URL  http://127.0.0.1:11434/v1\n"
        "  key       none is needed\n"
        "  serves    chat/completions, completions, responses, messages, embeddings, models,\n"
        "            images/generations\n"
    )
    assert "\n\ngroq (Groq)\n  base URL  https://api.groq.com/openai/v1\n" in out


def test_programs_get_every_field_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upstreams", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps({n: asdict(row) for n, row in UPSTREAMS.items()}))


@pytest.mark.parametrize(
    ("name", "words"),
    [("opneai", "no upstream is known as 'opneai'"), ("phind", "phind is not served: No public")],
)
def test_a_name_that_is_not_known_is_said_so(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["upstreams", name])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
