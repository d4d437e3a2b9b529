"""The first bytes on the host: version check, in-memory importer, call main().

Stage 0 (`llmrelay.runners.payload`) is a one-line command that reads this file from stdin into the
name SOURCE and runs it. This file then reads the rest of the payload, a zlib-compressed JSON object
of module name to source, and imports it from memory: nothing is written to the host's disk.

It is plain text that any Python since 2.7 can read, so that one that is too old can say so. It may
not print to stdout (the frames' way) nor import anything that was not shipped or built in.
"""

import sys

# Exit statuses that the front-end tells apart (llmrelay/runners/provision.py).
EXIT_OLD_PYTHON = 94
EXIT_DAMAGED = 95

if sys.version_info < (3, 10):
    sys.stderr.write(
        "llmrelay: Python %s (%s) is too old\n" % (sys.version.split()[0], sys.executable)
    )
    sys.exit(EXIT_OLD_PYTHON)

# Before the first import: a json.py of the login's current directory must not stand in for the real
# one, and an import must leave no __pycache__ behind.
sys.path[:] = [path for path in sys.path if path]
sys.dont_write_bytecode = True

import hashlib
import importlib.abc
import importlib.util
import json
import linecache
import zlib


class MemoryImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the shipped modules from memory."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, name, path=None, target=None):
        if name not in self.sources:
            return None
        return importlib.util.spec_from_loader(name, self, origin="<llmrelay>/%s.py" % name)

    def is_package(self, name):
        return any(other.startswith(name + ".") for other in self.sources)

    def get_source(self, name):
        return self.sources[name]

    def exec_module(self, module):
        name = module.__name__
        filename = "<llmrelay>/%s.py" % name
        source = self.sources[name]
        # For tracebacks: the runner's log shows the line that failed.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        exec(compile(source, filename, "exec"), module.__dict__)


def run(source):
    archive = sys.stdin.buffer.read(int(sys.argv[3]))
    digest = hashlib.sha256(source + archive).hexdigest()
    if digest != sys.argv[4]:
        sys.stderr.write("llmrelay: the payload arrived damaged\n")
        sys.exit(EXIT_DAMAGED)
    sys.meta_path.insert(0, MemoryImporter(json.loads(zlib.decompress(archive))))
    from runner_payload.main import main

    main(digest)


run(SOURCE)  # noqa: F821 - stage 0 has read it
