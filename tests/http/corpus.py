"""Reads the corpus, tests/http/cases/: what a server has to refuse or to take, one file per rule.

A file has `rule`, `source` (the RFC's sections, the CVEs) and lists of cases:

    refused   answered with `status` (400 if unsaid), and the connection ends
    taken     read as the case says; `keep_alive` is true if unsaid
    ended     the client ends its bytes behind them: `status`, or 0 for an end in silence
    stalled   the client sends no more and waits: 408 if unsaid, or 0

A case's bytes are `part` between the file's `before` and `after`: a text in Latin-1, a list of
such, or `{ repeat = ..., times = ... }`. Knows no parser and no server; used by the tests beside it
and, as the first corpus, by scripts/fuzz.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

CASES: Final = Path(__file__).parent / "cases"

# The limits that the cases were written for.
MAX_HEAD_BYTES: Final = 2048
MAX_HEADERS: Final = 10
MAX_BODY_BYTES: Final = 1000

# Follows each case, to show whether it is read as a request of its own.
SECOND: Final = b"POST /second HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok"

_FILE_KEYS: Final = {"rule", "source", "before", "after"}
_STATUS: Final = {"refused": 400, "taken": 200, "ended": 400, "stalled": 408}
# What a taken case may say of its Request; the rest of it is its body.
_REQUEST_KEYS: Final = {
    "method", "target", "path", "query", "scheme", "authority", "version", "headers",
    "keep_alive", "expect_continue", "framing",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A case; `kind` is the list that it stands in, `request` what a taken one is read as."""

    file: str
    kind: str
    name: str
    raw: bytes
    status: int
    request: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    @property
    def keep_alive(self) -> bool:
        """Whether a request behind it is answered."""
        return self.kind == "taken" and bool(self.request["keep_alive"])

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def load(*kinds: str) -> list[Case]:
    """All cases of these kinds, in the order of the files' names."""
    return [case for path in sorted(CASES.glob("*.toml")) for case in _read(path, kinds)]


def by_file(cases: list[Case]) -> dict[str, list[Case]]:
    """The same cases, under the file that each is in: a test for each file costs a tenth of one for
    each case.
    """
    return {file: list(group) for file, group in groupby(cases, lambda case: case.file)}


def _read(path: Path, kinds: tuple[str, ...]) -> list[Case]:
    content = tomllib.loads(path.read_text())
    lists = {kind: content.pop(kind, []) for kind in _STATUS}
    if unknown := content.keys() - _FILE_KEYS:
        raise ValueError(f"{path.name}: no such keys: {unknown}")
    before, after = _bytes(content.get("before", "")), _bytes(content.get("after", ""))
    return [
        _case(path.stem, kind, before + _bytes(given.pop("part")) + after, given)
        for kind in kinds
        for given in lists[kind]
    ]


def _case(file: str, kind: str, raw: bytes, given: dict[str, Any]) -> Case:
    name = given.pop("name")
    status = given.pop("status", _STATUS[kind])
    body = _bytes(given.pop("body", ""))
    if kind == "taken":
        given.setdefault("keep_alive", True)
    if unknown := given.keys() - (_REQUEST_KEYS if kind == "taken" else ()):
        raise ValueError(f"{file}: {name}: no such keys: {unknown}")
    return Case(file, kind, name, raw, status, given, body)


def _bytes(text: Any) -> bytes:
    match text:
        case str():
            return text.encode("latin-1")
        case list():
            return b"".join(map(_bytes, text))
        case {"repeat": repeat, "times": int(times)}:
            return _bytes(repeat) * times
    raise ValueError(f"neither a text nor a list nor a repetition: {text!r}")
