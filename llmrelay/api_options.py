"""The options of the API: which models answer where none is named, and what of /v1 there is.

A part of Config, by inheritance, in a file of its own: config.py says what holds for every option.
"""

from __future__ import annotations

from dataclasses import dataclass

from .option import option
from .values import count, duration, number, one_of, parse_api_path, parse_model, parse_word

MODEL = "Model"
API = "API"

# What clients of OpenAI's API ask for, and the two that other upstreams have besides.
_PATHS = (
    "chat/completions",
    "completions",
    "responses",
    "responses/*",
    "responses/*/*",
    "embeddings",
    "models",
    "models/*",
    "moderations",
    "images/*",
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "rerank",
    "messages",
    "messages/count_tokens",
)


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """What is asked for where a request does not say, and what of /v1 there is."""

    model: str = option(
        "--model",
        "NAME",
        parse_model,
        "gpt-4o-mini",
        "The model, where a request names none.",
        MODEL,
    )
    system: str = option(
        "--system",
        "TEXT",
        str,
        "You are a concise and helpful assistant.",
        "The system prompt; an empty one sends none.",
        MODEL,
    )
    max_tokens: int = option(
        "--max-tokens",
        "N",
        count(1),
        1024,
        "The longest answer, in tokens: bounds what a prompt can cost.",
        MODEL,
    )
    temperature: float | None = option(
        "--temperature",
        "X",
        number(0, 2),
        None,
        "Sampling temperature; else upstream's own.",
        MODEL,
    )
    top_p: float | None = option(
        "--top-p",
        "X",
        number(0, 1),
        None,
        "Nucleus sampling; else upstream's own.",
        MODEL,
    )
    transcription_model: str = option(
        "--transcription-model",
        "NAME",
        parse_model,
        "gpt-4o-mini-transcribe",
        "The model of /transcribe.",
        MODEL,
    )
    speech_model: str = option(
        "--speech-model",
        "NAME",
        parse_model,
        "gpt-4o-mini-tts",
        "The model of /speak.",
        MODEL,
    )
    voice: str = option(
        "--voice",
        "NAME",
        parse_word,
        "alloy",
        "The voice of /speak.",
        MODEL,
    )
    embedding_model: str = option(
        "--embedding-model",
        "NAME",
        parse_model,
        "text-embedding-3-small",
        "The model of /embed.",
        MODEL,
    )

    allowed_paths: tuple[str, ...] = option(
        "--allow-path",
        "PATH",
        parse_api_path,
        _PATHS,
        "What of upstream's API clients may ask for below /v1; * stands for one part of a path.",
        API,
        repeated=True,
    )
    heartbeat_s: float = option(
        "--heartbeat",
        "TIME",
        duration(0, 3600),
        15.0,
        "A stream without a byte so far is opened, and told so often that it is alive, for the"
        " sake of proxies; errors then come in it. 0 for never.",
        API,
    )
    usage: str = option(
        "--usage",
        "HOW",
        one_of("auto", "on", "off"),
        "auto",
        "Have upstream count the tokens of streams for the log, unseen by clients; auto: where the"
        " upstream is one that is known to (llmrelay upstreams).",
        API,
    )
    models_ttl_s: float = option(
        "--models-ttl",
        "TIME",
        duration(0, 86400),
        60.0,
        "How long a runner's list of models is used for GET /v1/models.",
        API,
    )
