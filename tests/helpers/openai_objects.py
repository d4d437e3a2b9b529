"""What OpenAI's API is asked and answers, as objects and as events: pure, from texts to bytes.

Written after OpenAI's API reference, field by field as its SDKs read them; Anthropic's Messages
have theirs. It may not know requests or connections: openai_api.py decides what to say, and says it
with these. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.helpers.upstream_script import sse

Object = dict[str, Any]

CREATED = 1_750_000_000
PROMPT_TOKENS, ANSWER_TOKENS = 11, 7
CALL_ID = "call_1"


def pieces(text: str) -> list[str]:
    """A text in the deltas that it is streamed in."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", text) or [text]


def example(schema: Mapping[str, Any]) -> Any:
    """A value that fits a JSON schema, of the kinds that the tests use."""
    match schema.get("type"):
        case "object":
            return {name: example(each) for name, each in schema["properties"].items()}
        case "array":
            return [example(schema["items"])]
        case "integer":
            return 21
        case "number":
            return 21.5
        case "boolean":
            return True
        case _:
            return "Zürich"


# --- What was asked -----------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def said(content: Any) -> str:
    """A message's text; what else is in it is named by its bytes' SHA-256."""
    if isinstance(content, str):
        return content
    return " ".join(_part_said(part) for part in content)


def _part_said(part: Object) -> str:
    match part["type"]:
        case "text" | "input_text" | "output_text":
            return str(part["text"])
        case "image_url":
            return _data_said(part["image_url"]["url"])
        case "input_image":
            return _data_said(part["image_url"])
        case "file" | "input_file":
            return _data_said(part.get("file", part)["file_data"])
        case "input_audio":
            return sha256(base64.b64decode(part["input_audio"]["data"], validate=True))
        case other:
            raise ValueError(f"no such part: {other}")


def _data_said(url: str) -> str:
    head, comma, data = url.partition(";base64,")
    if not head.startswith("data:") or not comma:
        raise ValueError(f"not a data URL: {url[:60]}")
    return sha256(base64.b64decode(data, validate=True))


# --- chat/completions and completions -----------------------------------------------------------


def chat_usage() -> Object:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": ANSWER_TOKENS,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }


