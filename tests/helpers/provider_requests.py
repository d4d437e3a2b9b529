"""What a client asks at each path of /v1, as OpenAI documents it, and what it has to be told.

The same for every provider: that is the point. For tests that ask a runner's upstream, and for
those that ask a whole front-end. It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from tests.helpers import provider_answers as answers

_BOUNDARY = "simulated-boundary"
WAVE = b"RIFF\0\0\0\0WAVEfmt " + bytes(range(256))
_MESSAGES = [{"role": "user", "content": "hi"}]
_JSON: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": _MESSAGES, "stream": True},
    "completions": {"prompt": "hi"},
    "responses": {"input": "hi", "stream": True},
    "messages": {"messages": _MESSAGES, "max_tokens": 64, "stream": True},
    "embeddings": {"input": "hi"},
    "moderations": {"input": "hi"},
    "images/generations": {"prompt": "a cat"},
    "audio/speech": {"input": "hi", "voice": "JBFqnCBsd6RMkjVDRZzb"},
    "rerank": {"query": "hi", "documents": ["a", "b"]},
}
_FORMS: dict[str, list[tuple[str, bytes]]] = {
    "audio/transcriptions": [("file", WAVE), ("language", b"en")],
    "audio/translations": [("file", WAVE)],
    "images/edits": [("image", WAVE), ("prompt", b"a hat")],
    "images/variations": [("image", WAVE)],
}
STREAMS = {path for path, fields in _JSON.items() if fields.get("stream")}


def request_of(path: str, model: str, *, as_json: bool = False) -> tuple[str, str, bytes]:
    """Method, Content-Type and body; `as_json` where a provider takes JSON for a form."""
    if path == "models":
        return "GET", "", b""
    if path in _JSON:
        return "POST", "application/json", json.dumps({"model": model, **_JSON[path]}).encode()
    if as_json:
        fields = {"model": model, "prompt": "a hat", "image": {"url": "data:image/png;base64,AA=="}}
        return "POST", "application/json", json.dumps(fields).encode()
    parts = [("model", model.encode()), *_FORMS[path]]
    body = b"".join(_part(name, value) for name, value in parts)
    content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    return "POST", content_type, body + f"--{_BOUNDARY}--\r\n".encode()


def _part(name: str, value: bytes) -> bytes:
    a_file = '; filename="a.wav"\r\nContent-Type: audio/wav' if value == WAVE else ""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{a_file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def assert_answered(path: str, content_type: str, body: bytes) -> None:
    """The answer is the one that OpenAI documents for the path."""
    if path == "audio/speech":
        assert (content_type, body) == ("audio/mpeg", answers.AUDIO)
        return
    if path in STREAMS:
        assert content_type.startswith("text/event-stream")
        assert streamed_text(path, body) == answers.TEXT
        return
    assert content_type == "application/json"
    said = json.loads(body)
    if path == "models":
        names = [model["id"].removeprefix("models/") for model in said["data"]]
        # ElevenLabs' own list lacks what transcribes.
        assert names[: len(answers.MODELS)] == list(answers.MODELS)
        return
    where: dict[str, list[str | int]] = {
        "embeddings": ["data", 0, "embedding"],
        "completions": ["choices", 0, "text"],
        "moderations": ["results", 0, "flagged"],
        "rerank": ["results", 0, "index"],
        "audio/transcriptions": ["text"],
        "audio/translations": ["text"],
    }
    for step in where.get(path, ["data", 0, "b64_json"]):
        said = said[step]
    assert said in (answers.VECTOR, answers.TEXT, False, 1, "iVBORw0K")


def streamed_text(path: str, body: bytes) -> str:
    """The text of an event stream that is whole; comments and what has no text are skipped."""
    events = [
        json.loads(line.removeprefix("data: "))
        for line in body.decode().splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
    if path == "chat/completions":
        assert body.endswith(answers.DONE)
        choices = [choice for event in events for choice in event["choices"]]
        assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    if path == "messages":
        assert events[-1]["type"] == "message_stop"
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        return "".join(delta["text"] for delta in deltas)
    assert events[-1]["type"] == "response.completed"
    return "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
