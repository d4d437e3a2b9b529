"""Our reading of Ansible's INI format and patterns is Ansible's: asked of `ansible-inventory`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.inventory.agreement import Ansible, ours
from tests.inventory.generated import FLEET, INVENTORIES, PATTERNS

CASES = sorted((Path(__file__).parent / "cases").glob("*.ini"))
EXAMPLE = Path(__file__).parent.parent.parent / "inventory.ini"

# The same ones each time, as a test has to say the same each time; scripts/fuzz has the others.
generated = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def ansible() -> Iterator[Ansible]:
    with Ansible() as running:
        yield running


@pytest.mark.parametrize("case", [*CASES, EXAMPLE], ids=lambda path: path.name)
def test_an_inventory_is_understood_as_ansible_does(case: Path, ansible: Ansible) -> None:
    text = case.read_text()
    theirs = ansible.list(text)
    assert theirs is not None
    assert ours(text) == theirs
    assert ours(text.replace("\n", "\r\n")) == theirs


@generated
@given(text=INVENTORIES)
def test_what_nobody_has_written_is_understood_as_ansible_does(text: str, ansible: Ansible) -> None:
    assert ours(text) == ansible.list(text)


@generated
@given(pattern=PATTERNS)
def test_a_pattern_selects_the_hosts_that_ansible_selects(pattern: str, ansible: Ansible) -> None:
    theirs, mine = ansible.list(FLEET, pattern), ours(FLEET, pattern)
    if theirs is None or mine is None:
        assert theirs is mine is None
    else:
        assert mine["groups"] == theirs["groups"]
