"""Ansible's own `ansible-inventory`, many times within one process, as a start takes half a second.

Reads the command's arguments from stdin, a JSON list a line; answers with a JSON object a line:
what was printed, or why nothing was.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings

from ansible.cli.inventory import InventoryCLI
from ansible.parsing.vault import VaultSecretsContext
from ansible.utils.context_objects import GlobalCLIArgs


def run(arguments: list[str]) -> dict[str, str]:
    # What the command sets up once in its life.
    GlobalCLIArgs._Singleton__instance = None
    VaultSecretsContext._current = None
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            InventoryCLI(["ansible-inventory", *arguments]).run()
        except SystemExit as ended:
            if ended.code:
                return {"error": f"status {ended.code} {said.getvalue()}"}
        except Exception as error:  # noqa: BLE001 - some of its refusals are no AnsibleErrors
            return {"error": f"{error} {said.getvalue()}"}
    return {"printed": printed.getvalue()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
