"""What the events of one stream have in common: everything but their text.

A server says id, model, time and a dozen field names with each delta, and says them alike. Once one
event has been parsed, another with the same bytes before and behind its text needs no parser: its
text is what stands between, provided that it is a string of plain characters there. That is all
that a delta costs then, where parsing was most of it.

Sans-IO; knows JSON strings, and of events only that each is a line. Used by deltas.py, which parses
whatever is not alike.
"""

from __future__ import annotations

# What stands for itself in a JSON string (RFC 8259, section 7) and in an event's line. ASCII alone:
# of other bytes a parser has to say whether they are UTF-8.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
# Some servers give each event something of its own. Looking at what has changed costs as much as
# parsing, so it is done again only after so many events that were alike.
_WORTH = 4
_NEVER = b"\0"


class Alike:
    """The common part of a stream's events."""

    # What learn() puts in the text's place.
    OTHER = "?"

    def __init__(self) -> None:
        self._before = _NEVER
        self._behind = b""
        self._before_bytes = self._behind_bytes = 0
        self._hits = _WORTH

    def text(self, event: bytes) -> bytes | None:
        """The text of an event that differs in nothing else from the one that was learned.

        Args:
            event: with the blank line that ends it; may be anything else.
        """
        at = self._before_bytes
        if event[:at] == self._before and event[-self._behind_bytes :] == self._behind:
            text = event[at : -self._behind_bytes]
            if not text.translate(None, _PLAIN):
                self._hits += 1
                return text
        return None

    def learn(self, event: bytes, text: str) -> bytes | None:
        """Takes `event`, which says nothing but `text`, for a model of those to come.

        Returns:
            The same event with another text, for the caller to parse: forget() it unless that is
            all that has changed. None where nothing was learned.
        """
        if self._hits < _WORTH:
            return None
        self._hits = 0
        quoted = b'"%b"' % text.encode("utf-8", "replace")
        if not text or quoted[1:-1].translate(None, _PLAIN) or event.count(quoted) != 1:
            return None
        at = event.index(quoted) + 1
        self._before, self._behind = event[:at], event[at + len(text) :]
        self._before_bytes, self._behind_bytes = len(self._before), len(self._behind)
        return self._before + self.OTHER.encode() + self._behind

    def forget(self) -> None:
        """No event is alike."""
        self._before, self._before_bytes = _NEVER, len(_NEVER)
