"""Parameters of the plain endpoints, from all places that they can stand in."""

from __future__ import annotations

import pytest

from llmrelay.api.parameters import GROUP_HEADER, Known, Parameters, parse_group, parse_text
from llmrelay.errors import BadRequest
from llmrelay.values import count, number
from tests.api.test_openai import request

KNOWN: Known = {
    "model": parse_text,
    "n": count(1),
    "temperature": number(0, 2),
    "group": parse_group,
}


def parameters(query: str = "", *headers: tuple[str, str]) -> Parameters:
    return Parameters(request("/x", *headers, query=query), KNOWN)


def test_the_query_is_read_as_forms_write_it() -> None:
    said = parameters("model=a%2Fb+c&n=3&temperature=0.5").said
    assert said == {"model": "a/b c", "n": 3, "temperature": 0.5}


def test_what_is_not_said_is_not_there() -> None:
    assert parameters().said == {}
    assert parameters("model=").said == {"model": ""}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("modle=x", "did you mean model"),
        ("zzz=x", "known are model, n, temperature, group"),
        ("n=1&n=1", "n is there twice"),
        ("n=x", "n cannot be used"),
        ("n=0", "n cannot be used"),
        ("model=%FF", "query cannot be read"),
        ("&".join(["model=x"] * 33), "query cannot be read"),
        ("group=", "group cannot be used"),
        ("group=a%0Ab", "group cannot be used"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_name(query: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parameters(query)


def test_a_body_says_more_and_nothing_twice() -> None:
    took = parameters("model=m")
    took.take("n", 3)
    took.take("temperature", 0.5)
    assert took.said == {"model": "m", "n": 3, "temperature": 0.5}
    with pytest.raises(BadRequest, match="twice"):
        took.take("model", "m")


@pytest.mark.parametrize("value", [True, None, [], {}, ["x"]])
def test_a_value_is_text_or_a_number(value: object) -> None:
    with pytest.raises(BadRequest, match="neither text nor a number"):
        parameters().take("model", value)


@pytest.mark.parametrize("value", [1.5, "1.5", 0, float("inf"), 10**400])
def test_a_number_is_as_good_as_its_digits_and_has_to_be_in_range(value: object) -> None:
    with pytest.raises(BadRequest, match="n cannot be used"):
        parameters().take("n", value)


def test_the_group_may_stand_in_a_header_and_may_not_contradict_itself() -> None:
    assert parameters("", (GROUP_HEADER.lower(), "gpus")).said == {"group": "gpus"}
    assert parameters("group=gpus", (GROUP_HEADER.lower(), "gpus")).said == {"group": "gpus"}
    with pytest.raises(BadRequest, match="different groups"):
        parameters("group=gpus", (GROUP_HEADER.lower(), "others"))
    with pytest.raises(BadRequest, match=GROUP_HEADER):
        parameters("", (GROUP_HEADER.lower(), "x" * 257))
    # Where there are no groups, the header is none of ours.
    assert Parameters(request("/x", (GROUP_HEADER.lower(), "gpus")), {}).said == {}
