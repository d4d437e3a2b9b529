"""openai for Python, as its users write it: all of the API's paths, whole and streamed.

`python -m tests.clients python_openai BASE_URL KEY`. What its asynchronous client does stands in
python_openai_async.py and runs behind it, as both take their time to be imported once. Knows
nothing of llmrelay.
"""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import openai
import pydantic

from tests.clients import python_openai_async
from tests.clients.report import (
    ANSWER,
    DOCUMENT,
    FITTING,
    LIMIT_S,
    MODEL,
    PARAMETERS,
    PICTURE,
    PROMPT,
    RECORDING,
    SPEECH_GAP_S,
    Report,
    equal,
    sha256,
    sound,
)

report = Report()
client = openai.OpenAI(base_url=report.base_url, api_key=report.key, max_retries=0, timeout=LIMIT_S)

Messages = list[Any]
ASKED: Messages = [{"role": "user", "content": PROMPT}]
TOOL: Any = {"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}
RESPONSES_TOOL: Any = {
    "type": "function",
    "name": "forecast",
    "parameters": PARAMETERS,
    "strict": True,
}


class Trip(pydantic.BaseModel):
    city: str
    days: int


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def answer_to(part: dict[str, Any]) -> str | None:
    """What is answered to a message with one more part than text."""
    content: Any = [{"type": "text", "text": "Look:"}, part]
    made = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}]
    )
    return made.choices[0].message.content


# --- chat/completions ---------------------------------------------------------------------------


@report("chat")
def chat() -> None:
    made = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0.5)
    equal(made.choices[0].message.content, ANSWER)
    equal((made.model, made.choices[0].finish_reason), (MODEL, "stop"))
    assert made.usage is not None
    equal(made.usage.total_tokens, 18)


@report("chat, streamed")
def chat_stream() -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASKED, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    equal("".join(texts), ANSWER)
    assert len(texts) > 5, texts
    equal({chunk.usage for chunk in chunks}, {None})


@report("chat, streamed, with usage")
def chat_stream_usage() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream
    equal(last.choices, [])
    assert last.usage is not None
    equal(last.usage.total_tokens, 18)


@report("tools")
def tools() -> None:
    made = client.chat.completions.create(model=MODEL, messages=ASKED, tools=[TOOL])
    message = made.choices[0].message
    [call] = message.tool_calls or []
    assert call.type == "function"
    equal((call.function.name, json.loads(call.function.arguments)), ("forecast", FITTING))
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    further: Messages = [*ASKED, message.model_dump(exclude_none=True), result]
    made = client.chat.completions.create(model=MODEL, messages=further, tools=[TOOL])
    equal(made.choices[0].message.content, "You said: sunny")


@report("tools, streamed")
def tools_stream() -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASKED, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert kinds.count("tool_calls.function.arguments.delta") > 1, kinds
    equal((call.function.name, json.loads(call.function.arguments)), ("forecast", FITTING))


@report("structured output")
def structured() -> None:
    made = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Trip)
    equal(made.choices[0].message.parsed, Trip.model_validate(FITTING))


@report("image in a message")
def image() -> None:
    url = data_url("image/png", PICTURE)
    part = {"type": "image_url", "image_url": {"url": url}}
    equal(answer_to(part), f"You said: Look: {sha256(PICTURE)}")


@report("file in a message")
def file() -> None:
    url = data_url("application/pdf", DOCUMENT)
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": url}}
    equal(answer_to(part), f"You said: Look: {sha256(DOCUMENT)}")


@report("audio in a message")
def audio() -> None:
    data = base64.b64encode(RECORDING).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    equal(answer_to(part), f"You said: Look: {sha256(RECORDING)}")


# --- Texts --------------------------------------------------------------------------------------


@report("completions")
def completions() -> None:
    made = client.completions.create(model=MODEL, prompt=PROMPT)
    equal(made.choices[0].text, ANSWER)


@report("completions, streamed")
def completions_stream() -> None:
    stream = client.completions.create(model=MODEL, prompt=PROMPT, stream=True)
    equal("".join(chunk.choices[0].text for chunk in stream), ANSWER)


