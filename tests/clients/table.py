"""Which client shows which feature: what tests/test_clients.py expects, and docs/clients.md says.

`python -m tests.clients.table` writes that page. A program that prints another line than stands
here fails its tests, and so does one that leaves a line out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "clients.md"
ASYNC = "async "

FEATURES = {
    "chat": "A whole answer, with its usage.",
    "chat, streamed": "Delta by delta; no usage, as none was asked for.",
    "chat, streamed, with usage": "The usage behind the last delta, as it was asked for.",
    "many at once": "20 or 30 streams side by side; none gets another's words.",
    "conversation": "A second question with the first one and its answer before it.",
    "tools": "A tool call, its result, and the answer to that.",
    "tools, streamed": "A tool call whose arguments come in pieces.",
    "structured output": "JSON by a schema.",
    "image in a message": "As a data URL; upstream has the same bytes.",
    "file in a message": "A document as a data URL; upstream has the same bytes.",
    "audio in a message": "As base64; upstream has the same bytes.",
    "completions": "/v1/completions.",
    "completions, streamed": "/v1/completions in deltas.",
    "responses": "/v1/responses.",
    "responses, streamed": "From response.created to response.completed, none missing.",
    "responses, tools": "A function call, in /v1/responses.",
    "responses, structured output": "JSON by a schema, in /v1/responses.",
    "embeddings": "/v1/embeddings, as numbers or base64.",
    "moderations": "/v1/moderations.",
    "models": "/v1/models has upstream's.",
    "images": "/v1/images/generations; the picture's bytes are upstream's.",
    "images, edited": "/v1/images/edits: a picture up and another down.",
    "transcription": "/v1/audio/transcriptions; upstream has the recording's very bytes.",
    "transcription as text": "With response_format=text.",
    "transcription, streamed": "With stream=true, in deltas.",
    "translation": "/v1/audio/translations.",
    "speech": "/v1/audio/speech; the sound's bytes are upstream's.",
    "speech, as it comes": "The first bytes are there before upstream has made the rest.",
    "rerank": "/v1/rerank.",
    "messages": "/v1/messages, which is Anthropic's; litellm has its token in X-Api-Key.",
    "messages, streamed": "From message_start to message_stop.",
    "cancelled midway": "Who stops reading a stream ends upstream's: in 0.7 s, or 2 s if busy.",
    "responses, cancelled midway": "The same in /v1/responses.",
    "speech, cancelled midway": "The same in /v1/audio/speech.",
    "unknown model": "404, and the client's error for it.",
    "rate limit": "Upstream's 429 with its Retry-After, and the client's error for it.",
    "rate limit, retried": "The client asks again when Retry-After has passed, and has its answer.",
    "wrong token": "401, and the client's error for it.",
    "upstream refuses the key": "502 with upstream_auth: the client cannot mend it.",
    "error midway": "An error in a stream that had begun is an error, not its end.",
    "upstream lost midway": "So is the loss of upstream, and it is told in words.",
    "headers": "Has our X-Request-Id; no cookie and no key of either side gets to the other.",
}


@dataclass(frozen=True)
class Client:
    """One column of the page.

    Attributes:
        program: of tests/clients; two columns may have the same.
        usage: how it is told where llmrelay is.
        features: as its program names them.
    """

    name: str
    program: str
    usage: str
    features: tuple[str, ...]


def _all_but(*names: str) -> tuple[str, ...]:
    assert set(names) <= set(FEATURES)
    return tuple(name for name in FEATURES if name not in names)


CLIENTS = (
    Client(
        "curl",
        "curl.sh",
        "curl http://127.0.0.1:8080/v1/… -H 'Authorization: Bearer TOKEN'",
        _all_but(
            "chat, streamed, with usage", "many at once", "conversation", "tools",
            "tools, streamed", "structured output", "image in a message", "file in a message",
            "audio in a message", "completions, streamed", "responses", "responses, tools",
            "responses, structured output", "images, edited", "speech",
            "responses, cancelled midway", "speech, cancelled midway", "rate limit, retried",
        ),
    ),
    Client(
        "openai for Node",
        "node_openai.mjs",
        'new OpenAI({baseURL: "http://127.0.0.1:8080/v1", apiKey: TOKEN})',
        _all_but(
            "conversation", "file in a message", "audio in a message", "completions, streamed",
            "responses, structured output", "transcription as text", "speech", "rerank",
            "messages", "messages, streamed", "responses, cancelled midway", "rate limit, retried",
            "headers",
        ),
    ),
    Client(
        "openai for Python",
        "python_openai",
        'openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=TOKEN)',
        _all_but(
            "many at once", "conversation", "speech", "rerank", "messages", "messages, streamed",
            "responses, cancelled midway",
        ),
    ),
    Client(
        "openai for Python, async",
        "python_openai",
        'openai.AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key=TOKEN)',
        tuple(
            ASYNC + name
            for name in (
                "chat", "chat, streamed", "many at once", "tools, streamed",
                "responses, streamed", "embeddings", "transcription", "speech, as it comes",
                "cancelled midway", "responses, cancelled midway", "rate limit", "error midway",
            )
        ),
    ),
    Client(
        "llm",
        "llm_client",
        "api_base: http://127.0.0.1:8080/v1 in extra-openai-models.yaml",
        (
            "chat", "chat, streamed", "chat, streamed, with usage", "async chat, streamed",
            "conversation", "tools", "structured output", "image in a message",
            "completions, streamed", "responses, streamed", "cancelled midway", "unknown model",
            "rate limit, retried", "wrong token", "upstream refuses the key", "error midway",
            "upstream lost midway",
        ),
    ),
    Client(
        "langchain-openai",
        "langchain_client",
        'ChatOpenAI(base_url="http://127.0.0.1:8080/v1", api_key=TOKEN)',
        (
            "chat", "chat, streamed", "chat, streamed, with usage", "async chat",
            "async chat, streamed", "async many at once", "tools", "tools, streamed",
            "structured output", "image in a message", "responses", "responses, streamed",
            "responses, tools", "embeddings", "async cancelled midway", "unknown model",
            "rate limit", "wrong token", "upstream refuses the key", "error midway",
            "upstream lost midway",
        ),
    ),
    Client(
        "litellm",
        "litellm_client",
        'litellm.completion("openai/MODEL", …, api_base="http://127.0.0.1:8080/v1", api_key=TOKEN)',
        (
            "chat", "chat, streamed", "chat, streamed, with usage", "async chat",
            "async chat, streamed", "tools", "tools, streamed", "structured output",
            "image in a message", "completions", "responses", "responses, streamed", "embeddings",
            "images", "transcription", "speech", "rerank", "messages", "cancelled midway",
            "unknown model", "rate limit", "wrong token", "upstream refuses the key",
            "error midway", "upstream lost midway",
        ),
    ),
)  # fmt: skip


def page() -> str:
    """docs/clients.md."""
    columns = [{name.removeprefix(ASYNC) for name in client.features} for client in CLIENTS]
    lines = [
        "# Clients",
        "",
        "Programs that speak to OpenAI speak to llmrelay when their base URL is changed. Each of",
        "these is run, as it is published, against `llmrelay serve` over OpenSSH with a simulated",
        "API as upstream, whenever the tests run. Generated from `tests/clients/table.py`, which",
        "says what they expect.",
        "",
        "| client | how it is told where llmrelay is |",
        "| --- | --- |",
        *(f"| {client.name} | `{client.usage}` |" for client in CLIENTS),
        "",
        "TOKEN is one of `--auth-tokens`, or any word where none are asked for"
        " ([access.md](access.md)).",
        "Anthropic's clients send it as `X-Api-Key`, which will do, too.",
        "",
        "## What works",
        "",
        "A cell is empty where a client has no such thing, or where the same is shown by its"
        " neighbour.",
        "",
        f"| feature | {' | '.join(client.name for client in CLIENTS)} | what is shown |",
        f"| --- | {'--- | ' * len(CLIENTS)}--- |",
    ]
    for feature, shown in FEATURES.items():
        cells = ["yes" if feature in column else "" for column in columns]
        lines.append(f"| {feature} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
