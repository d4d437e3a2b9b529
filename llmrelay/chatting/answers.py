"""Questions of `llmrelay chat` and their answers: JSON up; down, server-sent events or JSON.

An answer is whole only if it ends with `[DONE]`: one that ends before it was cut, however politely
its connection closed. Knows no terminal; connection.py has the socket.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from ..peer_text import one_line
from .connection import AskingFailed, Connection, FrontEndUrl, error_message

# Some deltas at once, or all of an answer that is not streamed.
_MAX_EVENT_BYTES = 16 * 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024 * 1024

_EVENTS, _JSON = "text/event-stream", "application/json"

Question = Mapping[str, Any]


class Client:
    """Asks one front-end.

    Args:
        token: what it wants to see of its clients; empty for none.
    """

    def __init__(self, url: FrontEndUrl, token: str = "") -> None:
        self._url = url
        self._headers = {"Content-Type": _JSON}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, question: Question) -> Answer:
        """The answer to a question, delta by delta; for a `with`.

        Raises:
            AskingFailed: it is no question.
        """
        return Answer(Connection(self._url), *self._request(question, _EVENTS))

    def ask_for_all(self, question: Question) -> dict[str, Any]:
        """The whole answer, with what belongs to it, as an object.

        Raises:
            AskingFailed: there is none.
        """
        connection = Connection(self._url)
        whole = False
        try:
            response = _expect(_JSON, connection.post(*self._request(question, _JSON)))
            answer = json.loads(response.read(_MAX_ANSWER_BYTES))
            whole = True
        except (OSError, http.client.HTTPException) as error:
            raise _cut() from error
        except (ValueError, RecursionError) as error:
            raise _not_understood() from error
        finally:
            connection.close(midway=not whole)
        if not isinstance(answer, dict):
            raise _not_understood()
        return answer

    def _request(self, question: Question, kind: str) -> tuple[bytes, Mapping[str, str]]:
        # Not in ASCII: a limit of bytes should hold as much of any language.
        text = json.dumps(question, ensure_ascii=False)
        try:
            body = text.encode()
        except UnicodeEncodeError as error:
            # Python keeps bytes that are no characters as halves of one.
            raise AskingFailed("The question cannot be sent: it is not UTF-8.") from error
        return body, self._headers | {"Accept": kind}


class Answer:
    """`with client.ask(question) as answer: for delta in answer: ...`; left early, it is cancelled.

    Attributes:
        finish_reason: upstream's, once all deltas have come; empty if it said none.
    """

    def __init__(self, connection: Connection, body: bytes, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._request = body, headers
        self._whole = False
        self.finish_reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close(midway=not self._whole)

    def __iter__(self) -> Iterator[str]:
        """Asks; the deltas, as they come.

        Raises:
            AskingFailed: there is no answer, or it was cut.
        """
        response = _expect(_EVENTS, self._connection.post(*self._request))
        try:
            for event, data in _events(response):
                if event == "error":
                    raise AskingFailed(error_message(data) or "The answer failed midway.")
                if data == b"[DONE]":
                    self._whole = True
                    return
                if delta := self._take(data):
                    yield delta
        except (OSError, http.client.HTTPException) as error:
            raise _cut() from error
        raise _cut()

    def _take(self, data: bytes) -> str:
        """An event's delta, or none if it says how the answer ended."""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _not_understood() from error
        if not isinstance(event, dict):
            raise _not_understood()
        if isinstance(reason := event.get("finish_reason"), str):
            self.finish_reason = one_line(reason)
        delta = event.get("delta", "")
        if not isinstance(delta, str):
            raise _not_understood()
        return delta


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, bytes]]:
    """Server-sent events, by name and data (WHATWG HTML, section 9.2.6).

    Comments and what comes without data are passed over.
    """
    name, data, size_bytes = "", list[bytes](), 0
    while line := response.readline(_MAX_EVENT_BYTES):
        size_bytes += len(line)
        if not line.endswith(b"\n") or size_bytes > _MAX_EVENT_BYTES:
            return  # it ends in the middle of a line, or is too long to be one of ours
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif not field and not value and line in (b"\n", b"\r\n"):
            if data:
                yield name, b"\n".join(data)
            name, data, size_bytes = "", [], 0


def _expect(kind: str, response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if response.headers.get_content_type() != kind:
        raise _not_understood()
    return response


def _cut() -> AskingFailed:
    return AskingFailed("The answer was cut before its end.")


def _not_understood() -> AskingFailed:
    return AskingFailed("The answer is none of `llmrelay serve`, or of another version of it.")
