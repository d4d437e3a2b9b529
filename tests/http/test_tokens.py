"""The file of tokens, whose each one is, and how much it may ask."""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.errors import RateLimited, UnusableConfig
from llmrelay.http import tokens
from llmrelay.http.tokens import Caller, Tokens, make_line, make_token

ALICE, BOB = "alice-has-this-one", "bob/has+this.one~=="


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


Make = Callable[[str], Tokens]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


@pytest.fixture
def make(file: Path) -> Make:
    def made(text: str) -> Tokens:
        file.write_text(text)
        table = Tokens(file)
        table.load()
        return table

    return made


def found(table: Tokens, token: str) -> Caller:
    caller = table.find(token)
    assert caller is not None
    return caller


# --- The file -----------------------------------------------------------------------------------


def test_a_line_is_a_name_a_token_or_its_hash_and_limits(make: Make) -> None:
    table = make(
        "# who may ask\n"
        "\n"
        f"alice {ALICE} # the whole day\n"
        f"  bob\tsha256:{sha256(BOB).upper()}  per-minute=30 calls=2\r\n"
    )
    assert len(table) == 2
    alice, bob = found(table, ALICE), found(table, BOB)
    assert (alice.name, alice.calls, alice.per_minute) == ("alice", None, None)
    assert (bob.name, bob.calls, bob.per_minute) == ("bob", 2, 30)


@pytest.mark.parametrize(
    "token", ["", "alice", ALICE[:-1], ALICE.upper(), sha256(ALICE), "sha256:"]
)
def test_nothing_else_is_a_token(make: Make, token: str) -> None:
    assert make(f"alice {ALICE}\nbob sha256:{sha256(BOB)}\n").find(token) is None


def test_the_hash_itself_lets_nobody_in(make: Make) -> None:
    table = make(f"bob sha256:{sha256(BOB)}\n")
    assert table.find(f"sha256:{sha256(BOB)}") is None
    assert table.find(sha256(BOB)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# nobody\n\n", "holds no token"),
        ("\nalice\n", ":2: a line is"),
        (ALICE, ":1: a line is"),
        (f"ali/ce {ALICE}", ":1: a name is"),
        (f"-alice {ALICE}", ":1: a name is"),
        (f"älice {ALICE}", ":1: a name is"),
        (f"{'x' * 41} {ALICE}", ":1: a name is"),
        ("alice short", ":1: a token has 16 to"),
        (f"alice {'x' * 1025}", ":1: a token has 16 to"),
        ("alice tok€n-that-is-long-enough", ":1: a token is of"),
        ("alice token=in-the-middle-of-it", ":1: a token is of"),
        (f"alice sha256:{sha256(BOB)[:-1]}", ":1: behind `sha256:`"),
        (f"alice sha256:{sha256(BOB)}0", ":1: behind `sha256:`"),
        (f"alice SHA256:{sha256(BOB)}", ":1: behind `sha256:`"),
        (f"alice {ALICE} {BOB}", ":1: behind the token"),
        (f"alice {ALICE} calls", ":1: behind the token"),
        (f"alice {ALICE} tokens=2", ":1: behind the token"),
        (f"alice {ALICE} calls=2 calls=2", ":1: calls is there twice"),
        (f"alice {ALICE} calls=0", ":1: calls is a whole number from 1"),
        (f"alice {ALICE} calls={BOB}", ":1: calls is a whole number from 1"),
        (f"alice {ALICE} per-minute=-1", ":1: per-minute is a whole number from 1"),
        (f"alice {ALICE} per-minute=1e3", ":1: per-minute is a whole number from 1"),
        (f"alice {ALICE}\n#\nalice {BOB}", ":3: the name alice is in line 1 already"),
        (f"alice {ALICE}\nbob sha256:{sha256(ALICE)}", ":2: the token is in line 1 already"),
        ("#" * (512 * 1024 + 1), "is over 512 KiB"),
        ("".join(f"n{i} token-number-{i:04}\n" for i in range(1001)), "holds over 1000 tokens"),
    ],
)  # fmt: skip
def test_a_file_of_no_use_says_where_and_why_and_shows_no_token(
    make: Make, file: Path, text: str, said: str
) -> None:
    with pytest.raises(UnusableConfig) as refused:
        make(text)
    assert f"--auth-tokens {file}" in str(refused.value)
    assert said in str(refused.value)
    shown = traceback.format_exception(refused.value)
    for secret in (ALICE, BOB, sha256(ALICE), sha256(BOB)[:-1]):
        assert secret not in "".join(shown)