@report("responses")
def responses() -> None:
    made = client.responses.create(model=MODEL, input=PROMPT, instructions="Repeat it.")
    equal((made.output_text, made.status), (ANSWER, "completed"))
    assert made.usage is not None
    equal(made.usage.total_tokens, 18)


@report("responses, streamed")
def responses_stream() -> None:
    events = list(client.responses.create(model=MODEL, input=PROMPT, stream=True))
    kinds = [event.type for event in events]
    equal((kinds[0], kinds[-1]), ("response.created", "response.completed"))
    equal([event.sequence_number for event in events], list(range(len(events))))
    texts = [each.delta for each in events if each.type == "response.output_text.delta"]
    equal("".join(texts), ANSWER)


@report("responses, tools")
def responses_tools() -> None:
    made = client.responses.create(model=MODEL, input=PROMPT, tools=[RESPONSES_TOOL])
    [call] = made.output
    assert call.type == "function_call"
    equal((call.name, json.loads(call.arguments)), ("forecast", FITTING))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    further: Messages = [*ASKED, call.model_dump(exclude_none=True), result]
    made = client.responses.create(model=MODEL, input=further, tools=[RESPONSES_TOOL])
    equal(made.output_text, "You said: sunny")


@report("responses, structured output")
def responses_structured() -> None:
    made = client.responses.parse(model=MODEL, input=PROMPT, text_format=Trip)
    equal(made.output_parsed, Trip.model_validate(FITTING))


@report("embeddings")
def embeddings() -> None:
    # The library asks for base64 if it is not told; the numbers are the same.
    floats = client.embeddings.create(model=MODEL, input=["a", "abc"], encoding_format="float")
    binary = client.embeddings.create(model=MODEL, input=["a", "abc"])
    wanted = [[1.0, 0.5, -1.25], [3.0, 0.5, -1.25]]
    equal([each.embedding for each in floats.data], wanted)
    equal([each.embedding for each in binary.data], wanted)


@report("moderations")
def moderations() -> None:
    made = client.moderations.create(input=["peace", "violence"])
    equal([result.flagged for result in made.results], [False, True])


@report("models")
def models() -> None:
    assert MODEL in [model.id for model in client.models.list()]


# --- Pictures and sound -------------------------------------------------------------------------


@report("images")
def images() -> None:
    made = client.images.generate(model=MODEL, prompt=PROMPT)
    assert made.data is not None
    equal(base64.b64decode(made.data[0].b64_json or ""), sound(PROMPT))


@report("images, edited")
def images_edit() -> None:
    picture = ("a.png", PICTURE, "image/png")
    made = client.images.edit(model=MODEL, image=picture, prompt=PROMPT)
    assert made.data is not None
    equal(base64.b64decode(made.data[0].b64_json or ""), PICTURE + PROMPT.encode())


@report("transcription")
def transcription() -> None:
    recording = io.BytesIO(RECORDING)
    recording.name = "a.wav"
    made = client.audio.transcriptions.create(model=MODEL, file=recording)
    equal(made.text, f"I heard a.wav: {sha256(RECORDING)}")


@report("transcription as text")
def transcription_text() -> None:
    made = client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", RECORDING), response_format="text"
    )
    equal(made, f"I heard a.wav: {sha256(RECORDING)}\n")


@report("transcription, streamed")
def transcription_stream() -> None:
    stream = client.audio.transcriptions.create(model=MODEL, file=("a.wav", RECORDING), stream=True)
    events = list(stream)
    texts = [each.delta for each in events if each.type == "transcript.text.delta"]
    equal("".join(texts), f"I heard a.wav: {sha256(RECORDING)}")
    equal(events[-1].type, "transcript.text.done")


@report("translation")
def translation() -> None:
    made = client.audio.translations.create(model=MODEL, file=("a.wav", RECORDING))
    equal(made.text, f"In English: {sha256(RECORDING)}")


