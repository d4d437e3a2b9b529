"""What is written agrees with what is there."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrelay import errors
from llmrelay.config import options
from llmrelay.errors import CannotListen, ConnectError
from scripts.generate_docs import PAGES
from tests.helpers.openssh import INSTALL_HINT, skip_or_fail

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_generated_page_is_up_to_date(name: str, page: Callable[[], str]) -> None:
    assert (ROOT / name).read_text() == page(), "run scripts/generate_docs.py"


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_option_that_is_written_about_exists(name: str) -> None:
    known = {option.flag for _, option in options()} | {
        "--port", "--help", "--version", "--once",
        # Other programs'.
        "--no-buffer", "--upgrade", "--raw", "--data-binary",
        # `scripts/bench`'s.
        "--rounds", "--json", "--profile", "--peers", "--quick",
        # `llmrelay inventory`'s, `llmrelay chat`'s.
        "--graph", "--url",
        # `llmrelay token`'s.
        "--calls", "--per-minute",
    }  # fmt: skip
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / name).read_text()))
    assert written <= known


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target


def test_the_units_for_systemd_are_taken_as_they_stand(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        skip_or_fail(f"no systemd-analyze on this machine ({INSTALL_HINT})")
    assert verify is not None
    service, socket = re.findall(r"```ini\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.S)
    # Where the program is depends on the machine; the rest is read as it is.
    here = service.replace("/opt/llmrelay/bin/llmrelay", sys.executable)
    assert here != service
    units = {"llmrelay.service": here, "llmrelay.socket": socket}
    for name, unit in units.items():
        (tmp_path / name).write_text(unit)
    checked = subprocess.run(
        [verify, "verify", "--man=no", *(str(tmp_path / name) for name in units)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_service_is_not_restarted_where_a_person_has_to_mend_something() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    stuck = {
        kind.exit_code
        for kind in kinds
        if issubclass(kind, ConnectError) and not kind.heals and kind is not CannotListen
    }
    text = (ROOT / "docs/deploy.md").read_text()
    [written] = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert set(map(int, written.split())) == {2, *stuck}
