"""An inventory of many hosts in many groups is no more work for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from llmrelay.inventory.ini import parse
from llmrelay.inventory.model import Inventory


def test_thousands_of_hosts_in_hundreds_of_groups_are_read_at_once() -> None:
    """By what is counted: how often groups are gone through does not grow with the hosts."""
    groups = "".join(f"[g{n}]\nh[{n * 20}:{n * 20 + 19}]\n" for n in range(200))
    text = f"{groups}[top:children]\n" + "".join(f"g{n}\n" for n in range(200))
    asked: Counter[str] = Counter()
    descendants = Inventory.descendants

    def counted(inventory: Inventory, name: str) -> Iterator[str]:
        asked[name] += 1
        return descendants(inventory, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inventory, "descendants", counted)
        inventory = parse(text, "hosts")
        assert len({host: inventory.variables_of(host) for host in inventory.hosts}) == 4000
    assert max(asked.values()) <= 4
