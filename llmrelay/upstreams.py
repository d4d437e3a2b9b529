"""Upstreams by name: what `--upstream groq` stands for. Data, with the page that each row follows.

`llmrelay upstreams` prints the table, scripts/generate_docs.py makes docs/upstreams.md of it, and
serve fills in of a runner's upstream what the operator has not said: base URL, the key's variable,
auth and quirks. What the rows need of code is on the runner (runner_payload/upstream.py).

Imports only the standard library; knows no option, no runner and no HTTP. tests/helpers/providers
has a simulator for each row, which checks requests as the row's page documents them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownUpstream:
    """One provider, or one program that serves models.

    Attributes:
        title: its name, as it writes it.
        base_url: what the paths are appended to; None where it is the operator's own, which
            `--base-url` has to name: `example_url` shows its form.
        key_variable: the environment variable that its documentation puts the key in; None where
            no key is needed (one is sent all the same, and ignored).
        source: the page of its documentation that the row follows.
        paths: what of /v1 is served there, as clients of llmrelay ask for it.
        sdk: what of the openai package calls it: `openai` is AsyncOpenAI with the base URL and the
            key as Authorization: Bearer, `azure` is AsyncAzureOpenAI, `bedrock` and `vertex` are
            AsyncOpenAI with the provider of that name.
        native: those of `paths` that are the provider's own API and not its OpenAI-compatible one.
        key_header: the header that carries the key on `native` paths, and then nothing else does;
            "" for Authorization: Bearer as elsewhere.
        adapter: whose `native` paths have other URLs, bodies or headers than the client sent, which
            the runner translates; "" if the request goes up as it came.
        max_tokens: what the limit of an answer's length is called in a chat completion.
        usage: stream_options.include_usage may be sent; otherwise it is refused there.
        example_url: for `base_url` None, what it looks like.
        notes: quirks, and what is not served with the reason; whole sentences, for people.
    """

    title: str
    base_url: str | None
    key_variable: str | None
    source: str
    paths: tuple[str, ...]
    sdk: str = "openai"
    native: tuple[str, ...] = ()
    key_header: str = ""
    adapter: str = ""
    max_tokens: str = "max_tokens"
    usage: bool = True
    example_url: str = ""
    notes: str = ""


# OpenAI's name since its reasoning models, which refuse the old one.
_MAX_COMPLETION_TOKENS = "max_completion_tokens"

UPSTREAMS: dict[str, KnownUpstream] = {
    "openai": KnownUpstream(
        title="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        source="https://platform.openai.com/docs/api-reference",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "embeddings",
            "models",
            "moderations",
            "images/generations",
            "images/edits",
            "images/variations",
            "audio/transcriptions",
            "audio/translations",
            "audio/speech",
        ),
        max_tokens=_MAX_COMPLETION_TOKENS,
    ),
    "azure-openai": KnownUpstream(
        title="Azure OpenAI",
        base_url=None,
        key_variable="AZURE_OPENAI_API_KEY",
        source="https://learn.microsoft.com/en-us/azure/ai-foundry/openai/latest",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "embeddings",
            "models",
            "images/generations",
            "images/edits",
            "audio/transcriptions",
            "audio/translations",
            "audio/speech",
        ),
        sdk="azure",
        max_tokens=_MAX_COMPLETION_TOKENS,
        example_url="https://RESOURCE.openai.azure.com/openai/v1",
        notes="A model is the name of a deployment. A base URL that ends in /openai/v1 is the v1"
        " API, without api-version; at https://RESOURCE.openai.azure.com/openai the API of"
        " 2024-10-21 is called, with the deployment in the path.",
    ),
    "anthropic": KnownUpstream(
        title="Anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variable="ANTHROPIC_API_KEY",
        source="https://platform.claude.com/docs/en/api/openai-sdk",
        paths=("chat/completions", "messages", "models"),
        native=("messages", "models"),
        key_header="x-api-key",
        adapter="anthropic",
        notes="Chat completions are its OpenAI compatibility, messages and models its own API;"
        " anthropic-version 2023-06-01 is sent for a client that names none.",
    ),
    "google": KnownUpstream(
        title="Google Gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        source="https://ai.google.dev/gemini-api/docs/openai",
        paths=("chat/completions", "embeddings", "models", "images/generations"),
        notes="Its own API (models/NAME:generateContent) is not relayed: it is outside /v1, and"
        " puts the model into the path.",
    ),
    "mistral": KnownUpstream(
        title="Mistral",
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        source="https://docs.mistral.ai/api",
        paths=("chat/completions", "embeddings", "models", "moderations", "audio/transcriptions"),
        usage=False,
        notes="Refuses fields that it does not know; usage comes unasked with the last event."
        " audio/speech is not served: it takes voice_id and answers base64 in JSON, not audio.",
    ),
    "groq": KnownUpstream(
        title="Groq",
        base_url="https://api.groq.com/openai/v1",
        key_variable="GROQ_API_KEY",
        source="https://console.groq.com/docs/openai",
        paths=(
            "chat/completions",
            "responses",
            "models",
            "audio/transcriptions",
            "audio/translations",
            "audio/speech",
        ),
        max_tokens=_MAX_COMPLETION_TOKENS,
        notes="Refuses logprobs, logit_bias, top_logprobs, messages[].name and n other than 1.",
    ),
    "deepseek": KnownUpstream(
        title="DeepSeek",
        base_url="https://api.deepseek.com",
        key_variable="DEEPSEEK_API_KEY",
        source="https://api-docs.deepseek.com",
        paths=("chat/completions", "models"),
        notes="Keeps a waiting stream alive with comment lines. Its Anthropic API is served as"
        " upstream anthropic with the base URL https://api.deepseek.com/anthropic/v1.",
    ),
    "xai": KnownUpstream(
        title="xAI",
        base_url="https://api.x.ai/v1",
        key_variable="XAI_API_KEY",
        source="https://docs.x.ai/developers/rest-api-reference/inference",
        paths=(
            "chat/completions",
            "responses",
            "models",
            "images/generations",
            "images/edits",
        ),
        max_tokens=_MAX_COMPLETION_TOKENS,
        notes="images/edits takes JSON, not a form. messages is not served: xAI has deprecated it."
        " Speech is not served: its API is not OpenAI's.",
    ),
    "cohere": KnownUpstream(
        title="Cohere",
        base_url="https://api.cohere.ai/compatibility/v1",
        key_variable="COHERE_API_KEY",
        source="https://docs.cohere.com/docs/compatibility-api",
        paths=("chat/completions", "embeddings", "rerank", "models"),
        native=("rerank", "models"),
        adapter="cohere",
        usage=False,
        notes="rerank and models are its own API, at /v2/rerank and /v1/models of the same host;"
        " the list of models is translated. Refuses stream_options.",
    ),
    "openrouter": KnownUpstream(
        title="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        key_variable="OPENROUTER_API_KEY",
        source="https://openrouter.ai/docs/api/reference/overview",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "messages",
            "embeddings",
            "models",
            "rerank",
            "audio/transcriptions",
            "audio/speech",
        ),
        notes="Keeps a waiting stream alive with comment lines. An error after the head is an"
        " event with `error`, under status 200.",
    ),
    "huggingface": KnownUpstream(
        title="Hugging Face",
        base_url="https://router.huggingface.co/v1",
        key_variable="HF_TOKEN",
        source="https://huggingface.co/docs/inference-providers/index",
        paths=("chat/completions", "responses", "models"),
        notes="Other tasks (embeddings, images, speech) have no OpenAI-compatible API there, and"
        " are not served. An Inference Endpoint is served by --base-url https://HOST/v1.",
    ),
    "ollama": KnownUpstream(
        title="Ollama",
        base_url="http://127.0.0.1:11434/v1",
        key_variable=None,
        source="https://docs.ollama.com/api/openai-compatibility",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "messages",
            "embeddings",
            "models",
            "images/generations",
        ),
        notes="Ignores tool_choice, logit_bias, user and n. For ollama.com itself give --base-url"
        " https://ollama.com/v1, and its key.",
    ),
    "aws-bedrock": KnownUpstream(
        title="Amazon Bedrock",
        base_url=None,
        key_variable="AWS_BEARER_TOKEN_BEDROCK",
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/inference-chat-completions.html",
        paths=("chat/completions", "responses", "models"),
        sdk="bedrock",
        max_tokens=_MAX_COMPLETION_TOKENS,
        example_url="https://bedrock-runtime.REGION.amazonaws.com/openai/v1",
        notes="The key is a Bedrock API key. models is there at bedrock-mantle.REGION.api.aws/v1"
        " only. AWS credentials (SigV4) are not used: each body would be held whole to be signed."
        " Converse and InvokeModel are not relayed.",
    ),
    "vertex": KnownUpstream(
        title="Google Vertex AI",
        base_url=None,
        key_variable="CLOUDSDK_AUTH_ACCESS_TOKEN",
        source="https://docs.cloud.google.com/vertex-ai/generative-ai/docs/start/openai",
        paths=("chat/completions", "responses"),
        sdk="vertex",
        example_url="https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/global/endpoints"
        "/openapi",
        notes="The key is an access token (gcloud auth print-access-token) and lasts an hour: have"
        " it renewed in a key file, with --watch. responses is at .../publishers/openai/v1 in place"
        " of .../endpoints/openapi. There is no list of models.",
    ),
    "vllm": KnownUpstream(
        title="vLLM",
        base_url="http://127.0.0.1:8000/v1",
        key_variable=None,
        source="https://docs.vllm.ai/en/stable/serving/online_serving/",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "messages",
            "embeddings",
            "models",
            "rerank",
            "audio/transcriptions",
            "audio/translations",
        ),
        notes="Which of them answer depends on the model. Where it was started with a key, it wants"
        " that.",
    ),
    "llama.cpp": KnownUpstream(
        title="llama.cpp",
        base_url="http://127.0.0.1:8080/v1",
        key_variable=None,
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        paths=(
            "chat/completions",
            "completions",
            "responses",
            "messages",
            "embeddings",
            "models",
            "rerank",
        ),
        notes="llama-server; embeddings and rerank need a model and options for them. Where it was"
        " started with a key, it wants that.",
    ),
    "elevenlabs": KnownUpstream(
        title="ElevenLabs",
        base_url="https://api.elevenlabs.io/v1",
        key_variable="ELEVENLABS_API_KEY",
        source="https://elevenlabs.io/docs/api-reference/text-to-speech/stream",
        paths=("audio/speech", "audio/transcriptions", "models"),
        native=("audio/speech", "audio/transcriptions", "models"),
        key_header="xi-api-key",
        adapter="elevenlabs",
        notes="All is its own API, translated: audio/speech is /text-to-speech/VOICE/stream, where"
        " `voice` is one of its voice ids, audio/transcriptions is /speech-to-text.",
    ),
}

# Whatever else answers at --base-url: nothing is known of it, and nothing is added to requests.
OTHER = KnownUpstream(title="", base_url=None, key_variable=None, source="", paths=(), usage=False)

# Asked for by name now and then, and not to be had: name -> why.
UNSERVED: dict[str, str] = {
    "phind": "No public API of it is documented, neither OpenAI-compatible nor its own.",
}
