"""The command line: what it makes of arguments, and what it says of wrong ones."""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmrelay import __version__, cli, log
from llmrelay.commands import serve
from llmrelay.commands.arguments import add_option
from llmrelay.config import Config, options
from llmrelay.errors import UnusableConfig
from llmrelay.http.tokens import Tokens
from llmrelay.option import Option
from llmrelay.values import AllowedHost, HostAddress, ListenAddress, count, duration, size


def parsed(*arguments: str) -> Config:
    given = cli._parser().parse_args(["serve", "--runner", "user@host", *arguments])
    return serve._config(given, listens_already=False)


def test_without_options_everything_is_as_config_declares_it() -> None:
    assert parsed() == Config(runners=(HostAddress("host", "user"),))


def test_options_reach_config() -> None:
    config = parsed(
        "--model", "m", "--temperature", "0.5", "--listen", "0.0.0.0:80", "--call-window", "64KiB"
    )
    assert (config.model, config.temperature, config.call_window_bytes) == ("m", 0.5, 65536)
    assert config.listen == (ListenAddress("0.0.0.0", 80),)


def test_names_and_origins_can_be_given_several_times() -> None:
    config = parsed(
        "--allowed-host", "App.internal", "--allowed-host", "box:80", "--cors-origin", "http://A"
    )
    assert config.allowed_hosts == (AllowedHost("app.internal"), AllowedHost("box", 80))
    assert config.cors_origins == ("http://a",)
    assert not config.allow_anonymous
    assert parsed("--allow-anonymous").allow_anonymous


def test_port_is_short_for_another_port_of_the_same_address() -> None:
    assert parsed("--port", "0").listen == (ListenAddress("127.0.0.1", 0),)
    assert parsed("--listen", "[::1]:1", "--port", "2").listen == (ListenAddress("::1", 2),)
    with pytest.raises(UnusableConfig, match="--listen names none"):
        parsed("--listen", "unix:/tmp/a", "--port", "2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["serve"], "--runner"),
        (["serve", "--runner", "@"], "empty user"),
        (["serve", "--runner", "h", "--port", "x"], "no port"),
        (["serve", "--runner", "h", "--temperature", "3"], "from 0 to 2"),
        (["serve", "--runner", "h", "--max-body", "0"], "from 1"),
        (["serve", "--runner", "h", "--drain", "2d"], "no time"),
        (["serve", "--runner", "h", "--log-level", "loud"], "none of debug"),
        (["serve", "--runner", "h", "--no-such-option"], "unrecognized"),
        (["serve", "--runner", "h", "--auth-tokens", "~no-such-user/x"], "user that is not known"),
        (["serve", "--runner", "h", "--cors-origin", "null"], "no origin"),
        (["serve", "--runner", "h", "--allowed-host", "http://a"], "more than a name"),
        (["token"], "NAME"),
        (["token", "a b"], "a name is up to 40"),
        (["token", "a", "--calls", "0"], "from 1"),
        (["fly"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def given(option: Option, default: object, *arguments: str) -> object:
    """What an option sets when it is given so."""
    parser = argparse.ArgumentParser()
    add_option(parser, "field", option, default)
    return parser.parse_args(arguments).field


@pytest.mark.parametrize("default", [(), (7,), (7, 8)])
def test_an_option_given_several_times_replaces_its_default(default: tuple[int, ...]) -> None:
    option = Option("--n", "N", count(1), "Counts.", "Group", repeated=True)
    assert given(option, default) == default
    assert given(option, default, "--n", "1") == (1,)
    assert given(option, default, "--n", "7", "--n", "8", "--n", "7") == (7, 8, 7)


def test_a_switch_takes_no_value() -> None:
    option = Option("--on", None, bool, "Turns it on.", "Group")
    assert given(option, False) is False
    assert given(option, False, "--on") is True
    with pytest.raises(SystemExit):
        given(option, False, "--on=1")


@pytest.mark.parametrize(
    ("option", "value", "written"),
    [
        (Option("--t", "TIME", duration(0, 9), "", ""), 0.5, "0.5s"),
        (Option("--b", "BYTES", size(1, 10**9), "", ""), 32 * 1024, "32KiB"),
        (Option("--b", "BYTES", size(1, 10**9), "", ""), 8 * 1024 * 1024, "8MiB"),
        (Option("--b", "BYTES", size(1, 10**9), "", ""), 1000, "1000"),
        (Option("--n", "N", count(1), "", "", repeated=True), (7, 8), "7 8"),
        (Option("--n", "N", count(1), "", "", repeated=True), (), ""),
        (Option("--on", None, bool, "", ""), False, ""),
    ],
)
def test_a_default_is_shown_as_it_would_be_given(
    option: Option, value: object, written: str
) -> None:
    assert option.written(value) == written
    if written and not option.repeated:
        assert option.parse(written) == value


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UnusableConfig, match="longer than --ping-interval"):
        parsed("--ping-interval", "5", "--ping-timeout", "5")


def test_help_names_every_option_with_its_default() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "llmrelay", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200"},
    ).stdout
    for _, option in options():
        assert option.flag in shown
    assert "[gpt-4o-mini]" in shown
    assert "[32KiB]" in shown
    assert "[30s]" in shown


@pytest.mark.parametrize(("terminal", "where"), [(True, "The line above"), (False, "Its line")])
def test_token_prints_the_line_for_the_file_and_shows_the_token_apart(
    terminal: bool,
    where: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert cli.main(["token", "alice", "--calls", "2", "--per-minute", "30"]) == 0
    line, shown = capsys.readouterr()
    [token] = re.findall(r"llmrelay-[\w-]{43}", shown)
    assert token not in line
    assert shown.startswith(f"\n{where} belongs in the file of --auth-tokens")
    file = tmp_path / "tokens"
    file.write_text(line)
    table = Tokens(file)
    table.load()
    caller = table.find(token)
    assert caller is not None
    assert (caller.name, caller.calls, caller.per_minute) == ("alice", 2, 30)


def test_a_token_whose_line_cannot_be_written_is_not_shown() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "llmrelay", "token", "alice"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr == "llmrelay: The output could not be written: No space left on device.\n"


def test_version() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "llmrelay", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert shown == f"llmrelay {__version__}\n"


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("llmrelay.x", logging.INFO, "", 0, "said %s", ("it",), None)
    made.__dict__.update(extra)
    return made


def test_text_lines_are_for_people() -> None:
    assert log.TextFormatter().format(record()).endswith(" info    llmrelay.x: said it")


def test_json_lines_keep_fields_apart() -> None:
    line = log.JsonFormatter().format(record(fields={"status": 200}))
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("info", "llmrelay.x", "said it")
    assert entry["status"] == 200
    assert entry["time"].endswith("+00:00")
    assert "\n" not in line


def test_an_exceptions_traceback_stands_in_the_message() -> None:
    try:
        raise ValueError("what now?")
    except ValueError:
        failed = record(exc_info=sys.exc_info())
    assert "ValueError: what now?" in json.loads(log.JsonFormatter().format(failed))["message"]
