"""litellm as a client: what it asks of an OpenAI-compatible API, and its own errors.

`python -m tests.clients litellm_client BASE_URL KEY`. `openai/NAME` is how it is told that a base
URL speaks OpenAI's language. Knows nothing of llmrelay.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import litellm  # type: ignore[import-not-found]
import openai
import pydantic

from tests.clients.report import (
    ANSWER,
    FITTING,
    LIMIT_S,
    MODEL,
    PARAMETERS,
    PICTURE,
    PROMPT,
    RECORDING,
    Report,
    equal,
    sha256,
    sound,
)

report = Report()
litellm.suppress_debug_info = True
HERE: dict[str, Any] = {
    "api_base": report.base_url,
    "api_key": report.key,
    "max_retries": 0,
    "timeout": LIMIT_S,
}
ASKED = [{"role": "user", "content": PROMPT}]
TOOL = {"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}


class Trip(pydantic.BaseModel):
    city: str
    days: int


def complete(model: str = MODEL, messages: list[Any] = ASKED, **options: Any) -> Any:
    return litellm.completion(f"openai/{model}", messages, **(HERE | options))


@report("chat")
def chat() -> None:
    made = complete()
    equal((made.choices[0].message.content, made.usage.total_tokens), (ANSWER, 18))


@report("chat, streamed")
def chat_stream() -> None:
    texts = [chunk.choices[0].delta.content or "" for chunk in complete(stream=True)]
    equal("".join(texts), ANSWER)
    assert len(texts) > 5, texts


@report("chat, streamed, with usage")
def chat_stream_usage() -> None:
    *_, last = complete(stream=True, stream_options={"include_usage": True})
    equal(last.usage.total_tokens, 18)


@report("async chat")
async def async_chat() -> None:
    made = await litellm.acompletion(f"openai/{MODEL}", ASKED, **HERE)
    equal(made.choices[0].message.content, ANSWER)


@report("async chat, streamed")
async def async_stream() -> None:
    stream = await litellm.acompletion(f"openai/{MODEL}", ASKED, stream=True, **HERE)
    equal("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), ANSWER)


@report("tools")
def tools() -> None:
    message = complete(tools=[TOOL]).choices[0].message
    [call] = message.tool_calls
    equal((call.function.name, json.loads(call.function.arguments)), ("forecast", FITTING))
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    made = complete(messages=[*ASKED, message.model_dump(), result], tools=[TOOL])
    equal(made.choices[0].message.content, "You said: sunny")


@report("tools, streamed")
def tools_stream() -> None:
    whole = litellm.stream_chunk_builder(list(complete(tools=[TOOL], stream=True)))
    [call] = whole.choices[0].message.tool_calls
    equal((call.function.name, json.loads(call.function.arguments)), ("forecast", FITTING))


@report("structured output")
def structured() -> None:
    text = complete(response_format=Trip).choices[0].message.content
    equal(Trip.model_validate_json(text), Trip.model_validate(FITTING))


@report("image in a message")
def image() -> None:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": url}}]
    made = complete(messages=[{"role": "user", "content": parts}])
    equal(made.choices[0].message.content, f"You said: Look: {sha256(PICTURE)}")


@report("completions")
def completions() -> None:
    made = litellm.text_completion(PROMPT, f"text-completion-openai/{MODEL}", **HERE)
    equal(made.choices[0].text, ANSWER)


@report("responses")
def responses() -> None:
    made = litellm.responses(PROMPT, f"openai/{MODEL}", **HERE)
    equal(made.output[0].content[0].text, ANSWER)


@report("responses, streamed")
def responses_stream() -> None:
    events = list(litellm.responses(PROMPT, f"openai/{MODEL}", stream=True, **HERE))
    texts = [each.delta for each in events if each.type == "response.output_text.delta"]
    equal("".join(texts), ANSWER)
    equal(events[-1].type, "response.completed")


@report("embeddings")
def embeddings() -> None:
    made = litellm.embedding(f"openai/{MODEL}", ["a", "abc"], encoding_format="float", **HERE)
    equal([each["embedding"] for each in made.data], [[1.0, 0.5, -1.25], [3.0, 0.5, -1.25]])


@report("images")
def images() -> None:
    made = litellm.image_generation(PROMPT, f"openai/{MODEL}", **HERE)
    equal(base64.b64decode(made.data[0].b64_json), sound(PROMPT))


@report("transcription")
def transcription() -> None:
    made = litellm.transcription(f"openai/{MODEL}", ("a.wav", RECORDING), **HERE)
    equal(made.text, f"I heard a.wav: {sha256(RECORDING)}")


@report("speech")
def speech() -> None:
    made = litellm.speech(f"openai/{MODEL}", PROMPT, "alloy", **HERE)
    equal(made.content, sound(PROMPT))


@report("rerank")
def rerank() -> None:
    """By the provider that names a server of one's own; OpenAI has no such path."""
    documents = ["the sun", "rain and snow"]
    made = litellm.rerank(f"hosted_vllm/{MODEL}", "snow and rain", documents, top_n=1, **HERE)
    [best] = made.results
    equal((best["index"], best["relevance_score"]), (1, 1.0))


@report("messages")
async def messages() -> None:
    """Anthropic's, by litellm's provider for that."""
    made = await litellm.anthropic_messages(
        messages=ASKED, model=f"anthropic/{MODEL}", max_tokens=100,
        api_base=report.base_url.removesuffix("/v1"), api_key=report.key,
    )  # fmt: skip
    equal(made["content"][0]["text"], ANSWER)


@report("cancelled midway")
async def cancel() -> None:
    asked = [{"role": "user", "content": "litellm"}]
    stream = await litellm.acompletion("openai/endless", asked, stream=True, **HERE)
    equal((await anext(aiter(stream))).choices[0].delta.content, "one")
    await stream.aclose()
    # Upstream answers once the client of the endless answer to this prompt has left, in time.
    made = await litellm.acompletion("openai/was-closed", asked, **HERE)
    equal(made.choices[0].message.content, "closed")


def refusal(model: str, **options: Any) -> Any:
    try:
        complete(model, **options)
    except openai.APIStatusError as error:  # all of its own are one
        return error
    raise AssertionError("no error")


@report("unknown model")
def unknown_model() -> None:
    equal(type(refusal("no-such-model")), litellm.NotFoundError)


@report("rate limit")
def rate_limit() -> None:
    error = refusal("busy")
    equal(type(error), litellm.RateLimitError)
    equal(error.response.headers["retry-after"], "7")


@report("wrong token")
def wrong_token() -> None:
    equal(type(refusal(MODEL, api_key="not-a-token-of-anybody")), litellm.AuthenticationError)


@report("upstream refuses the key")
def upstream_auth() -> None:
    error = refusal("wrong-key")
    assert isinstance(error, litellm.InternalServerError | litellm.BadGatewayError), type(error)


def fails_midway(model: str) -> str:
    """What is said of an answer that breaks."""
    texts = []
    try:
        for chunk in complete(model, stream=True):
            texts.append(chunk.choices[0].delta.content)
    except litellm.exceptions.MidStreamFallbackError as error:
        # Every error in a stream becomes this one; what it was stands in its words.
        equal(texts, ["one", " two"])
        return str(error)
    raise AssertionError(f"no error behind {texts}")


@report("error midway")
def error_midway() -> None:
    said = fails_midway("broken-midway")
    assert "The server had an error" in said, said


@report("upstream lost midway")
def lost_midway() -> None:
    said = fails_midway("cut-midway")
    # That would be a connection that broke without a word.
    assert "Connection error" not in said, said


def run() -> None:
    report.run()
