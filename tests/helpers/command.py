"""`llmrelay` as a command that ends by itself, run to its end.

With a key in its environment or none, and nobody at its terminal. front_end.py has the one that
goes on.
"""

from __future__ import annotations

import os
import subprocess
from typing import IO

from tests.helpers import preloaded
from tests.helpers.front_end import KEY


def environment(key: str = KEY) -> dict[str, str]:
    """Ours, with that key, or none if it is empty."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    return clean | ({"OPENAI_API_KEY": key} if key else {})


def llmrelay(
    *arguments: str, key: str = KEY, stdout: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command; what it printed, and its exit status."""
    return preloaded.run(arguments, environment(key), 55, stdout)
