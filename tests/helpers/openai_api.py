"""A simulated OpenAI API: every path that llmrelay relays, for clients that do not know it is one.

`OpenAIApi(key)` has scripts for a `ScriptedUpstream`: what it answers depends on what was asked,
so that a client can tell whether its own bytes came through: an answer repeats the prompt, names
files by their SHA-256, and makes sound out of the words. It takes nothing that the API would not
take: any request without the one key, with another content type or a broken upload is refused, and
noted in `complaints`. Some names of models ask for trouble: see TROUBLE.

It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from tests.helpers import openai_objects as objects
from tests.helpers.multipart import Part, parse_form
from tests.helpers.openai_objects import Object, example, said, sha256
from tests.helpers.upstream import (
    Cut,
    Headers,
    Pause,
    Raw,
    Recorded,
    Script,
    ScriptSource,
    Silence,
    Status,
    Step,
    WaitFor,
    sse,
)

MODEL = "gpt-4o-mini"
RETRY_AFTER_S = 7
TROUBLE: dict[str, Status] = {
    "no-such-model": Status(404, message="The model does not exist", code="model_not_found"),
    "busy": Status(
        429,
        {"retry-after": str(RETRY_AFTER_S)},
        message="Rate limit reached",
        code="rate_limit_exceeded",
    ),
    "wrong-key": Status(401, message="Incorrect API key provided", code="invalid_api_key"),
}
# Further models: "broken-midway" and "cut-midway" end a stream in its midst, the first with an
# error event; "busy-once" is so when a prompt first comes; ENDLESS says a word and no more, and
# "was-closed" answers as soon as the client of the ENDLESS answer to the same prompt has left.
ENDLESS = "endless"
# Of the time from when that was asked. The client left before, on the same way.
CANCEL_LIMIT_S = 2.0

SPEECH_BYTES = 200_000
# Sound comes in pieces, and this long after the first one the others.
SPEECH_PAUSE_S = 0.3
_AUDIO_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/opus", "pcm": "audio/pcm"}

# What an upstream says to its own customer; it is not the client's business.
_COOKIE = "__cf_bm=upstream"
_PRIVATE = {"set-cookie": f"{_COOKIE}; path=/"}


class Refused(Exception):
    """The request is not one that the API takes."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


def sound(words: str) -> bytes:
    """What /v1/audio/speech makes of words; a client can tell for itself."""
    return hashlib.shake_256(words.encode()).digest(SPEECH_BYTES)


