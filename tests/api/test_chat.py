"""What `POST /chat` takes: queries and bodies to calls, or a sentence that says what is wrong."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from llmrelay.api import chat
from llmrelay.api.answers import Events, Json, Text
from llmrelay.config import Config
from llmrelay.errors import BadRequest, ContentTooLarge, LengthRequired, UnsupportedMediaType
from llmrelay.http.events import Request
from runner_payload.messages import Call
from tests.api.requests import a_request


def request(query: str = "", *headers: tuple[str, str], **said: Any) -> Request:
    return a_request("/chat", *headers, query=query, **said)


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


# --- Bodies that say more than a prompt ---------------------------------------------------------

JSON = ("content-type", "application/json; charset=utf-8")
PNG, JPEG = b"\x89PNG\r\n\x1a\n and more", b"\xff\xd8\xff and more"


def asked(body: object, query: str = "", config: Config | None = None) -> chat.ChatRequest:
    """What a JSON body asks for; bytes are sent as they are."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chat.parse(request(query, JSON), sent, config or Config(model="m", system="s"))


def form(*parts: bytes, config: Config | None = None) -> chat.ChatRequest:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    kind = ("content-type", "Multipart/Form-Data; boundary=b")
    return chat.parse(request("", kind), body, config or Config(model="m", system="s"))


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data


def test_a_json_body_has_a_prompt_and_parameters() -> None:
    told = asked({"prompt": "häß", "model": "n", "max_tokens": 7, "temperature": 0.5, "top_p": 1})
    assert told.call == Call("n", "s", 7, 0.5, 1.0, kind="messages")
    assert json.loads(told.body) == [{"role": "user", "content": "häß"}]
    assert asked({"prompt": "hi", "group": "gpu"}, "").group == "gpu"
    assert asked({"prompt": "hi"}, "system=t").call.system == "t"
    # What is null in OpenAI's API is not said.
    unsaid = {"temperature": None, "messages": None, "images": None, "stream": False}
    assert asked({"prompt": "hi", **unsaid}).call == Call("m", "s", kind="messages")


def test_messages_go_on_as_they_are_and_their_own_system_prompt_is_the_one_that_counts() -> None:
    said = [{"role": "user", "content": "ä"}, {"role": "assistant", "content": None, "x": [1.5]}]
    for role in ("system", "developer"):
        own = [{"role": role, "content": "Be brief."}]
        told = asked({"messages": own + said})
        assert (told.call.system, json.loads(told.body)) == ("", own + said)
        assert asked({"messages": own + said, "system": "t"}).call.system == "t"
    told = asked({"messages": said})
    assert (told.call.system, json.loads(told.body)) == ("s", said)


