"""What the events of one stream have in common: everything but their text.

A server says id, model, time and a dozen field names with each delta, and says them alike. Once one
event has been parsed, others with the same bytes before and behind their text need no parser: their
text is what stands between, provided that it is a JSON string there. That is all that a delta costs
then, where parsing was most of it; out of a thousand in one read the common part is cut at once.

Sans-IO; knows JSON strings, and of events only that each is a line. Used by deltas.py, which parses
whatever is not alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Leaves what stands for itself in a JSON string (RFC 8259, section 7) and in an event's line, and
# nothing else, as it is. ASCII alone: of other bytes a parser has to say whether they are UTF-8.
_PLAIN = bytes(byte if 0x20 <= byte < 0x7F and byte not in b'"\\' else 0x3F for byte in range(256))
# Some servers give each event something of its own. Looking at what has changed costs as much as
# parsing, so it is done again only after so many reads that were alike.
_WORTH = 4
# A delta's text, up to the quote behind it.
_TEXT = re.compile(rb'"content"\s*:\s*"((?:[^"\\]|\\.)*)')


class Alike:
    """The common part of a stream's events.

    Args:
        parse: JSON; raises ValueError.
    """

    # What learn() puts in the text's place.
    OTHER = "?"

    def __init__(self, parse: Callable[[bytes], Any]) -> None:
        self._parse = parse
        self._learned = self._before = b""
        self._begin = 1
        self._behind, self._end = b"", -1
        # What stands between two texts, and where one event ends in it.
        self._join = self._blank = b""
        self._hits = _WORTH

    def text(self, events: bytes) -> bytes | None:
        """The text of events that differ in nothing else from the one that was learned.

        Args:
            events: one or more, each with the blank line that ends it; may be anything else.
        """
        begin, end = self._begin, self._end
        if events[:begin] == self._before and events[end:] == self._behind:
            text = events[begin:end]
            if text.translate(_PLAIN) != text:
                return self._texts(events)
            if text:
                self._hits += 1
                return text
        return None

    def _texts(self, events: bytes) -> bytes | None:
        """As text(), of several events, or where a parser has to say what their text is."""
        begin, end = self._begin, self._end
        each_end = end + len(self._blank)
        texts = [event[begin:each_end] for event in events.split(self._blank)[:-1]]
        if self._join.join(texts) != events[begin:end]:
            return None
        text = b"".join(texts)
        if text.translate(_PLAIN) != text:
            array = b'","'.join(texts)
            # A backslash before a quote that is not a text's: that is somewhere else, then.
            if b'\\","' in array or array[-1:] == b"\\":
                return None
            try:
                found = self._parse(b'["%b"]' % array)
            except ValueError:
                return None
            # There are more if a text has such a quote in it.
            if len(found) != len(texts):
                return None
            text = "".join(found).encode()
        self._hits += 1
        return text

    def learn(self, event: bytes) -> bytes | None:
        """Takes `event`, which says nothing but a text, for a model of those to come.

        Returns:
            The same event with another text, for the caller to parse: forget() it unless that is
            all that has changed. None where nothing was learned.
        """
        if self._hits < _WORTH:
            return None
        self._hits = 0
        found = _TEXT.search(event)
        if found is None:
            return None
        begin, end = found.span(1)
        self._learned, self._behind = event[:begin], event[end:]
        self._before = self._learned
        self._join = self._behind + self._before
        self._blank = event[len(event.rstrip(b"\r\n")) :]
        self._begin, self._end = begin, end - len(event)
        return self._before + self.OTHER.encode() + self._behind

    def forget(self) -> None:
        """No event is alike."""
        self._learned = self._before = b""
        self._begin = 1

    def expect(self, *, between: bool) -> None:
        """Whether what comes next begins with an event; nothing is alike if it does not."""
        self._before = self._learned if between else b""
