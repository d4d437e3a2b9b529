"""The head of a request, for what is asked of it without a socket."""

from __future__ import annotations

from typing import Literal

from llmrelay.http.events import Headers, Request


def a_request(
    path: str,
    *headers: tuple[str, str],
    method: str = "POST",
    query: str = "",
    framing: int | Literal["chunked"] | None = 2,
) -> Request:
    return Request(
        method=method,
        target=path,
        path=path,
        query=query,
        scheme="",
        authority="localhost",
        version=(1, 1),
        headers=Headers(tuple(headers)),
        keep_alive=True,
        expect_continue=False,
        framing=framing,
    )
