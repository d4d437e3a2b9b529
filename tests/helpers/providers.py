"""A simulator of each provider, on a real loopback socket: it checks what is asked, and answers.

`async with Provider("mistral", KEY) as provider:` serves what Mistral documents and nothing else
(provider_rules.py), in Mistral's shapes (provider_answers.py, provider_errors.py). A request that
Mistral would not take is answered with a 4xx as Mistral has it, and is a mistake of the test: see
`mistakes`. The name of the model asks for an error: `REVOKED`, `RATE_LIMITED`, `BREAKS`.

Builds on the scripted upstream. It may not know llmrelay. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.helpers import provider_answers as answers
from tests.helpers.provider_errors import BAD_KEY, INVALID, LIMITED, refusal
from tests.helpers.provider_rules import RULES, Wrong, check, check_fields
from tests.helpers.upstream import HOST, ScriptedUpstream
from tests.helpers.upstream_connection import Recorded
from tests.helpers.upstream_script import Headers, Raw, Script, Status, Step

# Models that answer with an error.
REVOKED = "revoked-key"
RATE_LIMITED = "rate-limited"
# This one breaks in its stream.
BREAKS = "breaks"

# What comes down with every answer, and may not go further: it is ours, or names the account.
PRIVATE_HEADERS = {
    "set-cookie": "__cf_bm=simulated; path=/; HttpOnly; Secure",
    "openai-organization": "org-simulated",
}
REQUEST_ID = "req_simulated"


class Provider(ScriptedUpstream):
    """One provider.

    Attributes:
        mistakes: what was wrong with the requests so far; raised, too, when the context ends.
    """

    def __init__(self, name: str, key: str) -> None:
        super().__init__()
        self.name = name
        self.mistakes: list[str] = []
        self._rules = RULES[name]
        self._key = key

    @property
    def origin(self) -> str:
        """Its scheme, host and port, before the paths that it documents."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}{self._rules.base_path}"

    def takes_json(self, path: str) -> bool:
        """For what OpenAI has a form for."""
        return self._rules.paths.get(path, "").endswith("in JSON")

    def script_for(self, recorded: Recorded) -> Script:
        """Its answer to a request."""
        if self._has_no_models(recorded):
            return [Status(404, PRIVATE_HEADERS, message="There is no list of models.")]
        kind = "chat"
        try:
            kind = self._rules.kind(recorded)
            fields = check(self._rules, recorded, kind, self._key)
            check_fields(self._rules, kind, fields)
        except Wrong as wrong:
            self.mistakes.append(f"{self.name}: {recorded.method} {recorded.path}: {wrong}")
            self.failures.append(AssertionError(self.mistakes[-1]))
            return [self._refused(kind, INVALID, str(wrong))]
        model = str(fields.get("model") or fields.get("model_id") or self._deployment(recorded))
        if model == REVOKED:
            return [self._refused(kind, BAD_KEY, "The key is not valid.")]
        if model == RATE_LIMITED:
            return [self._refused(kind, LIMITED, "Too many requests.")]
        return list(self._answer(kind, model, fields))

    def _has_no_models(self, recorded: Recorded) -> bool:
        """It is asked for its models, as anybody may be, and has no list."""
        asked = (recorded.method, recorded.path) == ("GET", f"{self._rules.base_path}/models")
        return asked and "models" not in self._rules.paths

    @staticmethod
    def _deployment(recorded: Recorded) -> str:
        """The model where the path has it (Azure), else nothing."""
        _, found, rest = recorded.path.partition("/deployments/")
        return rest.partition("/")[0] if found else ""

    def _refused(self, kind: str, what: str, message: str) -> Status:
        refused = refusal(self.name, kind, what, message)
        # A list is JSON, too: Google's errors are in one.
        body = json.dumps(refused.body)
        return Status(refused.status, {**PRIVATE_HEADERS, **refused.headers}, body)

    def _answer(self, kind: str, model: str, fields: dict[str, Any]) -> Iterator[Step]:
        headers = {**PRIVATE_HEADERS, "x-request-id": REQUEST_ID}
        events = self._events(kind, model, fields)
        if events is not None:
            yield Headers(headers=headers)
            yield from (Raw(event) for event in events)
            return
        body = answers.body(self.name, kind, model)
        if isinstance(body, bytes):
            yield Headers(headers={**headers, "content-type": "audio/mpeg"})
            yield from (Raw(body[at : at + 1000]) for at in range(0, len(body), 1000))
            return
        yield Status(200, headers, json.dumps(body, ensure_ascii=False))

    def _events(self, kind: str, model: str, fields: dict[str, Any]) -> Iterator[bytes] | None:
        """The events of a stream; None where none was asked for."""
        if not fields.get("stream"):
            return None
        if kind == "chat":
            if model == BREAKS:
                return answers.broken_stream(self.name, model)
            asked = bool((fields.get("stream_options") or {}).get("include_usage"))
            return answers.chat_stream(self.name, model, asked)
        if kind in ("message", "anthropic message"):
            return answers.message_stream(model)
        if kind == "response":
            return answers.response_stream(model)
        return None
