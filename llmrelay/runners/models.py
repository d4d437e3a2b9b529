"""Which models the runners' upstreams have, as `GET /v1/models` and `llmrelay check` tell.

Each ready runner is asked what its upstream lists, and remembered for a while; what the inventory
says that it serves, and by which names, goes over that. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runner_payload.messages import End, Request, Response

from ..config import Config
from ..errors import NoRunner, RelayError, UpstreamBroken, UpstreamNotFound
from .call import LinkCall, Sink
from .pool import Pool
from .runner import Runner, State
from .spec import RunnerSpec

logger = logging.getLogger("llmrelay.runner")

# Whoever asks for the union waits for the slowest.
_LIST_TIMEOUT_S = 15.0
LIST_MODELS = Request("GET", "models", timeout_s=_LIST_TIMEOUT_S, retries=0)
# The longest lists that are known have half a megabyte.
MAX_LIST_BYTES = 4 * 1024 * 1024

Model = dict[str, Any]


@dataclass(slots=True)
class _Listed:
    """What a runner's upstream has said."""

    spec: RunnerSpec
    until_s: float
    models: dict[str, Model] = field(default_factory=dict)
    error: RelayError | None = None


class ModelList:
    """The union of what all ready runners serve."""

    def __init__(self, pool: Pool, config: Config) -> None:
        self._pool = pool
        self._ttl_s = config.models_ttl_s
        self._listed: dict[str, _Listed] = {}
        self._asking: dict[str, asyncio.Task[_Listed]] = {}

    async def union(self, *, named: bool) -> dict[str, Model]:
        """Each model's object, by its id, as upstream describes it.

        Args:
            named: with the names of its runners.

        Raises:
            NoRunner: none is ready.
            RelayError: none of those that are has said anything.
        """
        runners = [m.runner for m in self._pool.members if m.runner.state is State.READY]
        if not runners:
            raise NoRunner("No runner is ready just now; try again.", retry_after_s=1)
        listed = await asyncio.gather(*(self._of(runner) for runner in runners))
        for name in self._listed.keys() - {member.runner.name for member in self._pool.members}:
            del self._listed[name]
        errors = [each.error for each in listed if each.error is not None]
        if len(errors) == len(listed):
            raise errors[0]
        union: dict[str, Model] = {}
        for each in listed:
            for name, model in _served(each):
                known = union.setdefault(name, model | ({"runners": []} if named else {}))
                if named:
                    known["runners"].append(each.spec.name)
        return union

    async def _of(self, runner: Runner) -> _Listed:
        """What a runner's upstream lists, asked once for all who want to know it."""
        now_s = asyncio.get_running_loop().time()
        known = self._listed.get(runner.name)
        if known is not None and known.spec == runner.spec and now_s < known.until_s:
            return known
        asking = self._asking.get(runner.name)
        if asking is None:
            asking = asyncio.create_task(self._ask(runner))
            self._asking[runner.name] = asking
            asking.add_done_callback(lambda _: self._asking.pop(runner.name))
        # Whoever came first may leave before the answer does.
        return await asyncio.shield(asking)

    async def _ask(self, runner: Runner) -> _Listed:
        listed = _Listed(runner.spec, asyncio.get_running_loop().time() + self._ttl_s)
        try:
            body = await whole_answer(lambda sink: runner.open(LIST_MODELS, sink, lambda _: None))
            listed.models = models_in(body)
        except UpstreamNotFound:
            pass  # it has no list; what the inventory promises is all that is known
        except RelayError as error:
            logger.warning("%s: its models are not known: %s", runner.name, error.message)
            listed.error = error
            listed.until_s = 0.0
        self._listed[runner.name] = listed
        return listed


def _served(listed: _Listed) -> list[tuple[str, Model]]:
    """What may be asked of a runner, by the names that clients have for it."""
    spec = listed.spec
    served = {name: model for name, model in listed.models.items() if spec.serves(name)}
    for asked, name in spec.model_map:
        served[asked] = {**listed.models.get(name, _described(asked)), "id": asked}
    if not listed.models:
        served |= {name: _described(name) for name in spec.models if not set(name) & set("*?[")}
    return sorted(served.items())


def _described(name: str) -> Model:
    """A model that upstream does not describe (OpenAI reference, "The model object")."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "upstream"}


def models_in(body: bytes) -> dict[str, Model]:
    """The models in the answer to `GET /models` (OpenAI reference, "List models"), by their ids."""
    try:
        listed = [model for model in json.loads(body)["data"] if isinstance(model["id"], str)]
        return {model["id"]: model for model in listed}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


async def whole_answer(open_call: Callable[[Sink], LinkCall]) -> bytes:
    """The whole body of the answer to a call without one.

    Args:
        open_call: opens it with a sink.

    Raises:
        RelayError: there is none, or one without an end.
    """
    answer = _Collected()
    opened = answer.call = open_call(answer)
    try:
        opened.end_body()
        await answer.over.wait()
    finally:
        opened.cancel()
    if answer.failure is not None:
        raise answer.failure
    return bytes(answer.body)


class _Collected:
    """Takes the whole answer to one call."""

    def __init__(self) -> None:
        self.call: LinkCall
        self.over = asyncio.Event()
        self.failure: RelayError | None = None
        self.body = bytearray()

    def response(self, response: Response) -> None:
        """Its body tells enough."""

    def data(self, text: bytes) -> None:
        if len(self.body) + len(text) > MAX_LIST_BYTES:
            raise UpstreamBroken("The upstream answered with a list that has no end.")
        self.body += text

    def credit_due(self) -> None:
        self.call.hand_back()

    def end(self, end: End) -> None:
        self.over.set()

    def error(self, error: RelayError) -> None:
        self.failure = error
        self.over.set()
