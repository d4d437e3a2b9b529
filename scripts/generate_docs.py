"""Writes the pages of docs/ that are lists from the code that they describe.

`python scripts/generate_docs.py` writes them; tests/test_docs.py fails when they are out of date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llmrelay import errors  # noqa: E402
from llmrelay.config import options  # noqa: E402
from llmrelay.errors import ConnectError, RelayError  # noqa: E402
from llmrelay.inventory import ssh_args  # noqa: E402
from llmrelay.inventory.variables import ALIASES, KNOWN, UNUSED  # noqa: E402
from llmrelay.upstreams import UNSERVED, UPSTREAMS, KnownUpstream  # noqa: E402


def options_page() -> str:
    """docs/options.md: every option of `llmrelay serve`."""
    lines = [
        "# Options of `llmrelay serve`",
        "",
        "Generated from `llmrelay/config.py` by `scripts/generate_docs.py`.",
    ]
    group = ""
    for field, option in options():
        if option.group != group:
            group = option.group
            lines += ["", f"## {group}", "", "| option | default | what it does, and why so |"]
            lines += ["| --- | --- | --- |"]
        written = option.written(field.default)
        default = f"`{written}`" if written else ""
        lines.append(f"| `{option.usage}` | {default} | {option.description} |")
        if option.flag == "--listen":
            lines.append("| `--port N` | | Short for --listen with another port. |")
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """docs/errors.md: every status, code and exit status."""
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, RelayError)
    ]
    seen = sorted(
        (kind for kind in classes if not issubclass(kind, ConnectError)),
        key=lambda kind: (kind.status, kind.code),
    )
    started = sorted(
        (kind for kind in classes if issubclass(kind, ConnectError) and kind is not ConnectError),
        key=lambda kind: kind.exit_code,
    )
    return "\n".join(
        [
            "# Errors",
            "",
            "Generated from `llmrelay/errors.py` by `scripts/generate_docs.py`.",
            "",
            "## What a client sees",
            "",
            "Before the first byte of an answer: a status, one sentence as text/plain, and the code"
            " in `X-Error-Code`. After it: the answer is cut without its last chunk (curl exits"
            " 18), and the code stands in the access log.",
            "",
            "| status | code | when |",
            "| --- | --- | --- |",
            *(f"| {kind.status} | `{kind.code}` | {_summary(kind)} |" for kind in seen),
            "",
            "## How `llmrelay serve` ends",
            "",
            "| exit status | when |",
            "| --- | --- |",
            "| 0 | SIGTERM or Ctrl-C, after the drain. |",
            "| 2 | The command line is wrong. |",
            *(f"| {kind.exit_code} | {_summary(kind)} |" for kind in started),
            "| 130, 143 | A second Ctrl-C or SIGTERM, or one before anything was served. |",
            "",
            "`llmrelay check` ends with 0 if all is well, else with the status of the first runner"
            " that is not: one of these, or 1 if it is its upstream. `inventory`, `check` and"
            " `token` end with 1 if their output cannot be written, and with 141 if nobody reads"
            " it any more.",
            "",
        ]
    )


def _summary(kind: type[RelayError]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def variables_page() -> str:
    """docs/variables.md: every variable of an inventory that means something."""
    lines = [
        "# Variables of an inventory",
        "",
        "Generated from `llmrelay/inventory/variables.py` by `scripts/generate_docs.py`.",
        "[inventory.md](inventory.md) says how they are read.",
        "",
        "| variable | what it does, and what holds without it |",
        "| --- | --- |",
        *(f"| `{name}` | {known.help} |" for name, known in KNOWN.items()),
        "",
        f"Other names are read, too: {', '.join(f'`{name}`' for name in ALIASES)}.",
        f"Not used, with a warning: {', '.join(f'`{name}`' for name in UNUSED)}.",
        "",
        "Lists are lists, or words with commas or blanks between; pairs are dicts, or `name=value`",
        "with commas or blanks between. Of ssh's arguments these are honoured: `-J`, `-i`, `-l`,",
        "`-p`, `-b`, `-c`, `-m`, `-4`, `-6`, `-C`, and by `-o` the options",
        f"{', '.join(ssh_args.HONOURED.values())}.",
    ]
    return "\n".join(lines) + "\n"


def upstreams_page() -> str:
    """docs/upstreams.md: every upstream that is known by name."""
    lines = [
        "# Upstreams by name",
        "",
        "Generated from `llmrelay/upstreams.py` by `scripts/generate_docs.py`;",
        "`llmrelay upstreams` prints the same. Each name links to the page of the provider's",
        "documentation that its row follows.",
        "",
        "| name | base URL | key | served of `/v1` | notes |",
        "| --- | --- | --- | --- | --- |",
        *(_upstream_row(name, upstream) for name, upstream in UPSTREAMS.items()),
        "",
        "Paths in *italics* are the provider's own API and not its OpenAI-compatible one. Where no",
        "base URL is known, `--base-url` has to name yours; what is written there is its form.",
        "",
        "Not served:",
        "",
        *(f"- {name}: {reason}" for name, reason in UNSERVED.items()),
    ]
    return "\n".join(lines) + "\n"


def _upstream_row(name: str, upstream: KnownUpstream) -> str:
    base_url = f"`{upstream.base_url or upstream.example_url}`"
    if upstream.base_url is None:
        base_url = f"yours: {base_url}"
    key = f"`{upstream.key_variable}`" if upstream.key_variable else "none is needed"
    paths = (f"*{path}*" if path in upstream.native else path for path in upstream.paths)
    title = f"[{name}]({upstream.source})"
    return f"| {title} | {base_url} | {key} | {', '.join(paths)} | {upstream.notes} |"


PAGES = {
    "docs/options.md": options_page,
    "docs/errors.md": errors_page,
    "docs/variables.md": variables_page,
    "docs/upstreams.md": upstreams_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / name).write_text(page())
