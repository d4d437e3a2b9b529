"""The runners' keys on the front-end: where they come from, and how they stay out of sight.

Knows no SSH and no frames; runners/provision.py reveals a key once per link, into the START frame,
and link.py once more where it is renewed.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import stat
import sys
from collections.abc import MutableMapping
from pathlib import Path

from .config import Config
from .errors import NoKey
from .runners.spec import KeySource

VARIABLE = "OPENAI_API_KEY"
MAX_KEY_CHARS = 8192
# What an upstream that needs none is sent: any word will do, but for one that is somebody's key.
_NO_KEY = "none"

logger = logging.getLogger("llmrelay")


class Secret:
    """A text that shows as *** wherever it is printed by mistake."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; only for where it has to go."""
        return self._text

    def __repr__(self) -> str:
        return "***"


class Keys:
    """The runners' keys, each from where its inventory entry says, else from where `serve` has its.

    Variables are taken out of `environ` when they are first read, so that no child process (a
    ProxyCommand, say) inherits them; files are read anew each time.
    """

    def __init__(self, config: Config, environ: MutableMapping[str, str]) -> None:
        self._file = config.openai_key_file
        self._environ = environ
        self._taken = {VARIABLE: environ.pop(VARIABLE, "").strip()}
        self._typed: Secret | None = None

    def read(self, source: KeySource = KeySource()) -> Secret:  # noqa: B008 - it is frozen
        """The key from `source`; if that names none, from --openai-key-file, else from the
        environment, else from the terminal.

        Raises:
            NoKey: there is none, or what is there is no key.
        """
        if source.file is not None:
            return _read_file(source.file, "llmrelay_key_file")
        if source.variable is not None:
            return self._variable(source.variable)
        if not source.needed:
            return Secret(_NO_KEY)
        if self._file is not None:
            return _read_file(self._file, "--openai-key-file")
        if self._taken[VARIABLE]:
            return _checked(self._taken[VARIABLE], VARIABLE)
        if self._typed is None:
            self._typed = _ask()
        return self._typed

    def _variable(self, name: str) -> Secret:
        if name not in self._taken:
            if name not in self._environ:
                raise NoKey(
                    f"No key: the environment variable {name}, where this upstream's key is, is not"
                    " set. --openai-key-file names a file, and in an inventory llmrelay_key_env or"
                    " llmrelay_key_file the key of one host."
                )
            self._taken[name] = self._environ.pop(name).strip()
        return _checked(self._taken[name], name)


def _ask() -> Secret:
    # Without any stdin at all Python has none either.
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            return _checked(getpass.getpass("OpenAI key: ").strip(), "The terminal")
    raise NoKey(
        f"No OpenAI key: set {VARIABLE} or give --openai-key-file FILE."
        " For an upstream that needs none, any word will do."
    )


def _read_file(path: Path, named_by: str) -> Secret:
    try:
        with path.open(encoding="ascii") as file:
            mode = path.stat().st_mode
            text = file.read(MAX_KEY_CHARS + 1).strip()
    except OSError as error:
        raise NoKey(f"{named_by} {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        # `from None`: the exception holds what it could not read.
        raise NoKey(f"{named_by} {path} holds no key: it is not ASCII text.") from None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning("%s can be read by every user of this machine; chmod 600 mends it", path)
    return _checked(text, str(path))


def _checked(text: str, source: str) -> Secret:
    # It becomes a header: one word of visible ASCII (RFC 9110, section 5.5).
    if not text:
        raise NoKey(f"{source} holds no key: it is empty.")
    if len(text) > MAX_KEY_CHARS or not all("!" <= c <= "~" for c in text):
        raise NoKey(f"{source} holds no key: a key is one word of plain characters.")
    return Secret(text)
