"""Target: the parser, and whether it says the same however its bytes are split.

Any other exception than a RelayError, an answer of 500, events that depend on the split, a body of
another length than its framing, or a reading that h11 or llhttp dispute without a reason, is a
crash. Run by __main__ in a process of its own.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from random import Random
from zlib import crc32

import atheris

with atheris.instrument_imports(include=["llmrelay.http"]):
    from llmrelay.http.head import split_authority
    from tests.http.differential import compare
    from tests.http.differential_reasons import explain
    from tests.http.parsing import Parsed, one_by_one, parse


def check(data: bytes) -> None:
    """Raises an AssertionError, or whatever the parser should not have raised."""
    whole = parse([data], end=True)
    random = Random(crc32(data))  # the same split for the same input
    edges = sorted({0, len(data), *(random.randrange(len(data) + 1) for _ in range(6))})
    assert _said(parse([data[a:b] for a, b in pairwise(edges)], end=True)) == _said(whole)
    if len(data) <= 256:
        assert _said(parse(one_by_one(data), end=True)) == _said(whole)
    assert whole.error is None or (400 <= whole.error.status < 600 and whole.error.status != 500)
    for message in whole.messages:
        request = message.request
        if request.authority:
            split_authority(request.authority)
        if message.whole and request.framing != "chunked":
            assert len(message.body) == (request.framing or 0)
        assert not any(set(value) & set("\r\n\0") for _, value in request.headers)
    disputed = [found for found in compare(data)[2] if explain(found) is None]
    assert not disputed, disputed


def _said(parsed: Parsed) -> object:
    return parsed.messages, parsed.error


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
