"""Target: the decoder of forms, and whether it says the same however its bytes are split.

Any other exception than InvalidMultipart, parts or a sentence that depend on the split, events that
do not follow each other, or more held back than is allowed, is a crash. Run by __main__ in a
process of its own.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from random import Random
from zlib import crc32

import atheris

with atheris.instrument_imports(include=["runner_payload"]):
    from runner_payload.multipart import InvalidMultipart, boundary_of
    from tests.runner_payload.forms import outcome
    from tests.runner_payload.splits import one_by_one


def check(data: bytes) -> None:
    """Raises an AssertionError, or whatever the decoder should not have raised."""
    whole = outcome([data])
    random = Random(crc32(data))  # the same split for the same input
    edges = sorted({0, len(data), *(random.randrange(len(data) + 1) for _ in range(6))})
    assert outcome([data[a:b] for a, b in pairwise(edges)]) == whole
    if len(data) <= 256:
        assert outcome(one_by_one(data)) == whole
    try:
        boundary_of("multipart/form-data;" + data[:100].decode("latin-1"))
    except InvalidMultipart:
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