def test_images_of_a_json_body_are_urls() -> None:
    urls = ["data:image/png;base64,AAAA", "https://example.com/a.png"]
    [message] = json.loads(asked({"prompt": "What?", "images": urls}).body)
    assert message["content"][0] == {"type": "text", "text": "What?"}
    assert [each["image_url"]["url"] for each in message["content"][1:]] == urls
    [message] = json.loads(asked({"prompt": "", "images": urls[:1]}).body)
    assert [each["type"] for each in message["content"]] == ["image_url"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"hi", "not JSON"),
        (b'{"prompt": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (["hi"], "no object"),
        ({}, "either prompt or messages"),
        ({"prompt": "hi", "messages": [{"role": "user"}]}, "either prompt or messages"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": 7}, "has to be text"),
        ({"prompt": "hi", "images": "https://x"}, "list of URLs"),
        ({"prompt": "hi", "images": [7]}, "list of URLs"),
        ({"messages": []}, "a role"),
        ({"messages": "hi"}, "a role"),
        ({"messages": [{"content": "hi"}]}, "a role"),
        ({"messages": [{"role": "user"}], "images": ["https://x"]}, "images are in them"),
        (b'{"messages": [{"role": "user", "content": NaN}]}', "NaN is no JSON"),
        (b'{"messages": [{"role": "user", "content": [1e999]}]}', "cannot be sent on"),
        ({"prompt": "hi", "max_tokens": 1.5}, "no whole number"),
        ({"prompt": "hi", "max_tokens": True}, "neither text nor a number"),
        ({"prompt": "hi", "modle": "x"}, "did you mean model"),
        ({"prompt": "hi", "stream": True}, "Accept: text/event-stream"),
        ({"prompt": "hi", "system": "\ud800"}, "half a surrogate pair"),
        ({"prompt": "hi", "model": "\ud800"}, "printable"),
    ],
)
def test_a_wrong_json_body_hears_what_is_wrong(body: object, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        asked(body)


@pytest.mark.parametrize("name", ["x" * 100_000, "a\nb", "temperature", "top_p"])
def test_what_is_wrong_is_said_in_one_short_sentence(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked({"prompt": "hi", name: "9" * 300 + "\n"})
    assert len(refused.value.message) < 400
    assert refused.value.message.isprintable()


def test_a_parameter_may_stand_in_one_place_alone() -> None:
    with pytest.raises(BadRequest, match="model is there twice"):
        asked({"prompt": "hi", "model": "a"}, "model=a")


def test_messages_that_grow_as_they_are_written_out_have_a_limit() -> None:
    """More than it expects makes a runner give up, with all calls that it has."""
    config = Config(max_body_bytes=128 * 1024)
    numbers = b"1e15," * 26_000
    with pytest.raises(ContentTooLarge, match="over 393216 bytes"):
        asked(b'{"messages": [{"role": "user", "x": [%b1]}]}' % numbers, config=config)
    image = part("image", PNG + bytes(120_000), "a.png")
    assert len(form(image, config=config).body) > 160_000


def test_a_form_has_a_prompt_images_and_parameters() -> None:
    told = form(
        part("model", b"n"),
        part("prompt", "Wie heißt das?".encode()),
        part("image", PNG, "a.txt"),
        part("anything", JPEG, ""),
        part("images[]", b"GIF89a", None),
        part("image", b"RIFF\0\0\0\0WEBP", "b"),
        part("image", b"https://example.com/a.png"),
        part("max_tokens", b"7"),
    )
    assert told.call == Call("n", "s", 7, kind="messages")
    [message] = json.loads(told.body)
    text, *images = message["content"]
    assert text == {"type": "text", "text": "Wie heißt das?"}
    urls = [each["image_url"]["url"] for each in images]
    kinds = ["png", "jpeg", "gif", "webp"]
    assert [url.partition(";")[0] for url in urls[:4]] == [f"data:image/{k}" for k in kinds]
    assert base64.b64decode(urls[0].partition(",")[2]) == PNG
    assert urls[4] == "https://example.com/a.png"
    # What `-F prompt=@question.txt` sends.
    [message] = json.loads(form(part("prompt", b"hi", "question.txt")).body)
    assert message["content"] == "hi"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "no part|no prompt|form"),
        ([part("model", b"n")], "no prompt"),
        ([part("prompt", b"")], "no prompt"),
        ([part("prompt", b"a"), part("prompt", b"b")], "two prompts"),
        ([part("prompt", b"\xff")], "prompt of the form is not UTF-8"),
        ([part("prompt", b"a"), part("image", b"%PDF-1.4", "a.png")], "PNG, JPEG, GIF or WebP"),
        ([part("prompt", b"a"), part("image", b"RIFF\0\0\0\0WAVE", "a")], "PNG, JPEG"),
        ([part("prompt", b"a"), part("image", b"ftp://x")], "PNG, JPEG, GIF or WebP"),
        ([part("prompt", b"a"), part("top_p", b"2")], "from 0 to 1"),
        ([part("prompt", b"a"), part("top_p", b"1"), part("top_p", b"1")], "twice"),
        ([b"X: y\r\n\r\nz"], "form|part"),
    ],
)
def test_a_wrong_form_hears_what_is_wrong(parts: list[bytes], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        form(*parts)


@pytest.mark.parametrize("kind", ["multipart/form-data", 'multipart/form-data; boundary=""'])
def test_a_form_without_a_boundary_is_none(kind: str) -> None:
    with pytest.raises(BadRequest, match="boundary"):
        chat.parse(request("", ("content-type", kind)), b"--b--\r\n", Config())
    kind = "multipart/form-data; boundary=b"
    for body in (b"", b"--b\r\n" + part("prompt", b"hi"), b"--c--\r\n"):
        with pytest.raises(BadRequest, match="form"):
            chat.parse(request("", ("content-type", kind)), body, Config())


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, Text),
        ("*/*", Text),
        ("text/*", Text),
        ("text/html", Text),
        ("text/event-stream", Events),
        ("Text/Event-Stream; charset=utf-8", Events),
        ("application/json", Json),
        ("application/*", Json),
        ("application/json;q=0.5, text/event-stream;q=0.9", Events),
        ("application/json, text/plain, */*", Text),
        ("text/plain;q=0.1, application/json;q=0.2, */*;q=0", Json),
        ("*/*;q=0.5, text/plain;q=0.1, application/json;q=0.4", Events),
        ("text/event-stream;q=0", Text),
        ("application/json;q=x, text/event-stream;q=0.1", Events),
        (", ,;q=1", Text),
    ],
)
def test_accept_says_which_form_the_answer_has(accept: str | None, form: type) -> None:
    headers = [("accept", accept)] if accept is not None else []
    assert type(chat.parse(request("", *headers), b"hi", Config()).form()) is form