class OpenAIApi:
    """The scripts of one simulated API.

    Attributes:
        chat: the script of /v1/chat/completions.
        paths: those of all others but /v1/models.
        complaints: what was refused, and why.
    """

    def __init__(self, key: str) -> None:
        self.complaints: list[str] = []
        self._key = key
        self._endless: dict[str, Recorded] = {}
        self._were_busy: set[str] = set()
        self.chat = self._of_json(self._chat)
        self.paths: dict[str, ScriptSource] = {
            "/v1/completions": self._of_json(_completions),
            "/v1/responses": self._of_json(self._responses),
            "/v1/embeddings": self._of_json(_embeddings),
            "/v1/moderations": self._of_json(_moderations),
            "/v1/images/generations": self._of_json(_generations),
            "/v1/images/edits": self._of_form(_edits),
            "/v1/audio/speech": self._of_json(self._speech),
            "/v1/audio/transcriptions": self._of_form(_transcriptions),
            "/v1/audio/translations": self._of_form(_translations),
            "/v1/rerank": self._of_json(_rerank),
            "/v1/messages": self._of_json(_messages),
            f"/v1/models/{MODEL}": self._model,
        }

    # --- What it takes ---------------------------------------------------------------------------

    def _of_json(
        self, answer: Callable[[Object, Recorded], Script]
    ) -> Callable[[Recorded], Script]:
        def parse(recorded: Recorded) -> Object:
            if recorded.headers.get("content-type", "").partition(";")[0] != "application/json":
                raise Refused(f"not JSON: {recorded.headers.get('content-type')}")
            asked = recorded.json
            if not isinstance(asked, dict) or not isinstance(asked.get("model", ""), str):
                raise Refused(f"not an object with a model: {asked!r}")
            return asked

        return lambda recorded: self._answer(recorded, parse, answer)

    def _of_form(self, answer: Callable[[dict[str, Part]], Script]) -> Callable[[Recorded], Script]:
        def parse(recorded: Recorded) -> Object:
            form = parse_form(recorded.headers.get("content-type", ""), recorded.body)
            # Lists are spelled name[] there.
            fields = {part.name.removesuffix("[]"): part for part in form}
            return {"model": fields["model"].text, "fields": fields}

        return lambda recorded: self._answer(
            recorded, parse, lambda asked, _: answer(asked["fields"])
        )

    def _answer(
        self,
        recorded: Recorded,
        parse: Callable[[Recorded], Object],
        answer: Callable[[Object, Recorded], Script],
    ) -> Script:
        try:
            self._check(recorded, "POST")
            asked = parse(recorded)
            trouble = TROUBLE.get(asked.get("model", ""))
            return [trouble] if trouble else answer(asked, recorded)
        except Refused as refused:
            return [self._refuse(recorded, refused)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [self._refuse(recorded, Refused(f"{type(error).__name__}: {error}"))]

    def _check(self, recorded: Recorded, method: str) -> None:
        if recorded.method != method:
            raise Refused(f"only {method}", 405)
        if recorded.headers.get("authorization") != f"Bearer {self._key}":
            raise Refused("another key, or none", 401)
        for name in ("x-api-key", "api-key"):
            if name in recorded.headers:
                raise Refused(f"the client's {name}")
        # Its own it may get back: the openai package keeps them.
        if recorded.headers.get("cookie", _COOKIE) != _COOKIE:
            raise Refused("the client's cookie")

    def _refuse(self, recorded: Recorded, why: Refused) -> Status:
        self.complaints.append(f"{recorded.method} {recorded.path}: {why}")
        return Status(why.status, message=f"The simulator refused it: {why}", code="refused")

    def _model(self, recorded: Recorded) -> Script:
        try:
            self._check(recorded, "GET")
        except Refused as refused:
            return [self._refuse(recorded, refused)]
        model = {"id": MODEL, "object": "model", "created": objects.CREATED, "owned_by": "openai"}
        return [_whole(model)]

    # --- What it answers -------------------------------------------------------------------------

    def _chat(self, asked: Object, recorded: Recorded) -> Script:
        model, messages = asked["model"], asked["messages"]
        if special := self._special(model, said(messages[-1]["content"]), recorded):
            return special
        wanted = (asked.get("response_format") or {}).get("json_schema")
        if asked.get("tools") and messages[-1]["role"] != "tool":
            function = asked["tools"][0]["function"]
            arguments = json.dumps(example(function["parameters"]), ensure_ascii=False)
            message: Object = {"tool_calls": [objects.tool_call(function["name"], arguments)]}
        else:
            # All that one side said: a conversation has its earlier turns in it.
            turns = [each for each in messages if each["role"] == messages[-1]["role"]]
            message = {"content": _text_for(turns, wanted)}
        if messages[-1]["role"] == "tool":
            _check_call(messages[-1]["tool_call_id"], messages[-2]["tool_calls"][0]["id"])
        if asked.get("stream"):
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            return _stream(objects.chat_stream(model, message, usage=usage))
        return [_whole(objects.chat_whole(model, message))]

    def _special(self, model: str, prompt: str, recorded: Recorded) -> Script | None:
        """The answers that do not end as they should."""
        words = [Raw(objects.chat_chunk(model, {"content": each})) for each in ("one", " two")]
        match model:
            case "broken-midway":
                error = {"message": "The server had an error", "type": "server_error"}
                return [*words, Raw(sse({"error": {**error, "param": None, "code": None}}))]
            case "cut-midway":
                return [*words, Cut()]
            case "endless":
                self._endless[prompt] = recorded
                return [words[0], Silence()]
            case "busy-once" if prompt not in self._were_busy:
                self._were_busy.add(prompt)
                return [replace(TROUBLE["busy"], headers={"retry-after": "1"})]
            case "was-closed":
                return _was_closed(self._endless[prompt], recorded)
        return None

    def _responses(self, asked: Object, recorded: Recorded) -> Script:
        given = asked["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        last = items[-1]
        wanted = (asked.get("text") or {}).get("format") or {}
        if asked["model"] == ENDLESS:
            self._endless[said(last["content"])] = recorded
            item = objects.response_message("one")
            return [Raw(next(iter(objects.response_stream(asked, item)))), Silence()]
        if last.get("type") == "function_call_output":
            calls = [each for each in items if each.get("type") == "function_call"]
            _check_call(last["call_id"], calls[-1]["call_id"])
            item = objects.response_message(f"You said: {said(last['output'])}")
        elif asked.get("tools"):
            tool = asked["tools"][0]
            arguments = json.dumps(example(tool["parameters"]), ensure_ascii=False)
            item = objects.response_call(tool["name"], arguments)
        else:
            item = objects.response_message(
                _text_for([last], wanted if wanted.get("type") == "json_schema" else None)
            )
        if asked.get("stream"):
            return _stream(objects.response_stream(asked, item))
        return [_whole(objects.response_whole(asked, item))]

    def _speech(self, asked: Object, recorded: Recorded) -> Script:
        if not asked["voice"]:
            raise Refused("no voice")
        kind = _AUDIO_TYPES[asked.get("response_format", "mp3")]
        data = sound(asked["input"])
        first, rest = data[:20_000], data[20_000:]
        begin = Headers(headers={"content-type": kind, **_PRIVATE})
        if asked["model"] == ENDLESS:
            self._endless[asked["input"]] = recorded
            return [begin, Raw(first), Silence()]
        later = [Raw(rest[at : at + 30_000]) for at in range(0, len(rest), 30_000)]
        return [begin, Raw(first), Pause(SPEECH_PAUSE_S), *later]


def _was_closed(endless: Recorded, recorded: Recorded) -> Iterator[Step]:
    """Answers when that has ended, to a client that left it before it asked."""
    yield WaitFor(endless.client_closed)
    assert endless.closed_at is not None
    late_s = endless.closed_at - recorded.opened_at
    if late_s < CANCEL_LIMIT_S:
        yield _whole(objects.chat_whole(recorded.json["model"], {"content": "closed"}))
    else:
        yield Status(400, message=f"closed after {late_s:.1f} s", code="refused")


def _check_call(got: str, wanted: str) -> None:
    if (got, wanted) != (objects.CALL_ID, objects.CALL_ID):
        raise Refused(f"the answer to another call: {got}")


def _whole(body: Object) -> Status:
    return Status(200, _PRIVATE, body=objects.as_json(body))


def _stream(events: Iterable[bytes]) -> list[Step]:
    return [Headers(headers=_PRIVATE), *(Raw(event) for event in events)]


def _text_for(messages: list[Object], wanted: Object | None) -> str:
    """The answer: what was said and sent; or, where a schema is asked for, what fits it."""
    if wanted is not None:
        if not wanted["name"]:
            raise Refused("a schema without a name")
        return json.dumps(example(wanted["schema"]), ensure_ascii=False)
    return f"You said: {', then '.join(said(message['content']) for message in messages)}"


def _completions(asked: Object, _: Recorded) -> Script:
    prompt = asked["prompt"]
    text = f"You said: {prompt if isinstance(prompt, str) else prompt[0]}"
    if asked.get("stream"):
        return _stream(objects.completion_stream(asked["model"], text))
    return [_whole(objects.completion(asked["model"], text))]


def _embeddings(asked: Object, _: Recorded) -> Script:
    given = asked["input"]
    texts = [given] if isinstance(given, str) else given
    data = []
    for index, text in enumerate(texts):
        # Numbers that a float of 32 bits holds exactly, so that either encoding gives the same.
        vector: Any = [float(len(text)), 0.5, -1.25]
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": objects.PROMPT_TOKENS, "total_tokens": objects.PROMPT_TOKENS}
    return [_whole({"object": "list", "model": asked["model"], "data": data, "usage": usage})]


def _moderations(asked: Object, _: Recorded) -> Script:
    given = asked["input"]
    texts = [given] if isinstance(given, str) else given
    results = [objects.moderation(flagged="violence" in text) for text in texts]
    return [_whole({"id": "modr-1", "model": "omni-moderation-latest", "results": results})]


def _image(data: bytes) -> Script:
    image = {"b64_json": base64.b64encode(data).decode()}
    return [_whole({"created": objects.CREATED, "data": [image]})]


def _generations(asked: Object, _: Recorded) -> Script:
    return _image(sound(asked["prompt"]))


def _edits(form: dict[str, Part]) -> Script:
    """The image as it was sent, with the prompt's bytes behind it."""
    return _image(_file(form["image"]) + form["prompt"].data)


def _file(part: Part) -> bytes:
    if part.filename is None or not part.data:
        raise Refused(f"{part.name} is no file")
    return part.data


def _transcriptions(form: dict[str, Part]) -> Script:
    text = f"I heard {form['file'].filename}: {sha256(_file(form['file']))}"
    if "stream" in form and form["stream"].text == "true":
        return _stream(objects.transcript_stream(text))
    if "response_format" in form and form["response_format"].text == "text":
        plain = {**_PRIVATE, "content-type": "text/plain; charset=utf-8"}
        return [Status(200, plain, body=text + "\n")]
    return [_whole(objects.transcript(text))]


def _translations(form: dict[str, Part]) -> Script:
    return [_whole({"text": f"In English: {sha256(_file(form['file']))}"})]


def _rerank(asked: Object, _: Recorded) -> Script:
    words = set(asked["query"].split())
    documents = asked["documents"]
    scored = sorted(
        ((len(words & set(text.split())) / len(words), -at) for at, text in enumerate(documents)),
        reverse=True,
    )
    results = [
        {"index": -at, "document": {"text": documents[-at]}, "relevance_score": score}
        for score, at in scored[: asked.get("top_n") or len(scored)]
    ]
    usage = {"total_tokens": objects.PROMPT_TOKENS}
    return [_whole({"id": "rerank-1", "model": asked["model"], "usage": usage, "results": results})]


def _messages(asked: Object, recorded: Recorded) -> Script:
    if recorded.headers.get("anthropic-version") != "2023-06-01" or asked["max_tokens"] < 1:
        raise Refused("no anthropic-version, or no max_tokens")
    text = f"You said: {said(asked['messages'][-1]['content'])}"
    if asked.get("stream"):
        return _stream(objects.anthropic_stream(asked["model"], text))
    return [_whole(objects.anthropic_message(asked["model"], text))]
