"""`python -m tests.clients PROGRAM BASE_URL KEY` runs one of the programs that are in Python.

Without the garbage collector, which has nothing to collect while a library is imported, and a tenth
of the time at that: litellm takes eight seconds.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module

gc.disable()
sys.argv[:2] = [sys.argv[1]]
import_module(f"tests.clients.{sys.argv[0]}").run()
