"""What is wrong with an inventory is said with its line."""

from __future__ import annotations

import pytest

from llmrelay.inventory.ini import InvalidInventory, parse
from llmrelay.inventory.model import Origin


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n[web\n", r"hosts:2: .* is no host|hosts:2: '\[web' has a \[ without a \]"),
        ("[a b]\n", "hosts:1: the section's name"),
        ("[web:variables]\n", r"hosts:1: there are no sections \[web:variables\]"),
        ("\n\n[web]\nh1 port\n", "hosts:4: 'port' behind a host is no NAME=VALUE"),
        ("[web]\nh1 x='open\n", "hosts:2: No closing quotation"),
        ("[web]\n[web:vars]\nx\n", "hosts:3: 'x' is no NAME=VALUE"),
        ("[web:vars]\nx=1\n", "hosts:1: variables of 'web', and there is no such group"),
        ("[web:children]\ndb\n", "hosts:2: a child of 'db', and there is no such group"),
        ("[a]\n[b]\n[a:children]\nb\n[b:children]\na\n", "hosts:6: a cannot be in b"),
        ("[a:children]\na\n", "hosts:2: a cannot be in a"),
        ("h[1:2:3:4]\n", r"hosts:1: \[1:2:3:4\] is no range"),
        ("h[3:]\n", "has no end"),
        ("h[c:a]\n", "ends before it begins"),
        ("h[1:9:0]\n", "the step is no number above 0"),
        ("h[01:9]\n", "equally long"),
        ("h[1:z]\n", "neither from number"),
        ("h[1:1000000]\n", "more than 100000 hosts"),
        ("h[1:99999][1:99999]\n", "more than 100000 hosts"),
        ("h[1:60000]\ni[1:60000]\n", "hosts:2: with these there are more than 100000 hosts"),
        ("h" + "[1:1]" * 2000 + "\n", "hosts:1: a host's name has more than 64 ranges"),
        ("all:\n  hosts:\n", "hosts:1: .*is this YAML"),
        ("---\n", "is this YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInventory, match=said):
        parse(text, "hosts")


def test_each_variable_knows_where_it_was_set() -> None:
    inventory = parse("[g]\nh a=1\n[g:vars]\nb=2\n", "hosts")
    origins = {name: each.origin for name, each in inventory.variables_of("h").items()}
    assert origins == {"a": Origin("hosts", 2), "b": Origin("hosts", 4)}


def test_a_byte_order_mark_is_no_part_of_the_first_host() -> None:
    assert list(parse("\ufeffh1\n", "hosts").hosts) == ["h1"]
