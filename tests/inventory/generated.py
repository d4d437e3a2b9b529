"""Inventories and patterns that nobody has written: for hypothesis, and for scripts/fuzz.

Most parts are what people write, and a few are not: an inventory of nothing but mistakes is refused
by everybody, and shows little.
"""

from __future__ import annotations

from hypothesis import strategies as st

Text = st.SearchStrategy[str]


def _mostly(good: list[str], bad: list[str]) -> Text:
    """One of `good`; one time in thirty of `bad`."""
    return st.integers(0, 29).flatmap(lambda die: st.sampled_from(good if die else bad))


_NAMES = ["web", "db", "gpu", "a-b", "x_1", "9", "Ünï"]
NAMES = _mostly(_NAMES, ["all", "ungrouped", "gpu"])
HOSTS = _mostly(
    [
        "a", "b1", "gpu01", "localhost", "10.0.0.1", "host.example.com", "x-y", "gpu[01:03]",
        "n[a:c]", "n[1:9:3]", "[1:2]x[a:b]", "h:2222", "h[1:2]:22", "h[:3]", "h[08:10]", "h[A:C]",
        "::1", "[::1]:22", "fe80::1", "2001:db8::[1:3]", "h[001:003]", "a_b:80", "ü", "a.", "-",
        "Web", "[2001:db8::5]:2200", "h:0", "n[1:1]", "x[9:11].y[1:2]:5", "a..b:1", "-x:5", ".a:3",
    ],
    ["h:", "h:port", "h[3:1]", "h[1:]", "h[1:10:0]", "[x]", "h[1", "h[a:C]", "h[c:a]", "h[1:2:3:4]",
     "[::1]", "[fe80::1%eth0]:22", "h[001:3]", "---", "a: b", "h]", "h[1:b]", "h[]"],
)  # fmt: skip
VARIABLES = _mostly(
    ["a", "b", "c", "ansible_host", "ansible_port", "x.y", "ansible_user", "ü"], ["", "a b"]
)
VALUES = _mostly(
    [
        "1", "01", "1.5", "1e3", "0x10", "True", "true", "None", "yes", "abc", "'a b'", '"a b"',
        "'it''s'", '"\'q\'"', "[1,2]", "{'a':1}", "(1,2)", "{1}", "a;b", "#x", "a#x", "a=b", "",
        "\\n", "a\\ b", "{{x}}", "1+2", "-1", "1_000", "ümlaut", "$HOME", "~/.ssh/id", "...",
        "'-o A=b -J c'", "'[1, 2]'", "\"{'a': 'b'}\"", "1j", "[a]", "{'a'", "0b11", "''", '""',
        "'1'", "\"'1'\"", "a'b'c", "1.", "-", "nan", "1e999", "'#'", "not", "True and False",
    ],
    ["'", '"', "a b", "'x"],
)  # fmt: skip
LOOSE_VALUES = st.one_of(
    VALUES,
    st.sampled_from(
        ["a b", "a # b", "5 # b", "[1, 2]", "'a' # b", "a ; b", "5 ; b", "'x' 'y'", '"a']
    ),
)  # fmt: skip
COMMENTS = st.sampled_from(["# c", "; c", "  # c", "", "   "])

_ASSIGNMENT = st.builds("{}={}".format, VARIABLES, VALUES)
_HOST_LINE = st.builds(
    lambda host, given, end: " ".join([host, *given, *end]),
    HOSTS,
    st.lists(_ASSIGNMENT, max_size=3),
    _mostly(["", "", "# c"], ["word", ";"]).map(lambda end: [end] if end else []),
)
_VARIABLE_LINE = st.one_of(
    st.builds("{}{}{}".format, VARIABLES, _mostly(["=", " = ", "= "], [" ", ":"]), LOOSE_VALUES),
    st.builds("ansible_group_priority={}".format, _mostly(["2", "10", "-1", "'3'"], ["x", "1.5"])),
)


def _section(kind: str, lines: Text) -> st.SearchStrategy[list[str]]:
    return st.builds(
        lambda name, end, body: [f"[{name}{kind}]{end}", *body],
        NAMES,
        _mostly(["", " ", " # c", "# c"], ["x", " x"]),
        st.lists(st.one_of(lines, lines, lines, COMMENTS), max_size=4),
    )


_SECTIONS = st.one_of(
    _section("", _HOST_LINE),
    _section("", _HOST_LINE),
    _section(":vars", _VARIABLE_LINE),
    _section(":children", st.builds("{}{}".format, NAMES, st.sampled_from(["", "", " # c"]))),
    _section(":hosts", _HOST_LINE),
)
# Groups that children and vars may name: a name that is nowhere a section is refused.
_DECLARED = _mostly([", ".join(_NAMES)], ["web, db", "gpu"]).map(
    lambda names: [f"[{name}]" for name in names.split(", ")]
)
INVENTORIES = st.builds(
    lambda loose, sections, declared: "\n".join(
        [*loose, *(line for each in sections for line in each), *declared, ""]
    ),
    st.lists(st.one_of(_HOST_LINE, COMMENTS), max_size=2),
    st.lists(_SECTIONS, min_size=1, max_size=6),
    _DECLARED,
)

# What patterns are tried on.
FLEET = """
lone
fe80::1%eth0
[fe]
fe1
[cafe]
cafe1
[web]
web[1:4].example.com
[db]
db[a:c]
web1.example.com
[gpu:children]
db
small
[small]
gpu01
gpu02
2001:db8::1
[west]
web2.example.com
gpu01
"""
_PARTS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "!", "&"]),
    st.sampled_from(
        [
            "all", "*", "web", "db", "gpu", "small", "lone", "w*", "*.example.com", "gpu0?",
            "web1.example.com", "dba", "~web[12]", "~(web|gpu)", "nope", "[dg]*", "2001:db8::1",
            "ungrouped", "db*", "~.*a$", "west", "WEB", "web[1-2]*", "",
            "fe", "cafe", "fe80::1%eth0",
        ]
    ),
    st.sampled_from(
        ["", "", "", "", "[0]", "[-1]", "[1:2]", "[1:]", "[0:0]", "[-2]", "[9]", "[1-2]"]
    ),
)  # fmt: skip
PATTERNS = st.builds(
    lambda parts, divider: divider.join(parts),
    st.lists(_PARTS, min_size=1, max_size=4),
    st.sampled_from([",", ":", ", "]),
)
