"""What fuzzing starts from, always the same, a file per case.

The corpus in tests/http/cases; for multipart the forms of its tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.http.corpus import SECOND, load
from tests.runner_payload.forms import REFUSED, TAKEN

# Of the connection's second byte: the client neither ends nor leaves.
STAYS: Final = 2
# Longer cases are about limits; they would only make every mutation slow.
MAX_BYTES: Final = 2048


def write_seeds(folder: Path, target: str) -> None:
    """Write the seeds for a target; the connection's begin with two bytes that say how to send."""
    if target == "multipart":
        forms = [data for data, _ in (*TAKEN.values(), *REFUSED.values())]
        for number, data in enumerate(data for data in forms if len(data) <= MAX_BYTES):
            (folder / f"{number:04}").write_bytes(data)
        return
    cases = [c for c in load("refused", "taken", "ended", "stalled") if len(c.raw) <= MAX_BYTES]
    for number, case in enumerate(cases):
        raw = case.raw + SECOND if number % 2 else case.raw
        if target == "connection":
            # As the case was meant: echoed, sent at once, and waited for only if it stalls.
            plain = bytes([0, STAYS if case.kind == "stalled" else 0])
            (folder / f"plain-{number:04}").write_bytes(plain + case.raw)
            raw = bytes([number % 256, number // 3 % 256]) + raw
        (folder / f"{number:04}").write_bytes(raw)
