"""That a body is in memory once, and until it is not needed any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from llmrelay import endpoints
from llmrelay.config import Config
from llmrelay.endpoints import Endpoints
from llmrelay.http.events import Headers, Request
from llmrelay.http.exchange import Exchange
from llmrelay.relay import Body


class Watched(bytes):
    """Bytes that tell of their end; what is made of them is other bytes."""

    gone = False

    def __del__(self) -> None:
        Watched.gone = True


class Asked:
    """As much of an exchange as an endpoint needs before it relays."""

    def __init__(self, path: str, kind: str, body: bytes, *, whole: bool) -> None:
        headers = Headers((("content-type", kind),))
        self.request = Request(
            "POST", path, path, "", "", "localhost", (1, 1), headers, True, False, len(body)
        )
        self.request_id, self.asker = "req_1", "somebody"
        self.log_fields: dict[str, object] = {}
        self._body = body
        self._whole = whole

    async def read_body(self) -> bytes:
        return Watched(self._body)

    async def begin_upload(self, most_bytes: int, held_bytes: int) -> tuple[bytes, bool]:
        return Watched(self._body), self._whole


FORM = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n--b--\r\n'


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("path", "kind", "body", "endpoint"),
    [
        ("/chat", "text/plain", b"hi", Endpoints.chat),
        ("/chat", "application/json", b'{"prompt": "hi"}', Endpoints.chat),
        ("/speak", "text/plain", b"hi", Endpoints.speak),
        ("/transcribe", "audio/mpeg", b"ID3", Endpoints.transcribe),
        ("/transcribe", "multipart/form-data; boundary=b", FORM, Endpoints.transcribe),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=b", FORM, Endpoints.v1),
        ("/v1/embeddings", "application/json", b"{}", Endpoints.v1),
    ],
    ids=["prompt", "JSON", "speak", "recording", "form", "v1 form", "v1 JSON"],
)
def test_nobody_but_its_call_holds_a_body(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    kind: str,
    body: bytes,
    endpoint: Callable[[Endpoints, Exchange], Any],
    whole: bool,
) -> None:
    relayed: list[bool] = []

    async def relay(exchange: Exchange, attempts: object, body: Body, *_: object) -> None:
        body.begun = b""  # as Answer does once it is not needed
        relayed.append(Watched.gone)

    async def subject() -> None:
        await endpoint(Endpoints(cast(Any, None), Config()), cast(Exchange, exchange))

    monkeypatch.setattr(endpoints, "relay", relay)
    exchange = Asked(path, kind, body, whole=whole)
    Watched.gone = False
    asyncio.run(subject())
    assert relayed == [True]