def tool_call(name: str, arguments: str) -> Object:
    return {
        "id": CALL_ID,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def chat_whole(model: str, message: Object) -> Object:
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "logprobs": None, "finish_reason": reason}
    full = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{**choice, "message": full}],
        "usage": chat_usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def chat_chunk(model: str, delta: Object | None, reason: str | None = None) -> bytes:
    """One event; without a delta the one that has the usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": [] if delta is None else [choice],
    }
    return sse(chunk | ({"usage": chat_usage()} if delta is None else {}))


def chat_stream(model: str, message: Object, *, usage: bool) -> Iterator[bytes]:
    calls = message.get("tool_calls")
    if calls:
        [call] = calls
        empty = tool_call(call["function"]["name"], "")
        first: Object = {"tool_calls": [{"index": 0, **empty}]}
        yield chat_chunk(model, {"role": "assistant", "content": None, **first})
        for piece in pieces(call["function"]["arguments"]):
            more = {"index": 0, "function": {"arguments": piece}}
            yield chat_chunk(model, {"tool_calls": [more]})
    else:
        yield chat_chunk(model, {"role": "assistant", "content": "", "refusal": None})
        for piece in pieces(message["content"]):
            yield chat_chunk(model, {"content": piece})
    yield chat_chunk(model, {}, "tool_calls" if calls else "stop")
    if usage:
        yield chat_chunk(model, None)
    yield sse("[DONE]")


def completion(model: str, text: str, reason: str | None = "stop") -> Object:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    common = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model}
    return {**common, "choices": [choice], **({"usage": chat_usage()} if reason else {})}


def completion_stream(model: str, text: str) -> Iterator[bytes]:
    for piece in pieces(text):
        yield sse(completion(model, piece, None))
    yield sse(completion(model, ""))
    yield sse("[DONE]")


# --- responses ----------------------------------------------------------------------------------


def response_message(text: str) -> Object:
    content = [_output_text(text)]
    common = {"id": "msg_1", "type": "message", "role": "assistant"}
    return {**common, "status": "completed", "content": content}


def response_call(name: str, arguments: str) -> Object:
    common = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": CALL_ID}
    return {**common, "name": name, "arguments": arguments}


def _output_text(text: str) -> Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_whole(asked: Object, item: Object | None) -> Object:
    """The response with its item; without one, as it is when it has just begun."""
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": ANSWER_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": "completed" if item else "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": None,
        "metadata": {},
        "model": asked["model"],
        "output": [item] if item else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": asked.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if item else None,
    }


def response_stream(asked: Object, item: Object) -> Iterator[bytes]:
    """From response.created to response.completed, numbered."""
    for number, (name, fields) in enumerate(_response_events(asked, item)):
        event = {"type": name, "sequence_number": number, **fields}
        yield b"event: " + name.encode() + b"\n" + sse(event)


def _response_events(asked: Object, item: Object) -> Iterator[tuple[str, Object]]:
    begun = response_whole(asked, None)
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    at = {"output_index": 0, "item_id": item["id"]}
    if item["type"] == "function_call":
        empty = {**item, "status": "in_progress", "arguments": ""}
        yield "response.output_item.added", {"output_index": 0, "item": empty}
        for piece in pieces(item["arguments"]):
            yield "response.function_call_arguments.delta", {**at, "delta": piece}
        done = {**at, "name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", done
    else:
        [part] = item["content"]
        at["content_index"] = 0
        empty = {**item, "status": "in_progress", "content": []}
        yield "response.output_item.added", {"output_index": 0, "item": empty}
        yield "response.content_part.added", {**at, "part": _output_text("")}
        for piece in pieces(part["text"]):
            yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
        yield "response.content_part.done", {**at, "part": part}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": response_whole(asked, item)}


# --- Anthropic's messages -----------------------------------------------------------------------


def anthropic_message(model: str, text: str | None) -> Object:
    """The message; without a text, as it is when it has just begun."""
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": ANSWER_TOKENS}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": None if text is None else "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def anthropic_stream(model: str, text: str) -> Iterator[bytes]:
    events: list[Object] = [
        {"type": "message_start", "message": anthropic_message(model, None)},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {"type": "ping"},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
            for piece in pieces(text)
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": ANSWER_TOKENS},
        },
        {"type": "message_stop"},
    ]
    for event in events:
        yield f"event: {event['type']}\n".encode() + sse(event)


# --- The others ---------------------------------------------------------------------------------


def moderation(*, flagged: bool) -> Object:
    names = ("harassment", "hate", "self-harm", "sexual", "violence")
    categories = {name: flagged and name == "violence" for name in names}
    return {
        "flagged": flagged,
        "categories": categories,
        "category_scores": {name: 0.9 if on else 0.01 for name, on in categories.items()},
        "category_applied_input_types": {name: ["text"] for name in names},
    }


def transcript_stream(text: str) -> Iterator[bytes]:
    for piece in pieces(text):
        yield sse({"type": "transcript.text.delta", "delta": piece})
    yield sse({"type": "transcript.text.done", "text": text, "usage": _audio_usage()})


def _audio_usage() -> Object:
    return {
        "type": "tokens",
        "input_tokens": PROMPT_TOKENS,
        "input_token_details": {"text_tokens": 0, "audio_tokens": PROMPT_TOKENS},
        "output_tokens": ANSWER_TOKENS,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }


def transcript(text: str) -> Object:
    return {"text": text, "usage": _audio_usage()}


def as_json(what: Object) -> bytes:
    return json.dumps(what, ensure_ascii=False).encode()
