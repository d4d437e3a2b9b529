"""What is written agrees with what is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrelay.config import options
from scripts.generate_docs import PAGES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_generated_page_is_up_to_date(name: str, page: Callable[[], str]) -> None:
    assert (ROOT / name).read_text() == page(), "run scripts/generate_docs.py"


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").iterdir())]
)
def test_every_option_that_is_written_about_exists(name: str) -> None:
    known = {option.flag for _, option in options()} | {
        "--port", "--help", "--version", "--once",
        # Other programs'.
        "--no-buffer", "--upgrade", "--rounds", "--json", "--profile", "--raw",
        # `llmrelay token`'s.
        "--calls", "--per-minute",
    }  # fmt: skip
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / name).read_text()))
    assert written <= known


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").iterdir())]
)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target
