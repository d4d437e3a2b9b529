"""The tokens that clients ask with: a file of them, whose each one is, and how much it may ask.

A line of the file is a name, the token or its SHA-256, and limits. In memory there are hashes
alone. A name may be shown and logged; a token and its hash never are, in no log, error or repr.

Knows no request and no clock: guard.py reads the token out of a request, connection.py tells the
time. serve.py has the file read at start and on SIGHUP; usage goes on under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..errors import RateLimited, UnusableConfig
from ..values import count

logger = logging.getLogger("llmrelay.http")

# Every request is compared with every token: 1,000 of them take 0.15 ms.
MAX_TOKENS: Final = 1000
MAX_FILE_BYTES: Final = 512 * 1024
# Shorter ones could be guessed, or are a word in the wrong place.
MIN_TOKEN_CHARS: Final = 16
MAX_TOKEN_CHARS: Final = 1024

PREFIX: Final = "llmrelay-"  # tells people, and scanners of source code, what it is
_RANDOM_BYTES: Final = 32

# What `Authorization: Bearer` can carry (RFC 6750, section 2.1).
TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
# Shorter than the tokens that people have, so that one in a name's place is not taken for a name.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_SHA256: Final = re.compile(r"sha256:([0-9A-Fa-f]{64})")

_MINUTE_S: Final = 60.0
# What rounding may take from a wait, in requests.
_ROUNDING: Final = 1e-6

MAX_CALLS: Final = 65_536
MAX_PER_MINUTE: Final = 1_000_000
_LIMITS: Final = {"calls": MAX_CALLS, "per-minute": MAX_PER_MINUTE}


@dataclass(slots=True)
class Usage:
    """What has been asked under one name.

    Attributes:
        calls: those that are being answered now.
    """

    calls: int = 0
    _spent: float = 0.0  # requests, less those that time has given back
    _at_s: float = 0.0

    def wait_s(self, per_minute: int, now_s: float) -> float:
        """Seconds until one more request is within `per_minute`; 0 if it is now.

        A token bucket: after a minute's pause `per_minute` requests may come at once, and then one
        in each 1/`per_minute` of a minute.
        """
        given_back = max(0.0, now_s - self._at_s) * per_minute / _MINUTE_S
        self._spent = max(0.0, self._spent - given_back)
        self._at_s = now_s
        over = self._spent + 1 - per_minute
        return over * _MINUTE_S / per_minute if over > _ROUNDING else 0.0

    def spend(self) -> None:
        """Count a request."""
        self._spent += 1


@dataclass(frozen=True, slots=True)
class Caller:
    """One line of the file: who asks, and how much they may.

    Attributes:
        name: for the log.
        calls: how many at once; None for no limit.
        per_minute: how many requests in a minute; None for no limit.
    """

    name: str
    calls: int | None
    per_minute: int | None
    digest: bytes = field(repr=False)
    usage: Usage = field(default_factory=Usage, repr=False, compare=False)

    @contextlib.contextmanager
    def calling(self, now_s: float) -> Iterator[None]:
        """Counts a call for as long as the context lasts.

        Args:
            now_s: seconds on any clock that does not jump.

        Raises:
            RateLimited: it would be one too many; it is not counted then.
        """
        usage = self.usage
        if self.calls is not None and usage.calls >= self.calls:
            raise RateLimited(
                f"The limit of {self.name}'s token, {self.calls} at once, is reached; let one end.",
                retry_after_s=1,
            )
        if self.per_minute is not None:
            if wait_s := usage.wait_s(self.per_minute, now_s):
                raise RateLimited(
                    f"The limit of {self.name}'s token, {self.per_minute} a minute, is reached.",
                    retry_after_s=wait_s,
                )
            usage.spend()
        usage.calls += 1
        try:
            yield
        finally:
            usage.calls -= 1


class Tokens:
    """The table of all callers; nobody is known before `load`.

    Args:
        path: the file of --auth-tokens.
        share: how much of a limit is for us to keep, where there are other front-ends like this.
    """

    def __init__(self, path: Path, share: Callable[[int], int] = lambda limit: limit) -> None:
        self._path = path
        self._share = share
        self._callers: list[Caller] = []

    def load(self) -> None:
        """Read the file, at first or again. What was asked so far still counts, name by name.

        Raises:
            UnusableConfig: it cannot be used; says where and why, and shows no token. The table
                stays as it was.
        """
        callers = _load(self._path)
        known = {caller.name: caller.usage for caller in self._callers}
        self._callers = [
            replace(
                caller,
                calls=caller.calls and self._share(caller.calls),
                per_minute=caller.per_minute and self._share(caller.per_minute),
                usage=known.get(caller.name, caller.usage),
            )
            for caller in callers
        ]

    def find(self, token: str) -> Caller | None:
        """Whose token it is. Takes the same time for every token, known or not."""
        digest = _digest(token)
        found = None
        for caller in self._callers:
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        return found

    def __len__(self) -> int:
        return len(self._callers)


# --- The file -----------------------------------------------------------------------------------


def make_token() -> str:
    """A new one, that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def make_line(name: str, token: str, calls: int | None, per_minute: int | None) -> str:
    """The file's line for a token, with its hash."""
    words = [name, f"sha256:{_digest(token).hex()}"]
    if calls is not None:
        words.append(f"calls={calls}")
    if per_minute is not None:
        words.append(f"per-minute={per_minute}")
    return " ".join(words)


