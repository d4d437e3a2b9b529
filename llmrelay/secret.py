"""The OpenAI key on the front-end: where it comes from, and how it stays out of sight.

Knows no SSH and no frames; runners/runner.py reveals it once per link, into the START frame.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import stat
import sys
from collections.abc import MutableMapping

from .config import Config
from .errors import NoKey

VARIABLE = "OPENAI_API_KEY"
MAX_KEY_CHARS = 8192

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


def read_key(config: Config, environ: MutableMapping[str, str]) -> Secret:
    """The key from --openai-key-file, else from the environment, else from the terminal.

    The variable is taken out of `environ`, so that no child process (a ProxyCommand, say) inherits
    it.

    Raises:
        NoKey: none was given, or what was given is no key.
    """
    variable = environ.pop(VARIABLE, "").strip()
    if config.openai_key_file is not None:
        return _checked(_read_file(config), str(config.openai_key_file))
    if variable:
        return _checked(variable, VARIABLE)
    # Without any stdin at all Python has none either.
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            return _checked(getpass.getpass("OpenAI key: ").strip(), "The terminal")
    raise NoKey(
        f"No OpenAI key: set {VARIABLE} or give --openai-key-file FILE."
        " For an upstream that needs none, any word will do."
    )


def _read_file(config: Config) -> str:
    assert config.openai_key_file is not None
    path = config.openai_key_file
    try:
        with path.open(encoding="ascii") as file:
            mode = path.stat().st_mode
            text = file.read(MAX_KEY_CHARS + 1).strip()
    except OSError as error:
        raise NoKey(f"--openai-key-file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        # `from None`: the exception holds what it could not read.
        raise NoKey(f"--openai-key-file {path} holds no key: it is not ASCII text.") from None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning("%s can be read by every user of this machine; chmod 600 mends it", path)
    return text


def _checked(text: str, source: str) -> Secret:
    # It becomes a header: one word of visible ASCII (RFC 9110, section 5.5).
    if not text:
        raise NoKey(f"{source} holds no key: it is empty.")
    if len(text) > MAX_KEY_CHARS or not all("!" <= c <= "~" for c in text):
        raise NoKey(f"{source} holds no key: a key is one word of plain characters.")
    return Secret(text)
