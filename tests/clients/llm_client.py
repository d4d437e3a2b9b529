"""simonw's `llm`: its command, with the model that extra-openai-models.yaml names.

`python -m tests.clients llm_client BASE_URL KEY`. Its command line is run within this process, as
its start takes two seconds. Knows nothing of llmrelay.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.clients.report import (
    ANSWER,
    FITTING,
    MODEL,
    PICTURE,
    PROMPT,
    Report,
    equal,
    sha256,
)

report = Report()
home = tempfile.TemporaryDirectory(prefix="llm-")
# Where it keeps its settings, its keys and its log.
os.environ["LLM_USER_PATH"] = home.name

from click.testing import CliRunner  # type: ignore[import-not-found] # noqa: E402
from llm.cli import cli  # type: ignore[import-not-found] # noqa: E402

FUNCTION = """
def forecast(city: str, days: int) -> str:
    "The weather to come."
    return f"{days} days of sun in {city}"
"""


def settings() -> str:
    """YAML takes JSON. One model over each of the three APIs, and those that give trouble."""
    names = [
        MODEL, "endless", "was-closed", "no-such-model", "busy-once", "wrong-key",
        "broken-midway", "cut-midway",
    ]  # fmt: skip
    can = {"vision": True, "supports_schema": True, "supports_tools": True}
    here = {"api_base": report.base_url, "api_key_name": "relay", **can}
    models = [{"model_id": f"my-{name}", "model_name": name, **here} for name in names]
    for kind in ("completion", "responses"):
        models.append({"model_id": f"my-{kind}", "model_name": MODEL, **here, kind: True})
    return json.dumps(models)


(Path(home.name) / "extra-openai-models.yaml").write_text(settings())
(Path(home.name) / "keys.json").write_text(json.dumps({"relay": report.key}))


def llm(*arguments: str, model: str = MODEL) -> Any:
    return CliRunner().invoke(cli, ["-m", f"my-{model}", *arguments], input="")


def said(*arguments: str, model: str = MODEL) -> str:
    """stdout of a command that ends well."""
    result = llm(*arguments, model=model)
    equal((result.exit_code, result.stderr), (0, ""))
    return str(result.stdout)


@report("chat")
def chat() -> None:
    equal(said("--no-stream", PROMPT), ANSWER + "\n")


@report("chat, streamed")
def chat_stream() -> None:
    equal(said(PROMPT), ANSWER + "\n")


@report("chat, streamed, with usage")
def chat_stream_usage() -> None:
    result = llm("--usage", PROMPT)
    equal(
        (result.stdout, result.stderr.strip()), (ANSWER + "\n", "Token usage: 11 input, 7 output")
    )


@report("async chat, streamed")
def async_chat() -> None:
    equal(said("--async", PROMPT), ANSWER + "\n")


@report("conversation")
def conversation() -> None:
    """Its second request has the first answer in it, out of its log."""
    said("first")
    equal(said("--continue", "second"), "You said: first, then second\n")


@report("tools")
def tools() -> None:
    equal(said("--functions", FUNCTION, PROMPT), "You said: 21 days of sun in Zürich\n")


@report("structured output")
def structured() -> None:
    equal(json.loads(said("--schema", "city, days int", PROMPT)), FITTING)


@report("image in a message")
def image() -> None:
    path = Path(home.name) / "a.png"
    path.write_bytes(PICTURE)
    answer = said("Look:", "--attachment-type", str(path), "image/png")
    equal(answer, f"You said: Look: {sha256(PICTURE)}\n")


@report("completions, streamed")
def completions() -> None:
    equal(said(PROMPT, model="completion"), ANSWER + "\n")


@report("responses, streamed")
def responses() -> None:
    equal(said(PROMPT, model="responses"), ANSWER + "\n")


def refusal(model: str, *arguments: str) -> str:
    result = llm(PROMPT, *arguments, model=model)
    equal((result.exit_code, result.stdout), (1, ""))
    return str(result.stderr)


def assert_says(text: str, words: Sequence[str]) -> None:
    assert all(word in text for word in words), text


@report("cancelled midway")
def cancel() -> None:
    def interrupt_once_it_speaks(*_: object) -> None:
        if b"one" in sys.stdout.buffer.getvalue():  # type: ignore[union-attr] # click's
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt_once_it_speaks)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    equal(llm("llm", model="endless").stdout, "one")
    # Upstream answers once the client of the endless answer to this prompt has left, in time.
    equal(said("--no-stream", "llm", model="was-closed"), "closed\n")


@report("unknown model")
def unknown_model() -> None:
    assert_says(refusal("no-such-model"), ["404", "The model does not exist"])


@report("rate limit, retried")
def rate_limit() -> None:
    since_s = time.monotonic()
    equal(said(PROMPT, model="busy-once"), ANSWER + "\n")
    assert time.monotonic() - since_s > 1, "sooner than Retry-After said"


@report("wrong token")
def wrong_token() -> None:
    assert_says(refusal(MODEL, "--key", "not-a-token-of-anybody"), ["401"])


@report("upstream refuses the key")
def upstream_auth() -> None:
    assert_says(refusal("wrong-key"), ["502"])


def fails_midway(model: str) -> str:
    result = llm(PROMPT, model=model)
    equal((result.exit_code, result.stdout), (1, "one two"))
    return str(result.stderr)


@report("error midway")
def error_midway() -> None:
    assert_says(fails_midway("broken-midway"), ["The server had an error"])


@report("upstream lost midway")
def lost_midway() -> None:
    text = fails_midway("cut-midway")
    assert "Connection error" not in text, text


def run() -> None:
    with home:
        report.run()