@report("speech, as it comes")
def speech() -> None:
    making = client.audio.speech.with_streaming_response
    with making.create(model=MODEL, voice="alloy", input=PROMPT) as response:
        equal(response.headers["content-type"], "audio/mpeg")
        arrived = [(time.monotonic(), piece) for piece in response.iter_bytes()]
    equal(b"".join(piece for _, piece in arrived), sound(PROMPT))
    gap_s = arrived[-1][0] - arrived[0][0]
    assert gap_s > SPEECH_GAP_S, f"all of it came within {gap_s:.3f} s"


# --- What does not go well ----------------------------------------------------------------------


def check_closed(prompt: str) -> None:
    """Upstream answers once the client of the endless answer to this prompt has left, in time."""
    messages: Messages = [{"role": "user", "content": prompt}]
    made = client.chat.completions.create(model="was-closed", messages=messages)
    equal(made.choices[0].message.content, "closed")


@report("cancelled midway")
def cancel() -> None:
    messages: Messages = [{"role": "user", "content": "python"}]
    stream = client.chat.completions.create(model="endless", messages=messages, stream=True)
    equal(next(iter(stream)).choices[0].delta.content, "one")
    stream.close()
    check_closed("python")


@report("speech, cancelled midway")
def cancel_speech() -> None:
    making = client.audio.speech.with_streaming_response
    with making.create(model="endless", voice="alloy", input="python speaks") as response:
        assert next(response.iter_bytes())
    check_closed("python speaks")


def refusal(model: str, key: str | None = None) -> openai.APIStatusError:
    asking = client.with_options(api_key=key) if key else client
    try:
        asking.chat.completions.create(model=model, messages=ASKED)
    except openai.APIStatusError as error:
        return error
    raise AssertionError("no error")


@report("unknown model")
def unknown_model() -> None:
    error = refusal("no-such-model")
    equal((type(error), error.code), (openai.NotFoundError, "model_not_found"))


@report("rate limit")
def rate_limit() -> None:
    error = refusal("busy")
    equal((type(error), error.code), (openai.RateLimitError, "rate_limit_exceeded"))
    equal(error.response.headers["retry-after"], "7")


@report("rate limit, retried")
def rate_limit_retried() -> None:
    since_s = time.monotonic()
    messages: Messages = [{"role": "user", "content": "python, again"}]
    made = client.with_options(max_retries=1).chat.completions.create(
        model="busy-once", messages=messages
    )
    equal(made.choices[0].message.content, "You said: python, again")
    assert time.monotonic() - since_s > 1, "sooner than Retry-After said"


@report("wrong token")
def wrong_token() -> None:
    equal(type(refusal(MODEL, "not-a-token-of-anybody")), openai.AuthenticationError)


@report("upstream refuses the key")
def upstream_auth() -> None:
    error = refusal("wrong-key")
    equal((type(error), error.code), (openai.InternalServerError, "upstream_auth"))


def fails_midway(model: str) -> None:
    texts = []
    try:
        for chunk in client.chat.completions.create(model=model, messages=ASKED, stream=True):
            texts.append(chunk.choices[0].delta.content)
    except openai.APIError as error:
        # What a connection that broke raises is one, too; here the error was told.
        equal((type(error), texts), (openai.APIError, ["one", " two"]))
        return
    raise AssertionError(f"no error behind {texts}")


@report("error midway")
def error_midway() -> None:
    fails_midway("broken-midway")


@report("upstream lost midway")
def lost_midway() -> None:
    fails_midway("cut-midway")


@report("headers")
def headers() -> None:
    # Upstream refuses a request with either of them.
    own = {"Cookie": "session=of-the-client", "X-Api-Key": "of-the-client"}
    making = client.chat.completions.with_raw_response
    raw = making.create(model=MODEL, messages=ASKED, extra_headers=own)
    equal(raw.headers["content-type"].partition(";")[0], "application/json")
    assert raw.headers["x-request-id"].startswith("req_"), raw.headers
    equal(raw.headers.get("set-cookie"), None)


def run() -> None:
    report.run()
    python_openai_async.report.run()
