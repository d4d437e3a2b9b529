"""What `POST /chat` takes: queries and bodies to calls, or a sentence that says what is wrong."""

from __future__ import annotations

import pytest

from llmrelay.api import chat
from llmrelay.config import Config
from llmrelay.errors import BadRequest, LengthRequired, UnsupportedMediaType
from llmrelay.http.events import Headers, Request
from runner_payload.messages import Call


def request(query: str = "", *headers: tuple[str, str], framing: int | None = 2) -> Request:
    return Request(
        method="POST",
        target="/chat",
        path="/chat",
        query=query,
        scheme="",
        authority="localhost",
        version=(1, 1),
        headers=Headers(tuple(headers)),
        keep_alive=True,
        expect_continue=False,
        framing=framing,
    )


def test_without_a_query_the_call_is_as_configured() -> None:
    config = Config(model="m", system="s", max_tokens=5, temperature=0.5, top_p=0.1)
    assert chat.parse(request(), b"hi", config).call == Call("m", "s", 5, 0.5, 0.1)


@pytest.mark.parametrize(
    ("query", "call"),
    [
        ("model=a/b:c", Call("a/b:c", "s")),
        ("model=a%20b", Call("a b", "s")),
        ("system=", Call("m", "")),
        ("system=Be+brief%21%0A", Call("m", "Be brief!\n")),
        ("system=%F0%9F%8E%89", Call("m", "🎉")),
        ("max_tokens=1", Call("m", "s", 1)),
        ("temperature=0&top_p=1", Call("m", "s", 1024, 0.0, 1.0)),
        ("temperature=2", Call("m", "s", 1024, 2.0)),
    ],
)
def test_the_query_overrides_the_configuration(query: str, call: Call) -> None:
    assert chat.parse(request(query), b"hi", Config(model="m", system="s")).call == call


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("modle=x", "did you mean model"),
        ("q=x", "known are model, system"),
        ("model=a&model=a", "twice"),
        ("model=", "1 to 256"),
        ("model=" + "x" * 257, "1 to 256"),
        ("model=a%0Ab", "printable"),
        ("max_tokens=0", "from 1"),
        ("max_tokens=-1", "no whole number"),
        ("max_tokens=1e3", "no whole number"),
        ("max_tokens=%D9%A1", "no whole number"),
        ("temperature=2.1", "from 0 to 2"),
        ("temperature=inf", "from 0 to 2"),
        ("temperature=nan", "from 0 to 2"),
        ("top_p=", "no number"),
        ("system=%FF", "query"),
        ("&".join("model=x" for _ in range(33)), "query"),
    ],
)
def test_a_wrong_parameter_hears_what_is_wrong(query: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        chat.parse(request(query), b"hi", Config())


def test_a_group_is_asked_for_by_parameter_or_header() -> None:
    def group(query: str, *headers: str) -> str | None:
        given = [("x-llmrelay-group", value) for value in headers]
        return chat.parse(request(query, *given), b"hi", Config()).group

    assert group("") is None
    assert group("group=gpu") == group("", "gpu") == group("group=gpu", "gpu") == "gpu"
    with pytest.raises(BadRequest, match="different groups"):
        group("group=gpu", "cpu")
    with pytest.raises(BadRequest, match="1 to 256"):
        group("group=")
    with pytest.raises(BadRequest, match="1 to 256"):
        group("", "")


def test_a_conversation_is_told_by_how_it_begins() -> None:
    opening = b"You said: " + b"x" * 1024
    told = chat.conversation("m", "s", opening)
    assert told == chat.conversation("m", "s", opening + b" and more")
    assert told != chat.conversation("m", "s", b"y" + opening)
    assert told != chat.conversation("m", "t", opening)
    assert told != chat.conversation("n", "s", opening)


def test_a_request_without_a_body_is_411_and_a_compressed_one_415() -> None:
    chat.check_head(request())
    chat.check_head(request("", ("content-encoding", "Identity ")))
    with pytest.raises(LengthRequired):
        chat.check_head(request(framing=None))
    with pytest.raises(UnsupportedMediaType):
        chat.check_head(request("", ("content-encoding", "gzip")))


def test_a_prompt_is_any_utf_8() -> None:
    for prompt in (b" ", b"\x00", "日本語".encode()):
        assert chat.parse(request(), prompt, Config()).body is prompt
    with pytest.raises(BadRequest, match="empty"):
        chat.parse(request(), b"", Config())
    with pytest.raises(BadRequest, match="0xc3 at 2"):
        chat.parse(request(), b"ab\xc3", Config())
