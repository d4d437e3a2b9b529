"""The payload: what is in it, and the command that runs it."""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import runner_payload
from llmrelay.errors import UnusableConfig
from llmrelay.runners import payload

SOURCES = Path(next(iter(runner_payload.__path__)))


def archive() -> dict[str, str]:
    shipped = payload.load()
    modules = json.loads(zlib.decompress(shipped.blob[shipped.bootstrap_bytes :]))
    assert isinstance(modules, dict)
    return modules


def test_the_payload_is_the_bootstrap_and_every_module_and_nothing_else() -> None:
    shipped, modules = payload.load(), archive()
    bootstrap = (SOURCES / "bootstrap.py").read_bytes()
    assert shipped.blob[: shipped.bootstrap_bytes] == bootstrap
    stems = {path.stem for path in SOURCES.glob("*.py")} - {"bootstrap", "__init__"}
    assert set(modules) == {"runner_payload", *(f"runner_payload.{stem}" for stem in stems)}
    for stem in stems:
        assert modules[f"runner_payload.{stem}"] == (SOURCES / f"{stem}.py").read_text("utf-8")


def test_the_digest_is_of_all_that_is_sent() -> None:
    shipped = payload.load()
    assert shipped.digest == hashlib.sha256(shipped.blob).hexdigest()


def test_every_module_is_written_for_python_3_10() -> None:
    for name, source in archive().items():
        ast.parse(source, name, feature_version=(3, 10))


def test_the_bootstrap_is_ascii_that_any_python_can_read() -> None:
    """Python 2 refuses other bytes before it can say that it is too old."""
    source = (SOURCES / "bootstrap.py").read_text("ascii")
    tree = ast.parse(source)
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]


def test_the_payload_is_small() -> None:
    assert len(payload.load().blob) < 64 * 1024


def test_the_command_is_one_line_that_every_shell_reads_alike() -> None:
    command = payload.load().command("python3")
    assert command.isascii()
    assert command.isprintable()
    assert not set(command) & set("$!\\`")
    assert command.startswith("exec python3 -c '")
    assert command.count("'") == 2


def test_the_command_names_the_sizes_and_the_digest_and_itself_for_ps() -> None:
    shipped = payload.load()
    words = shlex.split(shipped.command("python3"))
    assert words[4:] == [
        "llmrelay-runner",
        str(shipped.bootstrap_bytes),
        str(len(shipped.blob) - shipped.bootstrap_bytes),
        shipped.digest,
    ]


@pytest.mark.parametrize(
    "python", ["python3", "/opt/py-3.12/bin/python3", "~/venv/bin/python", "~ann/bin/p", "./a,b@c"]
)
def test_a_plain_path_is_written_as_it_is_so_that_the_shell_expands_its_tilde(python: str) -> None:
    assert payload.load().command(python).startswith(f"exec {python} -c ")


@pytest.mark.parametrize(
    "python",
    ["/opt/my python", "/opt/$HOME/p", "/opt/a;b", "/opt/`id`", "/opt/a&b|c", '/opt/"x"', "/o/*?["],
)
def test_any_other_path_is_quoted_and_means_itself(python: str) -> None:
    command = payload.load().command(python)
    assert shlex.split(command)[1] == python
    assert command.startswith(f"exec '{python}' -c ")


def test_a_quoted_path_runs(tmp_path: Path) -> None:
    link = tmp_path / "my $python (3)"
    link.symlink_to(sys.executable)
    shipped = payload.load()
    # Without the blob behind it, stage 0 reads nothing and runs nothing.
    done = subprocess.run(
        ["/bin/sh", "-c", shipped.command(str(link))], input=b"", capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "python", ["", "-x", "it's", "a!b", "a\\b", "a\nb", "a\0b", "a\tb", "/opt/é/python", "\x7f"]
)
def test_a_path_that_not_every_shell_reads_alike_is_refused(python: str) -> None:
    with pytest.raises(UnusableConfig, match="--remote-python"):
        payload.load().command(python)
