"""The rules of the house, as data: who may import whom."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.helpers.front_end import FrontEndProcess, runner_options
from tests.helpers.openssh import OpenSSHServer
from tests.helpers.upstream import ScriptedUpstream

ROOT = Path(__file__).parent.parent

# Who may import a third-party package: prefix of the file's path -> packages.
THIRD_PARTY = {
    "llmrelay/runners/ssh/": {"asyncssh"},
    "llmrelay/demo/": {"asyncssh"},
    "llmrelay/commands/arguments.py": {"uvloop"},
    "runner_payload/main.py": {"uvloop"},
    "runner_payload/upstream.py": {"openai", "httpx2"},
    "runner_payload/transport.py": {"httpx2"},
    "runner_payload/connection.py": {"httpx2"},
    "runner_payload/prepared.py": {"httpx2"},
    "runner_payload/deltas.py": {"jiter"},
}

# Of runners/: text, numbers and times in, decisions out.
PURE = ("backoff", "breaker", "queue", "retry", "selection", "spec", "standing")

# Prefix of the importer's path -> prefixes of modules that it must not import.
FORBIDDEN = {
    "llmrelay/http/": ["llmrelay.runners", "llmrelay.api", "llmrelay.relay", "runner_payload"],
    "llmrelay/runners/": ["llmrelay.http", "llmrelay.api", "llmrelay.relay", "llmrelay.serve"],
    "llmrelay/api/": ["asyncio", "llmrelay.runners", "llmrelay.relay", "llmrelay.http.server"],
    "llmrelay/inventory/": [
        "asyncio",
        "llmrelay.http",
        "llmrelay.api",
        "llmrelay.relay",
        "llmrelay.serve",
        *(
            f"llmrelay.runners.{name}"
            for name in ("fleet", "jump", "link", "pool", "runner", "shared", "ssh")
        ),
    ],
    # Pure: what is chosen, and when a call is tried again.
    **{
        f"llmrelay/runners/{name}.py": ["asyncio", "socket", "time", "logging", "llmrelay.config"]
        for name in PURE
    },
    "llmrelay/runner_options.py": ["asyncio", "llmrelay.http", "llmrelay.runners"],
    "llmrelay/config.py": ["asyncio", "llmrelay.http", "llmrelay.runners"],
    "llmrelay/client_options.py": ["asyncio", "llmrelay.http", "llmrelay.runners"],
    "llmrelay/errors.py": ["asyncio", "llmrelay.http", "llmrelay.runners"],
    "llmrelay/http/http11.py": ["asyncio", "socket", "time", "logging"],
    "llmrelay/http/events.py": ["asyncio", "socket", "time", "logging"],
    "llmrelay/http/guard.py": ["asyncio", "socket", "time"],
    "llmrelay/http/cors.py": ["asyncio", "socket", "time", "logging"],
    "llmrelay/http/tokens.py": ["asyncio", "socket", "time"],
    "runner_payload/": ["llmrelay"],
    "runner_payload/protocol.py": ["asyncio", "socket", "time", "logging"],
    "runner_payload/messages.py": ["asyncio", "socket", "time", "logging"],
    "runner_payload/events.py": ["asyncio", "socket", "time", "logging"],
    **{
        f"runner_payload/{name}.py": ["asyncio", "socket", "time", "logging"]
        for name in ("adapters", "elevenlabs", "multipart", "multipart_head", "transcript")
    },
    "runner_payload/sse.py": ["asyncio", "socket", "time", "logging"],
    "runner_payload/deltas.py": ["asyncio", "socket", "time", "logging"],
    # The flow goes one way: a part may not know what is put together from it.
    "llmrelay/relay.py": [
        "llmrelay.serve",
        "llmrelay.cli",
        "llmrelay.routes",
        "llmrelay.endpoints",
    ],
    # A client as any other: all that it knows of the front-end is its URL.
    "llmrelay/chatting/": [
        "asyncio",
        *(f"llmrelay.{name}" for name in ("http", "api", "runners", "relay", "serve", "endpoints")),
        "runner_payload",
    ],
    "llmrelay/upstreams.py": ["asyncio", "llmrelay", "runner_payload"],
}

# What both sides share; everything else of the payload is text to the front-end.
SHARED = {
    f"runner_payload.{name}" for name in ("credit", "messages", "multipart", "process", "protocol")
}

MAX_LINES = 400


MODULES = sorted(
    str(file.relative_to(ROOT))
    for file in (*ROOT.glob("llmrelay/**/*.py"), *ROOT.glob("runner_payload/*.py"))
)


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text())


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Every module that the file imports, absolute, at any depth of nesting."""
    package = name.removesuffix(".py").split("/")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` may name a module or something in the package.
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


# Each rule is one test over all files, and names those that break it: a test per file would cost
# more than to look into it.


def test_third_party_packages_are_imported_only_where_they_belong() -> None:
    ours = {"llmrelay", "runner_payload", *sys.stdlib_module_names}
    broken = {}
    for name in MODULES:
        here = [packages for prefix, packages in THIRD_PARTY.items() if name.startswith(prefix)]
        broken[name] = {module.split(".")[0] for module in imports(name)} - ours.union(*here)
    assert {name: found for name, found in broken.items() if found} == {}


def test_no_file_imports_what_it_may_not_know() -> None:
    assert [
        (name, module)
        for prefix, forbidden in FORBIDDEN.items()
        for name in MODULES
        if name.startswith(prefix)
        for module in imports(name)
        if any(within(module, package) for package in forbidden)
    ] == []


def test_the_front_end_shares_only_the_protocol_with_the_payload() -> None:
    assert [
        (name, module)
        for name in MODULES
        if name.startswith("llmrelay/")
        for module in imports(name)
        if within(module, "runner_payload") and not any(within(module, each) for each in SHARED)
    ] == []


def test_every_file_opens_with_what_it_is_for() -> None:
    # An __init__.py may have nothing in it at all.
    assert [
        name
        for name in MODULES
        if not ast.get_docstring(tree_of(name))
        and (tree_of(name).body or not name.endswith("__init__.py"))
    ] == []


def test_nothing_is_raised_out_of_a_star() -> None:
    # It would be in a group of its own, and a person see a traceback: before Python 3.11.4.
    nodes = ((name, node) for name in MODULES for node in ast.walk(tree_of(name)))
    assert [name for name, node in nodes if isinstance(node, ast.TryStar)] == []


def test_no_file_is_too_long() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in MODULES}
    assert lines
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


ML_PACKAGES = {"openai", "httpx", "httpx2", "pydantic", "pydantic_core", "aiohttp", "jiter"}


def test_an_installation_of_the_front_end_brings_asyncssh_and_uvloop_alone() -> None:
    required = metadata.requires("llmrelay")
    assert required is not None
    core = [re.match(r"[\w-]+", line) for line in required if "extra ==" not in line]
    assert {name[0] for name in core if name} == {"asyncssh", "uvloop"}


def test_a_serving_process_loads_no_ml_package(sshd: OpenSSHServer) -> None:
    with ScriptedUpstream().in_thread() as upstream:
        options = [*runner_options(sshd), "--base-url", upstream.base_url]
        with FrontEndProcess(options, {"PYTHONPROFILEIMPORTTIME": "1"}, anew=True) as front_end:
            assert front_end.chat()[1] == b"Hello, world"
            # "import time: self [us] | cumulative | imported package"
            names = re.findall(r"^import time: .*\| +([\w.]+)$", front_end.log, re.MULTILINE)
    assert "llmrelay.relay" in names
    assert not ML_PACKAGES & {name.partition(".")[0] for name in names}


def test_the_command_line_loads_no_ml_package() -> None:
    names = "sorted(name.partition('.')[0] for name in sys.modules)"
    # All commands, of which each is imported when it is called.
    script = f"import llmrelay.cli, sys; llmrelay.cli._parser(); print(*{names})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "asyncssh" in loaded
    assert not ML_PACKAGES & set(loaded)
