"""langchain-openai: its chat model over both of OpenAI's APIs, and its embeddings.

`python -m tests.clients langchain_client BASE_URL KEY`. Its errors are openai's. Knows nothing of
llmrelay.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import openai
import pydantic
from langchain_core.messages import HumanMessage, ToolMessage  # type: ignore[import-not-found]
from langchain_core.tools import tool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # type: ignore[import-not-found]

from tests.clients.report import (
    ANSWER,
    FITTING,
    LIMIT_S,
    MODEL,
    PICTURE,
    PROMPT,
    Report,
    equal,
    sha256,
)

report = Report()


class Trip(pydantic.BaseModel):
    """A journey."""

    city: str
    days: int


@tool  # type: ignore[untyped-decorator]
def forecast(city: str, days: int) -> str:
    """The weather to come."""
    return f"{days} days of sun in {city}"


def llm(model: str = MODEL, key: str = report.key, **options: Any) -> Any:
    common = {"max_retries": 0, "timeout": LIMIT_S, **options}
    return ChatOpenAI(model=model, base_url=report.base_url, api_key=key, **common)


@report("chat")
def chat() -> None:
    made = llm().invoke(PROMPT)
    equal((made.content, made.usage_metadata["total_tokens"]), (ANSWER, 18))
    equal(made.response_metadata["finish_reason"], "stop")


@report("chat, streamed")
def chat_stream() -> None:
    texts = [chunk.content for chunk in llm(stream_usage=False).stream(PROMPT)]
    equal("".join(texts), ANSWER)
    assert len([text for text in texts if text]) > 5, texts


@report("chat, streamed, with usage")
def chat_stream_usage() -> None:
    whole, *more = llm(stream_usage=True).stream(PROMPT)
    for chunk in more:
        whole += chunk
    equal((whole.content, whole.usage_metadata["total_tokens"]), (ANSWER, 18))


@report("async chat")
async def async_chat() -> None:
    equal((await llm().ainvoke(PROMPT)).content, ANSWER)


@report("async chat, streamed")
async def async_stream() -> None:
    equal("".join([chunk.content async for chunk in llm().astream(PROMPT)]), ANSWER)


@report("async many at once")
async def many() -> None:
    prompts = [f"prompt number {number}" for number in range(20)]
    made = await llm().abatch(prompts)
    equal([each.content for each in made], [f"You said: {prompt}" for prompt in prompts])


@report("tools")
def tools() -> None:
    bound = llm().bind_tools([forecast])
    asked = [HumanMessage(PROMPT)]
    called = bound.invoke(asked)
    [call] = called.tool_calls
    equal((call["name"], call["args"]), ("forecast", FITTING))
    result = ToolMessage(forecast.invoke(call["args"]), tool_call_id=call["id"])
    equal(bound.invoke([*asked, called, result]).content, "You said: 21 days of sun in Zürich")


@report("tools, streamed")
def tools_stream() -> None:
    whole, *more = llm().bind_tools([forecast]).stream(PROMPT)
    for chunk in more:
        whole += chunk
    [call] = whole.tool_calls
    equal((call["name"], call["args"]), ("forecast", FITTING))


@report("structured output")
def structured() -> None:
    asking = llm().with_structured_output(Trip, method="json_schema")
    equal(asking.invoke(PROMPT), Trip.model_validate(FITTING))


@report("image in a message")
def image() -> None:
    data = base64.b64encode(PICTURE).decode()
    part = {"type": "image", "base64": data, "mime_type": "image/png"}
    asked = HumanMessage(content=[{"type": "text", "text": "Look:"}, part])
    equal(llm().invoke([asked]).content, f"You said: Look: {sha256(PICTURE)}")


@report("responses")
def responses() -> None:
    equal(llm(use_responses_api=True).invoke(PROMPT).text, ANSWER)


@report("responses, streamed")
def responses_stream() -> None:
    whole, *more = llm(use_responses_api=True).stream(PROMPT)
    for chunk in more:
        whole += chunk
    equal(whole.text, ANSWER)


@report("responses, tools")
def responses_tools() -> None:
    called = llm(use_responses_api=True).bind_tools([forecast]).invoke(PROMPT)
    [call] = called.tool_calls
    equal((call["name"], call["args"]), ("forecast", FITTING))


@report("embeddings")
def embeddings() -> None:
    # Without the check, which counts tokens by a table that it fetches from the internet.
    maker = OpenAIEmbeddings(
        model=MODEL, base_url=report.base_url, api_key=report.key, check_embedding_ctx_length=False
    )
    equal(maker.embed_documents(["a", "abc"]), [[1.0, 0.5, -1.25], [3.0, 0.5, -1.25]])


@report("async cancelled midway")
async def cancel() -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in llm("endless").astream("langchain"):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    await asyncio.wait([reading])
    # Upstream answers once the client of the endless answer to this prompt has left, in time.
    equal((await llm("was-closed").ainvoke("langchain")).content, "closed")


def refusal(model: str, **options: Any) -> openai.APIStatusError:
    try:
        llm(model, **options).invoke(PROMPT)
    except openai.APIStatusError as error:
        return error
    raise AssertionError("no error")


@report("unknown model")
def unknown_model() -> None:
    error = refusal("no-such-model")
    # Its own class, where it has one, is openai's too.
    assert isinstance(error, openai.NotFoundError), type(error)
    equal(error.code, "model_not_found")


@report("rate limit")
def rate_limit() -> None:
    error = refusal("busy")
    assert isinstance(error, openai.RateLimitError), type(error)
    equal(error.response.headers["retry-after"], "7")


@report("wrong token")
def wrong_token() -> None:
    error = refusal(MODEL, key="not-a-token-of-anybody")
    assert isinstance(error, openai.AuthenticationError), type(error)


@report("upstream refuses the key")
def upstream_auth() -> None:
    error = refusal("wrong-key")
    assert isinstance(error, openai.InternalServerError), type(error)
    equal(error.code, "upstream_auth")


def fails_midway(model: str) -> None:
    texts = []
    try:
        for chunk in llm(model).stream(PROMPT):
            texts.append(chunk.content)
    except openai.APIError as error:
        equal((type(error), texts), (openai.APIError, ["one", " two"]))
        return
    raise AssertionError(f"no error behind {texts}")


@report("error midway")
def error_midway() -> None:
    fails_midway("broken-midway")


@report("upstream lost midway")
def lost_midway() -> None:
    fails_midway("cut-midway")


def run() -> None:
    report.run()
