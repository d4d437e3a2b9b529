"""`llmrelay chat` without a prompt: a conversation, on a terminal as its user has it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrelay.chatting.conversation import read_message
from tests.helpers.chatting import LIMIT_S, ChatOnTerminal, environment
from tests.helpers.scripted_front_end import ScriptedFrontEnd, says, stalls

CTRL_C, CTRL_D = "\x03", "\x04"
PNG = b"\x89PNG\r\n\x1a\n rest"
RED, DIM = "\x1b[31m", "\x1b[2m"


@pytest.fixture
def front_end() -> Iterator[ScriptedFrontEnd]:
    with ScriptedFrontEnd().serving() as running:
        yield running


def asked(front_end: ScriptedFrontEnd) -> list[tuple[str, Any]]:
    """The messages of the last question: who said what."""
    messages = front_end.asked[-1].body["messages"]
    return [(message["role"], message["content"]) for message in messages]


def test_each_turn_sends_all_before_it(front_end: ScriptedFrontEnd, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(PNG)
    env = environment(LLMRELAY_URL=front_end.url, NO_COLOR="1")
    options = ["-s", "Be brief.", "-m", "m1", "-i", str(tmp_path / "image")]
    with ChatOnTerminal(*options, env=env) as chat:
        chat.wait_for("(/help says more, Ctrl-D leaves)\n")
        chat.wait_for("\x1b[?2004h")  # asks the terminal to mark what is pasted
        front_end.script = says("I am \x1b[2J", "fine.")
        chat.type("How are you?\r")
        chat.wait_for("I am ?[2Jfine.\n")
        chat.wait_for("> ")
        front_end.script = says("Two lines.\n")
        # Pasted, as terminals mark it: one message.
        chat.type("\x1b[200~What\nis this?\x1b[201~\r")
        chat.wait_for("Two lines.\n")
        first = [
            {"type": "text", "text": "How are you?"},
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()},
            },
        ]
        said = [("user", first), ("assistant", "I am \x1b[2Jfine."), ("user", "What\nis this?")]
        assert asked(front_end) == said
        body = front_end.asked[-1].body
        assert (body["system"], body["model"]) == ("Be brief.", "m1")
        chat.wait_for("> ")
        chat.type("/help\r")
        chat.wait_for("/clear  forgets")
        chat.wait_for("> ")
        chat.type("/no\r")
        chat.wait_for("(there is no /no; /help shows what there is)\n")
        chat.wait_for("> ")
        chat.type("  \r")
        chat.wait_for("> ")
        chat.type("/clear\r")
        chat.wait_for("(the conversation is forgotten)\n")
        chat.wait_for("> ")
        chat.type("/etc/passwd?\r")
        chat.wait_for("Two lines.\n")
        assert asked(front_end) == [("user", "/etc/passwd?")]
        chat.wait_for("> ")
        chat.type("/quit\r")
        before = chat.said
        assert chat.wait() == 0
        assert DIM not in before + chat.said
        assert len(front_end.asked) == 3


def test_ctrl_c_stops_the_answer_and_not_the_program(front_end: ScriptedFrontEnd) -> None:
    with ChatOnTerminal(env=environment(LLMRELAY_URL=front_end.url)) as chat:
        chat.wait_for("> ")
        front_end.script = stalls("Once upon", " a time")
        chat.type("Tell me a story.\r")
        chat.wait_for(" a time")
        chat.type(CTRL_C)
        chat.wait_for("(stopped)")
        assert front_end.left.wait(LIMIT_S), "the front-end can cancel the call"
        assert front_end.reset, "at once, and not when it next writes"
        chat.wait_for("> ")

        front_end.left.clear()
        front_end.script = stalls()
        chat.type("What was\\\rit about?\r")
        for _ in range(2):
            assert front_end.came.acquire(timeout=LIMIT_S)
        chat.type(CTRL_C)
        assert chat.wait_for("(stopped before anything came)").endswith(f"^C\n{DIM}")
        assert front_end.left.wait(LIMIT_S)
        story = [("user", "Tell me a story."), ("assistant", "Once upon a time")]
        assert asked(front_end) == [*story, ("user", "What was\nit about?")]
        chat.wait_for("> ")

        chat.type("half a questi")
        chat.wait_for("half a questi")
        chat.wait_until_it_waits()
        chat.type(CTRL_C)
        chat.wait_for("(Ctrl-D leaves)")
        chat.wait_for("> ")
        front_end.script = says("Time.")
        chat.type("And now?\r")
        chat.wait_for("Time.")
        assert asked(front_end) == [*story, ("user", "And now?")], "what had nothing is not kept"
        chat.wait_for("> ")
        chat.type(CTRL_D)
        assert chat.wait() == 0
        assert "Traceback" not in chat.said


def test_an_error_is_shown_and_the_conversation_goes_on(front_end: ScriptedFrontEnd) -> None:
    with ChatOnTerminal(env=environment(LLMRELAY_URL=front_end.url)) as chat:
        chat.wait_for("> ")
        front_end.script = lambda asked: asked.refuse(413, "Too long.", "content_too_large")
        chat.type("one\r")
        chat.wait_for(f"{RED}llmrelay: Too long.")
        assert "/clear" not in chat.wait_for("> "), "there is nothing to forget"

        def breaks(asked: Any) -> None:
            asked.begin()
            asked.delta("Hel")
            asked.chunk(b'event: error\ndata: {"error": {"message": "Upstream fell."}}\n\n')

        front_end.script = breaks
        chat.type("two\r")
        chat.wait_for(f"Hel\n{RED}llmrelay: Upstream fell.")
        chat.wait_for("> ")
        front_end.script = says("Hello", finish_reason="length")
        chat.type("three\r")
        chat.wait_for("(the answer ended at its limit, which --max-tokens sets)")
        assert asked(front_end) == [("user", "three")], "the failed turns are not kept"
        chat.wait_for("> ")
        front_end.script = lambda asked: asked.refuse(413, "Too long.", "content_too_large")
        chat.type("four\r")
        chat.wait_for("Too long.")
        chat.wait_for("/clear starts anew")
        chat.wait_for("> ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        ([""], ""),
        (["one\\", "two\\", "", "three"], "one\ntwo\n"),
        (['"""', "one\\", '  "two"', '"""', "three"], 'one\\\n  "two"'),
        (['"""one', 'two"""', "three"], "one\ntwo"),
        (['"""one"""', "two"], "one"),
        (['""""""', "two"], ""),
        (['say """', "two"], 'say """'),
    ],
)
def test_a_message_may_have_several_lines(lines: list[str], message: str) -> None:
    prompts: list[str] = []

    def read_line(prompt: str) -> str:
        prompts.append(prompt)
        return lines[len(prompts) - 1]

    assert read_message(read_line) == message
    assert prompts[0] == "> "
    assert set(prompts[1:]) <= {". "}
