"""The fuzzer's own checks: that it counts, and that it fails where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fuzzing import compare
from tests.http import differential_reasons
from tests.http.corpus import load

ROOT = Path(__file__).parent.parent
FUZZES = sys.version_info < (3, 14) and sys.platform == "linux" and os.uname().machine == "x86_64"


def test_compare_prints_cases_agreements_and_each_disagreement_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare.run(300, seed=1) == 0
    said = capsys.readouterr().out
    assert said.startswith("cases 300 (seed 1), agreements ")
    assert "llhttp: a method that is not in llhttp's list (they refuse what we take)" in said
    assert "RFC 9110, section 9.1" in said
    assert said.endswith("disagreements without a reason 0\n")


def test_compare_fails_on_a_disagreement_without_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(differential_reasons, "REASONS", [])
    assert compare.run(300, seed=1) == 1
    assert "they refuse what we take" in capsys.readouterr().out


@pytest.mark.skipif(not FUZZES, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", ["parser", "connection", "multipart"])
def test_a_target_takes_every_kind_of_case(target: str, tmp_path: Path) -> None:
    paths = []
    for number, case in enumerate(load("refused", "taken", "ended", "stalled")[::40]):
        path = tmp_path / str(number)
        path.write_bytes(b"\0\0" + case.raw)
        paths.append(str(path))
    run = subprocess.run(
        [sys.executable, "-m", "scripts.fuzzing", target, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.skipif(not FUZZES, reason="atheris has no wheel for this Python")
def test_what_a_target_finds_is_counted_kept_and_repeatable(tmp_path: Path) -> None:
    """The bug to find: a Content-Length that is no number reaches int()."""
    (tmp_path / "sitecustomize.py").write_text(
        "import llmrelay.http.head as head\nhead._CONTENT_LENGTH = __import__('re').compile('.+')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "scripts.fuzzing", "parser", "--seconds", "30", "--seed", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 1
    assert "crashes 1, hangs 0" in run.stdout
    found = Path(run.stdout.rpartition(" ")[2].strip())
    assert "Repeat it with: scripts/fuzz parser fuzz-found/parser-crash-" in run.stdout
    assert (ROOT / found).is_file()
    (ROOT / found).unlink()
