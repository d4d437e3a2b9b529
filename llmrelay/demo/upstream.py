"""A simulated OpenAI-compatible upstream: it has no model, and its answer says so.

Stands at the far end of the demo's flow, where api.openai.com would be: streams chat completions
word by word, at about the pace of a hosted model, and lists the one model that it has not. Made
with the front-end's own HTTP server. Knows no SSH, no runner and nothing of the demo around it;
host.py starts it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from ..config import Config
from ..errors import BadRequest, MethodNotAllowed, NotFound, RelayError
from ..http.events import Request
from ..http.exchange import Exchange
from ..http.server import Server
from ..values import ListenAddress

DELTAS_PER_S = 30
MODEL = "gpt-4o-mini"

_JSON = [("Content-Type", "application/json")]
_EVENT_STREAM = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
# What of the prompt and of the names in the request comes back in the answer.
_SHOWN_CHARS = 60

_ANSWER = (
    "This answer is simulated: OPENAI_API_KEY is not set, so no model was asked. The rest is"
    " real.\n\n"
    "Your prompt, “{prompt}”, went over HTTP to the front-end, and through one SSH channel to a"
    " runner that was started on the host from memory. The runner asked me for {model}, with"
    " OpenAI's own SDK and the system prompt “{system}”; every word comes back the same way, as a"
    " delta of its own.\n\n"
    "Set OPENAI_API_KEY for an answer from a model."
)


def make_server() -> Server:
    """The upstream, on a free port of loopback once it is started."""
    return Server(Config(listen=(ListenAddress("127.0.0.1", 0),)), _handle, _render_error)


async def _handle(exchange: Exchange) -> None:
    handlers = {
        "/v1/chat/completions": ("POST", _chat_completions),
        "/v1/models": ("GET", _models),
    }
    path = exchange.request.path
    if path not in handlers:
        raise NotFound(f"The simulated upstream has no {path}, only {', '.join(handlers)}.")
    method, handler = handlers[path]
    if exchange.request.method != method:
        raise MethodNotAllowed(f"{path} takes {method} alone.", allow=(method,))
    await handler(exchange)


async def _models(exchange: Exchange) -> None:
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "llmrelay-demo"}
    exchange.respond(200, _JSON, json.dumps({"object": "list", "data": [model]}).encode())


async def _chat_completions(exchange: Exchange) -> None:
    asked = Asked.decode(await exchange.read_body())
    deltas = re.findall(r"\S+\s*", asked.answer())
    whole = asked.max_tokens is None or len(deltas) <= asked.max_tokens
    events = Events(asked.model)
    if not asked.stream:
        text = "".join(deltas[: asked.max_tokens])
        exchange.respond(200, _JSON, events.whole(text, "stop" if whole else "length"))
        return
    loop = asyncio.get_running_loop()
    exchange.start(200, _EVENT_STREAM)
    exchange.write(events.encode({"role": "assistant", "content": ""}))
    due_at_s = loop.time()
    for delta in deltas[: asked.max_tokens]:
        exchange.write(events.encode({"content": delta}))
        if exchange.congested:
            await exchange.drained()
        # Against the clock, so that the pace does not drift by what the loop is late.
        due_at_s += 1 / DELTAS_PER_S
        await asyncio.sleep(due_at_s - loop.time())
    exchange.write(events.encode({}, "stop" if whole else "length") + b"data: [DONE]\n\n")
    exchange.finish()


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request makes a difference to the answer."""

    model: str
    system: str
    prompt: str
    max_tokens: int | None
    stream: bool = True

    @classmethod
    def decode(cls, body: bytes) -> Asked:
        """Reads a request's body.

        Raises:
            BadRequest: it asks for nothing that can be simulated.
        """
        try:
            fields = json.loads(body)
            texts = {m["role"]: _text(m["content"]) for m in fields["messages"]}
            limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
            asked = cls(fields["model"], texts.get("system", ""), texts["user"], limit)
            wanted = ((asked.model, str), (asked.system, str), (asked.prompt, str))
            readable = all(isinstance(value, kind) for value, kind in wanted)
            readable = readable and (limit is None or (isinstance(limit, int) and limit > 0))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            readable = False
        if not readable:
            raise BadRequest("The body has to be a chat completion request with a user's text.")
        return replace(asked, stream=fields.get("stream") is True)

    def answer(self) -> str:
        """The text that is streamed for it."""
        return _ANSWER.format(
            prompt=_beginning(self.prompt),
            model=_beginning(self.model),
            system=_beginning(self.system),
        )


class Events:
    """One answer's events (OpenAI reference, "The chat completion chunk object")."""

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish_reason: str) -> bytes:
        """All of it as one object (OpenAI reference, "The chat completion object")."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        said = {**self._common, "object": "chat.completion", "choices": [choice]}
        return json.dumps(said).encode()

    def encode(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        """A delta as one server-sent event."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"data: %b\n\n" % json.dumps({**self._common, "choices": [choice]}).encode()


def _text(content: Any) -> Any:
    """What is written in a message, which may have images besides."""
    if not isinstance(content, list):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _beginning(text: str) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else line[:_SHOWN_CHARS].rstrip() + "…"


def _render_error(
    request: Request | None, request_id: str, error: RelayError
) -> tuple[int, list[tuple[str, str]], bytes]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body: dict[str, Any] = {"message": error.message, "type": kind, "code": error.code}
    return error.status, _JSON, json.dumps({"error": body}).encode()
