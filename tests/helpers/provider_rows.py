"""Which simulator stands in for which row of llmrelay's table of upstreams, and where it is.

Knows both: the table says what is asked, the simulators (providers.py) what may be.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from llmrelay.upstreams import UPSTREAMS
from tests.helpers.provider_rules import RULES
from tests.helpers.providers import Provider

# Simulator -> row, where one row has two APIs with base URLs of their own.
ROWS = {name: name.partition(",")[0] for name in RULES}
# What of the row's paths these two have.
_ONLY = {
    "azure-openai, dated": set(UPSTREAMS["azure-openai"].paths) - {"responses"},
    "vertex": {"chat/completions"},
    "vertex, responses": {"responses"},
}
CASES = [
    (name, path)
    for name, row in ROWS.items()
    for path in UPSTREAMS[row].paths
    if path in _ONLY.get(name, UPSTREAMS[row].paths)
]


def base_url(name: str, provider: Provider) -> str:
    """The table's, with the simulator in the provider's place."""
    row = UPSTREAMS[ROWS[name]]
    if row.base_url is None or "," in name:
        # The operator's own; its form is in the table, or in the notes.
        return provider.base_url
    return provider.origin + urlsplit(row.base_url).path
