from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_when_open_files_run_out_one_line_says_so_and_the_server_goes_on(loop: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.http.out_of_descriptors", loop],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    met = json.loads(ran.stdout)
    assert met["cpu"] < 0.5  # it does not spin
    assert met["whole"]  # what ran has gone on
    assert met["status"] == 200  # and others are served again
    [line] = ran.stderr.splitlines()
    assert line.startswith("llmrelay.http: no more connections can be taken for now")
    assert "ulimit -n" in line
