"""What each URL does: a request is read, a call is made of it, and relay.py does the rest.

The meaning of bodies and parameters is api/'s business, who takes the call the pool's. Here is what
needs both, and the order: nothing is read of a request before its head is known to be good.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from .api import chat, openai, plain
from .api.answers import Form, Raw
from .api.ops import JSON_HEADERS
from .api.parameters import GROUP_HEADER, parse_group
from .config import Config
from .errors import BadRequest, ModelNotFound
from .http.exchange import Exchange
from .relay import Body, relay
from .runners.attempts import Attempts
from .runners.models import ModelList
from .runners.pool import Pool
from .runners.selection import Ask


class Endpoints:
    """The handlers of all that runners answer."""

    def __init__(self, pool: Pool, config: Config) -> None:
        self._pool = pool
        self._config = config
        self._models = ModelList(pool, config)

    # --- For curl -------------------------------------------------------------------------------

    async def chat(self, exchange: Exchange) -> None:
        """`POST /chat`: a prompt in, text out."""
        chat.check_head(exchange.request)
        asked = chat.parse(exchange.request, await exchange.read_body(), self._config)
        call = asked.call
        exchange.log_fields["model"] = call.model
        opening = self._opening(call.model, call.system, asked.body)
        ask = Ask(call.model, asked.group, exchange.asker, opening)
        attempts = Attempts(self._pool, ask, call, self._config)
        body, form = Body(asked.body), asked.form
        del asked  # the body is in Body alone, which forgets it once it is not needed
        await relay(exchange, attempts, body, form, self._config)

    async def speak(self, exchange: Exchange) -> None:
        """`POST /speak`: text in, sound out."""
        await self._post(exchange, plain.Speech(exchange.request, self._config))

    async def embed(self, exchange: Exchange) -> None:
        """`POST /embed`: text in, its embedding out."""
        await self._post(exchange, plain.Embedding(exchange.request, self._config))

    async def _post(self, exchange: Exchange, asked: plain.Speech | plain.Embedding) -> None:
        body = Body(asked.body(await exchange.read_body()))
        exchange.log_fields["model"] = asked.model
        request = asked.request(exchange.request_id)
        ask = Ask(asked.model, asked.group, exchange.asker)
        attempts = Attempts(self._pool, ask, request, self._config)
        await relay(exchange, attempts, body, Raw, self._config)

    async def transcribe(self, exchange: Exchange) -> None:
        """`POST /transcribe`: sound in, text out as it comes."""
        asked = plain.Transcription(exchange.request, self._config)
        begun, whole = await self._begin_upload(exchange)
        asked.begin(begun, whole=whole)
        exchange.log_fields["model"] = asked.model
        ask = Ask(asked.model, asked.group, exchange.asker)
        request = asked.upload(exchange.request_id, whole=whole)
        attempts = Attempts(self._pool, ask, request, self._config)
        begun = asked.before + begun + (asked.behind if whole else b"")
        body = Body(begun, whole, asked.behind, repeatable=whole)
        del begun
        await relay(exchange, attempts, body, plain.Transcript, self._config)

    async def _begin_upload(self, exchange: Exchange) -> tuple[bytes, bool]:
        """As much of a body as may be held: a call with all of it can be tried again."""
        config = self._config
        return await exchange.begin_upload(config.max_upload_bytes, config.max_body_bytes)

    # --- For clients of OpenAI's API ------------------------------------------------------------

    async def v1(self, exchange: Exchange) -> None:
        """`/v1/…`: what upstream says, byte for byte."""
        request = exchange.request
        path = openai.check_head(request, self._config)
        if openai.is_about_models(path):
            await self._list_models(exchange, unquote(path.partition("/")[2]))
            return
        begun, whole = b"", True
        subject = openai.Subject()
        if request.framing is None:
            pass
        elif openai.is_form(request):
            begun, whole = await self._begin_upload(exchange)
            subject = openai.subject_of_form(request, begun, whole=whole)
        elif begun := await exchange.read_body():
            subject = openai.subject_of_json(begun)
        if subject.model is not None:
            exchange.log_fields["model"] = subject.model
        upstream_request = openai.upstream_request(
            request, path, subject, exchange.request_id, streamed=not whole
        )
        opening = self._opening(subject.model or "", "", begun)
        ask = Ask(subject.model, _group(exchange), exchange.asker, opening)
        attempts = Attempts(self._pool, ask, upstream_request, self._config)
        body = Body(begun, whole, repeatable=whole and openai.is_repeatable(request, path))
        del begun
        await relay(exchange, attempts, body, _form(path, subject), self._config)

    async def _list_models(self, exchange: Exchange, name: str) -> None:
        """The models of all runners together, or one of them."""
        models = await self._models.union(named=exchange.trusted)
        if not name:
            exchange.respond(200, JSON_HEADERS, openai.model_list(models))
        elif name in models:
            exchange.respond(200, JSON_HEADERS, openai.one_model(models[name]))
        else:
            raise ModelNotFound(f"No runner serves the model {name!r}.")

    def _opening(self, model: str, system: str, body: bytes) -> bytes:
        """What tells a conversation, if that is of interest."""
        affinity = self._config.balance == "affinity"
        return chat.conversation(model, system, body) if affinity else b""


def _form(path: str, subject: openai.Subject) -> Callable[[], Form]:
    return lambda: Raw(events=subject.events, anthropic=path.startswith("messages"))


def _group(exchange: Exchange) -> str | None:
    """Below /v1 the query is upstream's: the group has its header."""
    group = exchange.request.headers.get(GROUP_HEADER)
    if group is None:
        return None
    try:
        return parse_group(group)
    except ValueError as error:
        raise BadRequest(f"{GROUP_HEADER} cannot be used: {error}.") from error