def test_a_thousand_tokens_are_taken(make: Make) -> None:
    lines = [f"n{i} token-number-{i:04} # {'x' * 400}\n" for i in range(1000)]
    assert found(make("".join(lines)), "token-number-0999").name == "n999"


def test_a_file_that_cannot_be_read_says_why(file: Path) -> None:
    with pytest.raises(UnusableConfig, match=r"cannot be read: No such file"):
        Tokens(file.parent / "none").load()
    with pytest.raises(UnusableConfig, match=r"cannot be read: Is a directory"):
        Tokens(file.parent).load()
    file.write_bytes(b"alice \xff\xff\n")
    with pytest.raises(UnusableConfig, match="is not UTF-8 text"):
        Tokens(file).load()


@given(text=st.text(st.sampled_from("ab 1#=\t\n\r\x0b\x85:\u2028shacll-per"), max_size=60))
def test_any_text_is_a_table_or_unusable(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_text(f"alice {ALICE}\n{text}")
    table = Tokens(path)
    try:
        table.load()
    except UnusableConfig:
        return
    assert found(table, ALICE).name == "alice"


def test_tokens_that_anybody_can_read_are_warned_of_and_hashes_are_not(
    make: Make, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make(f"alice {ALICE}\n")
        assert not caplog.records
        file.chmod(0o644)
        make(f"alice sha256:{sha256(ALICE)}\n")
        assert not caplog.records
        make(f"bob sha256:{sha256(BOB)}\nalice {ALICE}\n")
    assert "chmod 600" in caplog.text
    assert ALICE not in caplog.text


def test_whatever_holds_a_token_shows_its_name_alone(make: Make) -> None:
    table = make(f"alice {ALICE} calls=1\n")
    caller = found(table, ALICE)
    assert repr(caller) == "Caller(name='alice', calls=1, per_minute=None)"

    def fail(table: Tokens, caller: Caller) -> None:
        with caller.calling(0.0), caller.calling(0.0):
            pass

    with pytest.raises(RateLimited) as refused:
        fail(table, caller)
    frames = traceback.TracebackException.from_exception(
        refused.value.with_traceback(refused.value.__traceback__), capture_locals=True
    )
    text = "".join(frames.format())
    assert "Caller(name='alice'" in text
    assert ALICE not in text.replace(f"ALICE = '{ALICE}'", "")
    assert sha256(ALICE) not in text


# --- Making one ---------------------------------------------------------------------------------


def test_a_token_that_was_made_fits_its_line(make: Make) -> None:
    token = make_token()
    line = make_line("alice", token, 2, 30)
    assert token not in line
    assert line == f"alice sha256:{sha256(token)} calls=2 per-minute=30"
    caller = found(make(line), token)
    assert (caller.name, caller.calls, caller.per_minute) == ("alice", 2, 30)
    assert make_line("bob", token, None, None) == f"bob sha256:{sha256(token)}"


def test_no_two_tokens_are_alike_and_each_says_what_it_is() -> None:
    made = {make_token() for _ in range(100)}
    assert len(made) == 100
    assert all(token.startswith("llmrelay-") for token in made)
    assert all(tokens.TOKEN.fullmatch(token) and len(token) == 52 for token in made)


def test_a_token_in_a_name_s_place_is_not_taken_for_a_name() -> None:
    with pytest.raises(ValueError, match="a name is"):
        tokens.parse_name(make_token())


# --- Limits -------------------------------------------------------------------------------------


def calls(caller: Caller, now_s: float) -> float | None:
    """None if a call passes, else the seconds to wait."""
    try:
        with caller.calling(now_s):
            return None
    except RateLimited as refused:
        return refused.retry_after_s


def test_calls_at_once_are_counted_until_they_end(make: Make) -> None:
    caller = found(make(f"alice {ALICE} calls=2\n"), ALICE)
    with caller.calling(0.0):
        with caller.calling(0.0):
            assert calls(caller, 0.0) == 1
        assert calls(caller, 0.0) is None
    with pytest.raises(ZeroDivisionError), caller.calling(0.0):
        raise ZeroDivisionError
    assert caller.usage.calls == 0


def test_requests_per_minute_come_back_one_by_one(make: Make) -> None:
    caller = found(make(f"alice {ALICE} per-minute=3\n"), ALICE)
    assert [calls(caller, 100.0) for _ in range(4)] == [None, None, None, pytest.approx(20)]
    assert calls(caller, 115.0) == pytest.approx(5)
    assert calls(caller, 120.0) is None
    assert calls(caller, 120.0) == pytest.approx(20)
    # A long pause gives three, not more.
    assert [calls(caller, 1000.0) for _ in range(4)] == [None, None, None, pytest.approx(20)]


def test_what_was_refused_is_not_counted(make: Make) -> None:
    caller = found(make(f"alice {ALICE} per-minute=1 calls=1\n"), ALICE)
    with caller.calling(0.0):
        for _ in range(100):
            assert calls(caller, 30.0) == 1
    assert calls(caller, 59.0) == pytest.approx(1)
    assert calls(caller, 60.0) is None


@given(
    per_minute=st.integers(1, 1000),
    steps=st.lists(st.floats(0, 100), min_size=1, max_size=50),
)
def test_retry_after_is_honest(per_minute: int, steps: list[float]) -> None:
    """After that wait one passes; and over any time no more pass than a bucket lets through."""
    caller = Caller("a", None, per_minute, b"")
    now_s = 1e6
    for passed, step in enumerate(steps, 1):
        now_s += step
        wait_s = calls(caller, now_s)
        if wait_s is not None:
            assert 0 < wait_s <= 60 / per_minute + 1e-6
            now_s += wait_s
            assert calls(caller, now_s) is None
        assert passed <= per_minute * (1 + (now_s - 1e6) / 60) + 1e-3


def test_tokens_do_not_use_up_each_other_s_limits(make: Make) -> None:
    table = make(f"alice {ALICE} per-minute=1\nbob {BOB} per-minute=1\n")
    for token in (ALICE, BOB):
        assert calls(found(table, token), 0.0) is None
        assert calls(found(table, token), 0.0) is not None


# --- Read again ---------------------------------------------------------------------------------


def test_a_reload_takes_up_what_is_new_and_drops_what_is_gone(make: Make, file: Path) -> None:
    table = make(f"alice {ALICE}\n")
    file.write_text(f"bob {BOB}\n")
    assert table.find(BOB) is None
    table.load()
    assert found(table, BOB).name == "bob"
    assert table.find(ALICE) is None


def test_a_file_of_no_use_leaves_the_table_as_it_was(make: Make, file: Path) -> None:
    table = make(f"alice {ALICE}\n")
    for text in ("", f"bob {BOB}\nbob {BOB}\n"):
        file.write_text(text)
        with pytest.raises(UnusableConfig):
            table.load()
        assert found(table, ALICE).name == "alice"
        assert table.find(BOB) is None


def test_what_was_used_still_counts_after_a_reload(make: Make, file: Path) -> None:
    """By name: a new token for alice is no second allowance."""
    table = make(f"alice {ALICE} calls=1 per-minute=2\n")
    with found(table, ALICE).calling(0.0):
        file.write_text(f"alice {BOB} calls=1 per-minute=2\n")
        table.load()
        alice = found(table, BOB)
        assert calls(alice, 0.0) == 1
    assert alice.usage.calls == 0
    assert calls(alice, 0.0) is None
    assert calls(alice, 0.0) == pytest.approx(30)
    file.write_text(f"alice {BOB} per-minute=4\n")
    table.load()
    assert [calls(found(table, BOB), 0.0) for _ in range(3)] == [None, None, pytest.approx(15)]
