"""Server-sent events, split out of a byte stream (WHATWG HTML, section 9.2.6).

Sans-IO; knows no JSON and no OpenAI. Only `data` is kept: chat completions give `event`, `id` and
`retry` no meaning. The SDK's own decoder yields an object per line in an async generator; this
one splits a whole read at once, which is what makes batched reads cheap.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event is longer than the limit."""


class EventDecoder:
    """Bytes in any split -> the data of each whole event.

    Args:
        max_event_bytes: the most that is held back for an event that is not yet whole.
    """

    __slots__ = ("_at_start", "_data", "_data_bytes", "_limit", "_rest")

    def __init__(self, max_event_bytes: int) -> None:
        self._limit = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True

    @property
    def between(self) -> bool:
        """Nothing is held back of an event that is not yet whole."""
        return not (self._rest or self._data)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of all events that `chunk` completes.

        Raises:
            EventTooLong: the event under way is over the limit.
        """
        if chunk[:6] == b"data: " and chunk[-2:] == b"\n\n" and not (self._rest or self._data):
            # What nearly every read is: whole events, each a line.
            lines = chunk[:-2].split(b"\n\n")
            if chunk.count(b"\n") == 2 * len(lines) and chunk.find(b"\r") < 0:
                found = [line[6:] for line in lines if line[:6] == b"data: "]
                if len(found) == len(lines):
                    self._at_start = False
                    return found
        data = self._rest + chunk if self._rest else chunk
        if self._at_start:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return []
            data = data.removeprefix(_BOM)
            self._at_start = False
        lines = data.splitlines(keepends=True)
        # A line without its end waits for it, and so does a CR, which may be half of a CRLF.
        self._rest = b"" if data.endswith(b"\n") else lines.pop() if lines else b""
        if len(self._rest) + self._data_bytes > self._limit:
            raise EventTooLong
        events: list[bytes] = []
        for line in lines:
            self._take(line, events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        """One line with its end: a field, a comment, or the blank line that ends an event."""
        if line[:5] == b"data:":
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(value.rstrip(b"\r\n"))
            self._data_bytes += len(value)
            if self._data_bytes > self._limit:
                raise EventTooLong
        elif line in (b"\n", b"\r\n", b"\r"):
            if self._data:
                events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                self._data.clear()
                self._data_bytes = 0
        elif line.rstrip(b"\r\n") == b"data":
            self._data.append(b"")
            self._data_bytes += 1
            if self._data_bytes > self._limit:
                raise EventTooLong