def parse_name(text: str) -> str:
    """A caller's name: one word that can stand in a log.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(
            "a name is up to 40 of A-Z a-z 0-9 . _ @ - and begins with a letter or digit"
        )
    return text


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _load(path: Path) -> list[Caller]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            callers, plain = _parse(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise UnusableConfig(f"--auth-tokens {path} cannot be read: {error.strerror}.") from error
    except _Unusable as unusable:
        # `from None`: the frames that raised it hold what they could not read.
        raise UnusableConfig(f"--auth-tokens {path}{unusable}.") from None
    if plain and stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning(
            "%s holds tokens and can be read by every user of this machine; chmod 600 mends it,"
            " or hashes in place of the tokens (llmrelay token)",
            path,
        )
    return callers


class _Unusable(Exception):
    """Says where in the file and why; goes behind the file's name."""


def _parse(raw: bytes) -> tuple[list[Caller], bool]:
    """The file's lines; and whether any has the token itself."""
    if len(raw) > MAX_FILE_BYTES:
        raise _Unusable(f" is over {MAX_FILE_BYTES // 1024} KiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _Unusable(" is not UTF-8 text") from None
    callers: list[Caller] = []
    lines: dict[str | bytes, int] = {}  # where each name and each hash stands
    plain = False
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            caller = _parse_line(words)
        except ValueError as error:
            raise _Unusable(f":{number}: {error}") from None
        for key, what in ((caller.name, f"the name {caller.name}"), (caller.digest, "the token")):
            if key in lines:
                raise _Unusable(f":{number}: {what} is in line {lines[key]} already")
            lines[key] = number
        callers.append(caller)
        plain = plain or not _SHA256.fullmatch(words[1])
    if not callers:
        raise _Unusable(" holds no token; make one: llmrelay token NAME >> FILE")
    if len(callers) > MAX_TOKENS:
        raise _Unusable(f" holds over {MAX_TOKENS} tokens")
    return callers, plain


def _parse_line(words: list[str]) -> Caller:
    name = parse_name(words[0])
    if len(words) == 1:
        raise ValueError("a line is `NAME TOKEN [calls=N] [per-minute=N]`")
    limits: dict[str, int] = {}
    for word in words[2:]:
        key, equals, value = word.partition("=")
        # No word is shown: it may be a token, in the wrong place.
        if not equals or key not in _LIMITS:
            raise ValueError("behind the token come calls=N and per-minute=N, and nothing else")
        if key in limits:
            raise ValueError(f"{key} is there twice")
        try:
            limits[key] = count(1, _LIMITS[key])(value)
        except ValueError:
            raise ValueError(f"{key} is a whole number from 1 to {_LIMITS[key]}") from None
    return Caller(name, limits.get("calls"), limits.get("per-minute"), _parse_token(words[1]))


def _parse_token(word: str) -> bytes:
    """The hash of a token, or of what a line says is one."""
    if word.lower().startswith("sha256:"):
        match = _SHA256.fullmatch(word)
        if match is None:
            raise ValueError("behind `sha256:` come 64 hexadecimal digits")
        return bytes.fromhex(match[1])
    if not TOKEN.fullmatch(word):
        raise ValueError("a token is of A-Z a-z 0-9 - . _ ~ + / and may end with = (RFC 6750)")
    if not MIN_TOKEN_CHARS <= len(word) <= MAX_TOKEN_CHARS:
        raise ValueError(f"a token has {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters")
    return _digest(word)
