"""`llmrelay demo` from outside: what it prints, how it ends, and that nothing of it stays."""

from __future__ import annotations

import http.client
import re
import signal
from pathlib import Path

from tests.demo.terminal import CTRL_C, DemoProcess, environment
from tests.helpers.upstream import ScriptedUpstream, Status, answer

KEY = "sk-llmrelay-demo-test-5d0c"


def assert_gone(demo: DemoProcess, folder: Path) -> None:
    """No process and no file is left, and no traceback was shown."""
    assert "Traceback" not in demo.said
    assert demo.left() == []
    assert list(folder.iterdir()) == []


def test_once_streams_a_simulated_answer_and_leaves_nothing(tmp_path: Path) -> None:
    with DemoProcess("--once", "it's a hello", env=environment(tmp_path)) as demo:
        demo.wait_for("This answer is simulated")
        assert demo.note_processes() >= 2, "the host and the runner"
        assert len(list(tmp_path.iterdir())) == 1
        reads_before = demo.reads
        assert demo.wait() == 0
        assert demo.reads - reads_before > 20, "word by word, not all at once"
        assert re.search(r"curl -N http://127\.0\.0\.1:\d+/chat -d 'it'\"'\"'s a hello'", demo.said)
        assert "\n> it's a hello\n" in demo.said
        assert "“it's a hello”" in demo.said, "the prompt got through"
        assert demo.said.rstrip().endswith(" deltas/s")
        assert re.search(r"\ntime to first delta \d+ ms, \d+ deltas/s\n", demo.said)
        assert "Serving until" not in demo.said
        assert_gone(demo, tmp_path)


def test_ctrl_c_midway_ends_it_cleanly(tmp_path: Path) -> None:
    with DemoProcess(env=environment(tmp_path), terminal=True) as demo:
        demo.wait_for("This answer is simulated")
        assert demo.note_processes() >= 2
        demo.type(CTRL_C)
        assert demo.wait() == 128 + signal.SIGINT
        assert "first delta" not in demo.said, "the answer was not waited for"
        assert demo.said.endswith("Nothing is left running.\n")
        assert_gone(demo, tmp_path)


def test_ctrl_c_while_it_starts_ends_it_cleanly(tmp_path: Path) -> None:
    with DemoProcess(env=environment(tmp_path), terminal=True) as demo:
        demo.wait_for("  host ")
        assert demo.note_processes() >= 1
        demo.type(CTRL_C)
        assert demo.wait() == 128 + signal.SIGINT
        assert demo.said.endswith("llmrelay: ended at once by SIGINT\n")
        assert_gone(demo, tmp_path)


def test_with_a_key_it_asks_the_real_api_and_serves_until_ctrl_c(tmp_path: Path) -> None:
    script = ScriptedUpstream(answer("Hello", ", \x1b[2J", "wörld"))
    with script.in_thread() as upstream:
        env = environment(tmp_path, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.base_url)
        with DemoProcess("hi", env=env, terminal=True) as demo:
            demo.wait_for("Serving until Ctrl-C.\n")
            assert demo.note_processes() >= 2
            assert "simulated" not in demo.said
            assert "\nHello, ?[2Jwörld\n" in demo.said, "upstream may not steer the terminal"
            (request,) = upstream.requests
            assert request.headers["authorization"] == f"Bearer {KEY}"
            (port,) = re.findall(r"curl -N http://127\.0\.0\.1:(\d+)/chat -d hi\n", demo.said)
            client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            client.request("POST", "/chat", b"again")
            assert client.getresponse().read().startswith(b"Hello, ")
            client.close()
            demo.type(CTRL_C)
            assert demo.wait() == 0
            assert KEY not in demo.said
            assert_gone(demo, tmp_path)


def test_an_answer_that_fails_ends_it_with_the_error(tmp_path: Path) -> None:
    script = ScriptedUpstream([Status(401)])
    with script.in_thread() as upstream:
        env = environment(tmp_path, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.base_url)
        with DemoProcess("hi", env=env, terminal=True) as demo:
            assert demo.wait() == 1
            assert re.search(r"\nllmrelay: .*key.*\.\n$", demo.said), demo.said
            assert "first delta" not in demo.said
            assert_gone(demo, tmp_path)
