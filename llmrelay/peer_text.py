"""Text that another machine sent, made fit for a terminal, a log and an error's one sentence.

Hosts, runners and upstreams are not trusted with escape sequences or line ends: what they say is
shown on one line, bounded, and can neither steer a terminal nor forge a line of a log.
"""

from __future__ import annotations

MAX_CHARS = 600


def one_line(text: str, max_chars: int = MAX_CHARS) -> str:
    """`text` on one line of printable characters, of at most `max_chars`."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"
