"""Requests to upstreams with an API of their own: Anthropic's, Cohere's, and how ElevenLabs' end.

What ElevenLabs is asked, and what is made of its answers, is in test_elevenlabs.py.
"""

from __future__ import annotations

import json

import pytest

from runner_payload.adapters import BROKEN, Sending, adapt
from runner_payload.failures import UpstreamFailure

ASKED = Sending("messages", "beta=true", {"content-type": "application/json"}, b'{"a": 1}')


def test_what_has_no_adapter_goes_up_as_it_came() -> None:
    for adapter, path in (("", "rerank"), ("unknown", "models"), ("anthropic", "chat/completions")):
        assert adapt(adapter, path, ASKED) is ASKED


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens", "models"])
def test_anthropic_is_told_a_version_unless_the_client_has_named_one(path: str) -> None:
    sending = adapt("anthropic", path, ASKED)
    assert sending.headers == ASKED.headers | {"anthropic-version": "2023-06-01"}
    assert (sending.path, sending.query, sending.body) == (ASKED.path, ASKED.query, ASKED.body)
    own = Sending("messages", "", {"anthropic-version": "2030-01-01"}, b"")
    assert adapt("anthropic", path, own).headers == own.headers


def test_coheres_rerank_is_beside_its_compatible_api() -> None:
    sending = adapt("cohere", "rerank", Sending("rerank", "", {}, b'{"query": "x"}'))
    # Below https://api.cohere.ai/compatibility/v1.
    assert (sending.path, sending.body) == ("../../v2/rerank", b'{"query": "x"}')
    assert sending.convert is None


def test_coheres_models_are_listed_as_openais_are() -> None:
    sending = adapt("cohere", "models", Sending("models", "", {}, b""))
    assert (sending.path, sending.query) == ("../../v1/models", "page_size=1000")
    assert sending.convert is not None
    kind, body = sending.convert(b'{"models": [{"name": "command-r", "endpoints": ["chat"]}]}')
    assert kind == "application/json"
    assert json.loads(body) == {
        "object": "list",
        "data": [{"id": "command-r", "object": "model", "created": 0, "owned_by": "cohere"}],
    }


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"no", b'{"models": 1}', b'{"models": [{}]}', b"[" * 100_000]
)
def test_a_list_that_is_none_is_upstreams_fault_and_no_other_exception(answer: bytes) -> None:
    convert = adapt("cohere", "models", ASKED).convert
    assert convert is not None
    with pytest.raises(BROKEN):
        convert(answer)


@pytest.mark.parametrize("path", ["chat/completions", "embeddings", "rerank"])
def test_what_elevenlabs_does_not_have_is_the_clients_error_and_says_what_it_has(path: str) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        adapt("elevenlabs", path, ASKED)
    failure = caught.value.failure
    assert failure.code == "bad_request"
    assert path in failure.message
    assert "audio/speech" in failure.message


@pytest.mark.parametrize("body", [b"", b"[]", b"no", b'{"input": "hi"}'])
def test_a_speech_that_cannot_be_had_of_elevenlabs_is_the_clients_error(body: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        adapt("elevenlabs", "audio/speech", Sending("audio/speech", "", {}, body))
    assert caught.value.failure.code == "bad_request"


@pytest.mark.parametrize("headers", [{}, {"content-type": "multipart/form-data; boundary=b"}])
def test_a_form_that_is_none_is_the_clients_error(headers: dict[str, str]) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        adapt("elevenlabs", "audio/transcriptions", Sending("", "", headers, b"no form"))
    assert caught.value.failure.code == "bad_request"
