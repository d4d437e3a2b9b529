"""openai's asynchronous client for Python: what is its own, above all that calls run side by side.

A part of python_openai.py's run; its features are called `async …`. Knows nothing of llmrelay.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai

from tests.clients.report import (
    ANSWER,
    FITTING,
    LIMIT_S,
    MODEL,
    PARAMETERS,
    PROMPT,
    RECORDING,
    SPEECH_GAP_S,
    Report,
    equal,
    sha256,
    sound,
)

report = Report()
client = openai.AsyncOpenAI(
    base_url=report.base_url, api_key=report.key, max_retries=0, timeout=LIMIT_S
)
AT_ONCE = 30


def saying(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


async def streamed(prompt: str) -> str:
    stream = await client.chat.completions.create(model=MODEL, messages=saying(prompt), stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@report("async chat")
async def chat() -> None:
    made = await client.chat.completions.create(model=MODEL, messages=saying(PROMPT))
    equal(made.choices[0].message.content, ANSWER)


@report("async chat, streamed")
async def chat_stream() -> None:
    equal(await streamed(PROMPT), ANSWER)


@report("async many at once")
async def many() -> None:
    """None gets another's answer."""
    prompts = [f"prompt number {number} " * (number + 1) for number in range(AT_ONCE)]
    answers = await asyncio.gather(*(streamed(prompt) for prompt in prompts))
    equal(answers, [f"You said: {prompt}" for prompt in prompts])


@report("async tools, streamed")
async def tools() -> None:
    tool: Any = {"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}
    asking = client.chat.completions.stream(model=MODEL, messages=saying(PROMPT), tools=[tool])
    async with asking as stream:
        final = await stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    equal((call.function.name, json.loads(call.function.arguments)), ("forecast", FITTING))


@report("async responses, streamed")
async def responses() -> None:
    async with client.responses.stream(model=MODEL, input=PROMPT) as stream:
        kinds = [event.type async for event in stream]
        equal((await stream.get_final_response()).output_text, ANSWER)
    equal((kinds[0], kinds[-1]), ("response.created", "response.completed"))


@report("async embeddings")
async def embeddings() -> None:
    made = await client.embeddings.create(model=MODEL, input="abc")
    equal(made.data[0].embedding, [3.0, 0.5, -1.25])


@report("async transcription")
async def transcription() -> None:
    made = await client.audio.transcriptions.create(model=MODEL, file=("a.wav", RECORDING))
    equal(made.text, f"I heard a.wav: {sha256(RECORDING)}")


@report("async speech, as it comes")
async def speech() -> None:
    making = client.audio.speech.with_streaming_response
    async with making.create(model=MODEL, voice="alloy", input=PROMPT) as response:
        arrived = [(time.monotonic(), piece) async for piece in response.iter_bytes()]
    equal(b"".join(piece for _, piece in arrived), sound(PROMPT))
    gap_s = arrived[-1][0] - arrived[0][0]
    assert gap_s > SPEECH_GAP_S, f"all of it came within {gap_s:.3f} s"


async def check_closed(prompt: str) -> None:
    """Upstream answers once the client of the endless answer to this prompt has left, in time."""
    made = await client.chat.completions.create(model="was-closed", messages=saying(prompt))
    equal(made.choices[0].message.content, "closed")


@report("async cancelled midway")
async def cancel() -> None:
    """As a task that is reading is cancelled."""
    begun = asyncio.Event()

    async def read() -> None:
        stream = await client.chat.completions.create(
            model="endless", messages=saying("python, async"), stream=True
        )
        async with stream:
            async for _ in stream:
                begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    await asyncio.wait([reading])
    await check_closed("python, async")


@report("async responses, cancelled midway")
async def cancel_responses() -> None:
    stream = await client.responses.create(model="endless", input="python responds", stream=True)
    equal((await anext(aiter(stream))).type, "response.created")
    await stream.close()
    await check_closed("python responds")


@report("async rate limit")
async def rate_limit() -> None:
    try:
        await client.chat.completions.create(model="busy", messages=saying(PROMPT))
    except openai.RateLimitError as error:
        equal(error.response.headers["retry-after"], "7")
        return
    raise AssertionError("no error")


@report("async error midway")
async def error_midway() -> None:
    texts = []
    try:
        stream = await client.chat.completions.create(
            model="broken-midway", messages=saying(PROMPT), stream=True
        )
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
    except openai.APIError as error:
        equal((type(error), texts), (openai.APIError, ["one", " two"]))
        return
    raise AssertionError(f"no error behind {texts}")
