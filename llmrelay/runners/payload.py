"""runner_payload's sources -> one blob, its digest, and the command that runs it on a host.

The sources are read as text, never imported: the front-end needs none of what they import. The blob
is bootstrap.py as it is, followed by the other modules as zlib-compressed JSON of name to source;
stage 0, the command, reads the first part and runs it, and that reads the rest.

Knows no SSH: it makes a command line and bytes for any channel's stdin.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
import zlib
from dataclasses import dataclass
from importlib import resources

from ..errors import UnusableConfig

_PACKAGE = "runner_payload"
_BOOTSTRAP = "bootstrap.py"

# One line that sh, bash, dash, zsh, fish and tcsh read alike: ASCII, single quotes, no `$`, `!`,
# backslash or newline in it. `exec` leaves no shell waiting beside the runner. The first argument
# is there for whoever reads `ps` on the host.
_STAGE_0 = (
    'import sys;SOURCE=getattr(sys.stdin,"buffer",sys.stdin).read(int(sys.argv[2]));exec(SOURCE)'
)
_TITLE = "llmrelay-runner"

# Characters that mean the same to every shell, `~` included, which they all expand.
_PLAIN = re.compile(r"[A-Za-z0-9_./~+@%:,-]+")


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent to a host.

    Attributes:
        blob: the bytes for stdin.
        digest: their SHA-256, in hex; HELLO brings it back.
    """

    blob: bytes
    digest: str
    bootstrap_bytes: int

    def command(self, python: str) -> str:
        """The command line that runs the blob with the interpreter `python`.

        Raises:
            UnusableConfig: `python` cannot be written so that every shell reads it alike.
        """
        archive_bytes = len(self.blob) - self.bootstrap_bytes
        return (
            f"exec {_quoted(python)} -c '{_STAGE_0}'"
            f" {_TITLE} {self.bootstrap_bytes} {archive_bytes} {self.digest}"
        )


@functools.cache
def load() -> Payload:
    """The payload of this installation."""
    bootstrap = b""
    sources = {}
    for entry in sorted(resources.files(_PACKAGE).iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".py"):
            continue
        source = entry.read_bytes()
        stem = entry.name.removesuffix(".py")
        if entry.name == _BOOTSTRAP:
            bootstrap = source
        else:
            name = _PACKAGE if stem == "__init__" else f"{_PACKAGE}.{stem}"
            sources[name] = source.decode()
    blob = bootstrap + zlib.compress(json.dumps(sources).encode(), 9)
    return Payload(blob, hashlib.sha256(blob).hexdigest(), len(bootstrap))


def _quoted(python: str) -> str:
    usable = python.isprintable() and python.isascii() and not set(python) & set("'!\\")
    if not python or python.startswith("-") or not usable:
        raise UnusableConfig(
            f"--remote-python {python!r} cannot be passed through every shell:"
            " use a path of plain characters."
        )
    return python if _PLAIN.fullmatch(python) else shlex.quote(python)
