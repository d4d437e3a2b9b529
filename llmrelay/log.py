"""The log: lines on stderr, as text for people or as JSON for collectors.

A record may carry `fields` (a dict), which JSON keeps apart and text leaves to the message. Where
there are several workers each says which one it is. Neither prompts nor answers nor keys are ever
logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO


class TextFormatter(logging.Formatter):
    """`12:34:56 info    llmrelay.runner: message`; of worker 2 `llmrelay.runner[2]: message`"""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._which = "" if worker is None else f"[{worker}]"

    def format(self, record: logging.LogRecord) -> str:
        clock, level = _clock(int(record.created)), record.levelname.lower()
        return f"{clock} {level:7} {record.name}{self._which}: {_message(record)}"


class JsonFormatter(logging.Formatter):
    """One object per line: time (RFC 3339), level, logger, message, and the record's fields; and
    the worker's number.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._which = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._which,
            "message": _message(record),
            **getattr(record, "fields", {}),
        }
        return json.dumps(entry, ensure_ascii=False, default=str)


@lru_cache(maxsize=1)
def _clock(unix_second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_second))


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


class _Stderr(logging.StreamHandler[TextIO]):
    """The standard error, which lets go of a line at its end by itself."""

    def flush(self) -> None:
        pass


def configure(level: str, log_format: str, worker: int | None = None) -> None:
    """Sends the log to stderr; libraries are heard from warnings on."""
    # Nobody reads these here, and to find them out takes as long as the rest of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Stderr(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else TextFormatter(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("llmrelay").setLevel(level.upper())
