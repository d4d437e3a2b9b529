"""What signals ask of a front-end: to drain, to end at once, to read its files again.

The first SIGTERM or Ctrl-C drains; a second one, or one before anything is served, ends at once.
SIGHUP reloads, unless it says what its name does: that our terminal is gone, which is one more way
to be asked to end. systemd hears of each. What a supervisor orders down its worker's line counts as
well, and as often as it says: whoever signals all processes of ours must not count twice. Knows no
part of a front-end. Used by serve.py.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import termios
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from .systemd import Notifier
from .worker import Line, Order

NUMBERS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class EndedBySignal(Exception):
    """A signal ended the process at once: a second one, or one before anything was served."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        # What a shell says of a process that a signal ended.
        self.exit_status = 128 + number


class Signals:
    """A context in which the current task hears signals; it is cancelled to end at once.

    Args:
        reload: asks for the files to be read again.
        line: to the supervisor, if there is one.
        give_back: told before an ordered drain whether another front-end has the addresses.

    Attributes:
        stop: set when a drain is asked for.
        serving: clients can connect, so that there is something to drain.

    Raises:
        EndedBySignal: on exit, in place of the cancellation that a signal was.
    """

    def __init__(
        self,
        reload: Callable[[], None],
        notifier: Notifier,
        line: Line | None,
        give_back: Callable[[bool], None],
    ) -> None:
        self.stop = asyncio.Event()
        self.serving = False
        self._reload = reload
        self._notifier = notifier
        self._line = line
        self._give_back = give_back
        self._fatal: EndedBySignal | None = None
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def __enter__(self) -> Self:
        for number in NUMBERS:
            self._loop.add_signal_handler(number, self._on_signal, number)
        if self._line is not None:
            self._loop.add_reader(self._line, self._on_orders, self._line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in NUMBERS:
            self._loop.remove_signal_handler(number)
        if self._line is not None:
            self._loop.remove_reader(self._line)
        if isinstance(error, asyncio.CancelledError) and self._fatal is not None:
            raise self._fatal from None

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and not terminal_is_gone():
            self._reload()
        elif self.serving and not self.stop.is_set():
            self._notifier.stopping()
            self.stop.set()
        else:
            self._end(number)

    def _on_orders(self, line: Line) -> None:
        for order in line.orders():
            if order is Order.RELOAD:
                self._reload()
            elif order is Order.END or not self.serving:
                self._loop.remove_reader(line)  # its end would be said over and over
                self._end(signal.SIGTERM)
                return
            elif not self.stop.is_set():
                self._give_back(order is Order.HAND_OVER)
                self.stop.set()

    def _end(self, number: int) -> None:
        self._fatal = EndedBySignal(number)
        self._task.cancel()


def terminal_is_gone() -> bool:
    """Whether SIGHUP came because the terminal that we were started on was closed."""
    try:
        termios.tcgetattr(0)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False
