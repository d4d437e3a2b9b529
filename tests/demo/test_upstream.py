"""The simulated upstream, read by OpenAI's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from llmrelay.demo import upstream
from llmrelay.errors import BadRequest

SYSTEM: Any = {"role": "system", "content": "Be brief."}
USER: Any = {"role": "user", "content": "Explain\n  SSH " + "at length " * 20}


@contextlib.asynccontextmanager
async def sdk() -> AsyncIterator[openai.AsyncOpenAI]:
    server = upstream.make_server()
    await server.start()
    base_url = f"http://{server.address}/v1"
    try:
        async with openai.AsyncOpenAI(api_key="k", base_url=base_url, max_retries=0) as client:
            yield client
    finally:
        await server.drain(0)


async def ask(client: openai.AsyncOpenAI, max_tokens: int | None = None) -> tuple[list[str], str]:
    """The deltas and the finish reason."""
    stream: Any = await client.chat.completions.create(
        model="a-model",
        messages=[SYSTEM, USER],
        stream=True,
        max_tokens=max_tokens or openai.omit,
    )
    choices = [chunk.choices[0] async for chunk in stream]
    assert choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    assert len(reasons) == 1
    return [choice.delta.content for choice in choices if choice.delta.content], reasons[0]


def test_the_sdk_reads_an_answer_that_says_that_it_is_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(upstream, "DELTAS_PER_S", 2000)
        async with sdk() as client:
            deltas, reason = await ask(client)
        text = "".join(deltas)
        assert text.startswith("This answer is simulated")
        assert "“Explain SSH at length " in text, "the prompt's beginning, on one line"
        assert text.count("at length") < 10, "not the whole prompt"
        assert "a-model" in text
        assert "“Be brief.”" in text
        assert len(deltas) > 40
        assert all(len(delta.split()) == 1 for delta in deltas), "word by word"
        assert reason == "stop"

    asyncio.run(main())


def test_deltas_come_at_the_pace_of_a_hosted_model() -> None:
    async def main() -> None:
        async with sdk() as client:
            loop = asyncio.get_running_loop()
            begun_at_s = loop.time()
            deltas, _ = await ask(client, max_tokens=7)
            assert len(deltas) == 7
            assert loop.time() - begun_at_s > 6 / upstream.DELTAS_PER_S

    asyncio.run(main())


def test_max_tokens_ends_an_answer_early_and_says_so() -> None:
    async def main() -> None:
        async with sdk() as client:
            assert await ask(client, max_tokens=2) == (["This ", "answer "], "length")

    asyncio.run(main())


def test_models_lists_the_default_model() -> None:
    async def main() -> None:
        async with sdk() as client:
            assert [model.id async for model in client.models.list()] == [upstream.MODEL]

    asyncio.run(main())


def test_an_answer_that_is_not_streamed_comes_as_one_object_and_images_are_let_be() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    seen: Any = {"role": "user", "content": [{"type": "text", "text": "See this"}, image]}

    async def main() -> None:
        async with sdk() as client:
            answer = await client.chat.completions.create(model="m", messages=[seen])
            assert "“See this”" in (answer.choices[0].message.content or "")
            assert answer.choices[0].finish_reason == "stop"

    asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"model":"m","messages":[],"stream":true}',
        b'{"model":"m","messages":[{"role":"user","content":["x"]}],"stream":true}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":-1}',
    ],
)
def test_a_body_that_asks_for_nothing_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        upstream.Asked.decode(body)
