"""Which form of an answer a client wants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.api.accept import preferred

TEXT, EVENTS, JSON = "text/plain", "text/event-stream", "application/json"
OFFERED = (TEXT, EVENTS, JSON)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        (EVENTS, EVENTS),
        (JSON, JSON),
        ("APPLICATION/JSON", JSON),
        ("application/*", JSON),
        ("text/*", TEXT),
        ("text/event-stream, */*;q=0.1", EVENTS),
        ("text/*;q=0.5, application/json", JSON),
        ("text/plain;q=0.2,application/json;q=0.7 , text/event-stream; q=0.8", EVENTS),
        ("*/*, text/plain;q=0", EVENTS),
        ("text/*, text/plain;q=0.1", EVENTS),
        ("application/json;charset=utf-8", JSON),
        ("application/json; Q=0.4, text/plain;q=0.3", JSON),
        # A browser's: it does not care.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        # Nothing that there is: another form is better than none.
        ("image/png", TEXT),
        ("application/json;q=nonsense, text/event-stream;q=0.1", EVENTS),
        ("application/json;q=-1, text/event-stream;q=0.1", EVENTS),
        ("application/json;q=9, text/event-stream;q=1", EVENTS),
        (",;,", TEXT),
    ],
)
def test_the_form_is_the_one_that_the_client_likes_best(accept: str | None, wanted: str) -> None:
    assert preferred(accept, OFFERED) == wanted


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*OFFERED, ";q=", "0", "nan", ","])).map("".join)
)
def test_every_accept_header_gets_something_that_there_is(accept: str) -> None:
    assert preferred(accept, OFFERED) in OFFERED
