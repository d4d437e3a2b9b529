"""`serve --workers N`: a process that serves nothing, and has N others do it.

    supervisor   binds all sockets, reads the keys, hears signals, starts workers
     |- worker 1    a whole front-end: its own loop, SSH connections, runners and clients
     |- worker 2    the same; each has a listening socket of its own on every TCP address

Workers are forked off before there is any loop or thread. So the keys, one asked for at the
terminal among them, are theirs without going through argv, a file or a pipe, and what was imported
is in memory once. A line leads to each (worker.py), whose end is the end of who held the other end:
a killed supervisor's workers end, and of a worker that has died the supervisor hears.

The first is started alone: what stands in the way is met, and said, once. Their sockets stay open
here for as long as we serve, each with a place for one worker. If that dies, the kernel gives new
connections to the others, and what it had queued is its successor's. A worker that gets SIGTERM
itself drains, and has its successor at once.

Knows processes, sockets and signals; what a worker does is given to it. Used by commands/serve.py.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, NoReturn

from runner_payload.process import forbid_core_dumps

from .config import Config
from .errors import ConnectError
from .http.lending import Lender
from .http.listeners import Listener
from .runners.backoff import Backoff
from .signals import NUMBERS, EndedBySignal, terminal_is_gone
from .systemd import Notifier
from .values import Listen
from .worker import Line, Order

logger = logging.getLogger("llmrelay")

_READ_BYTES: Final = 4096


@dataclass(eq=False, slots=True)
class _Place:
    """What one worker after the other has: a number, and with it sockets for clients."""

    number: int
    backoff: Backoff = field(default_factory=Backoff)
    start_at_s: float | None = None  # when a worker is to be started, if one is


@dataclass(eq=False, slots=True)
class _Worker:
    """A process of ours, which `line` leads to."""

    place: _Place
    pid: int
    line: socket.socket
    ready_since_s: float | None = None
    leaving: bool = False  # it drains by itself, and its place is another's
    heard: bytes = b""
    status: str = ""  # the last that it said of itself

    def __str__(self) -> str:
        return f"worker {self.place.number} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class End:
    """How it ended: the exit status, and a sentence if nothing was served."""

    exit_status: int
    sentence: str = ""


class Supervisor:
    """Workers, from their start to the end of the last one.

    Args:
        handed_in: sockets that another process has bound; all workers share them.
        work: what a worker does, in its process: with its number, its line and its sockets.
        announce: called with the addresses and the runners once every worker serves.

    Raises:
        CannotListen: an address cannot be had.
    """

    def __init__(
        self,
        config: Config,
        handed_in: Sequence[Listener],
        notifier: Notifier,
        work: Callable[[int, Line, Sequence[Listener]], None],
        announce: Callable[[Sequence[Listen], str], None],
    ) -> None:
        self._sockets = Lender(config)
        self._handed_in = handed_in
        self._notifier = notifier
        self._work = work
        self._announce = announce
        self._places = [_Place(number) for number in range(1, config.workers + 1)]
        self._workers: list[_Worker] = []
        self._signals: list[int] = []
        self._announced = False
        self._ending: Order | None = None
        self._ended_by: int | None = None
        self._reloading: set[_Worker] = set()
        self._runners = ""
        self._before: dict[int, Any] = {}
        self._end = End(0)

    def run(self) -> End:
        """Returns once the last worker has ended.

        Raises:
            CannotListen: an address is another's by the time that the first worker is ready.
            EndedBySignal: a signal that did not wait for the drain.
        """
        try:
            forbid_core_dumps()
            gc.collect()
            gc.freeze()  # else each worker's first collection would copy all of it
            self._hear_signals()
            self._start(self._places[0])
            while self._workers or any(place.start_at_s is not None for place in self._places):
                self._turn()
        finally:
            self._sockets.close()
        if self._ended_by is not None:
            raise EndedBySignal(self._ended_by)
        return self._end

    # --- What happens ---------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        self._awake, self._waker = socket.socketpair()
        for sock in (self._awake, self._waker):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in NUMBERS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _turn(self) -> None:
        """Waits until something happens, and sees to it."""
        due_s = [place.start_at_s for place in self._places if place.start_at_s is not None]
        wait_s = max(0.0, min(due_s) - time.monotonic()) if due_s else None
        lines = {worker.line: worker for worker in self._workers}
        readable, _, _ = select.select([self._awake, *lines], [], [], wait_s)
        if self._awake in readable:
            self._awake.recv(_READ_BYTES)
        while self._signals:
            self._on_signal(self._signals.pop(0))
        for line, worker in lines.items():
            if line in readable:
                self._hear(worker)
        now_s = time.monotonic()
        for place in self._places:
            if place.start_at_s is not None and place.start_at_s <= now_s:
                self._start(place)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and not terminal_is_gone():
            self._reload()
        elif self._announced and not self._ending:
            self._drain()
        else:
            self._ended_by = number
            self._end_with(Order.END)

    def _hear(self, worker: _Worker) -> None:
        try:
            got = worker.line.recv(_READ_BYTES)
        except ConnectionResetError:  # it has not read all that we sent
            got = b""
        if not got:
            self._on_end(worker)
            return
        *lines, worker.heard = (worker.heard + got).split(b"\n")
        for line in lines:
            name, _, value = line.decode(errors="replace").partition("=")
            if name == "STATUS":
                worker.status = value
            elif name == "READY":
                self._on_ready(worker)
            elif name == "RELOADING":
                self._are_reloading([worker])
            elif name == "STOPPING":
                self._on_leaving(worker)

    # --- A worker's life ------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        place.start_at_s = None
        ours, theirs = socket.socketpair()
        # What is sent to the new process before it has its own handlers would be taken for ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_worker(place, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
        theirs.close()
        self._workers.append(_Worker(place, pid, ours))

    def _be_worker(self, place: _Place, line: socket.socket) -> NoReturn:
        """In the new process. It leaves from here, as nothing above it is its own."""
        exit_status = 1
        theirs = Line(line)
        try:
            self._forget_the_supervisor()
            listening = [*self._handed_in, *self._sockets.lend(place.number)]
            self._work(place.number, theirs, listening)
            exit_status = 0
        except ConnectError as error:
            theirs.failed(error.message)
            exit_status = error.exit_code
        except EndedBySignal as error:
            theirs.failed(f"ended at once by {error}")
            exit_status = error.exit_status
        except KeyboardInterrupt:
            exit_status = 128 + signal.SIGINT
        except BaseException:  # whatever it is: said here, and told by the exit status below
            logger.exception("A worker failed.")
        finally:
            os._exit(exit_status)

    def _forget_the_supervisor(self) -> None:
        """Its signals, and its lines, whose end another worker would not hear while we hold one."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
        for sock in (self._awake, self._waker, *(each.line for each in self._workers)):
            sock.close()

    def _on_ready(self, worker: _Worker) -> None:
        if worker.ready_since_s is None:
            worker.ready_since_s = time.monotonic()
            self._runners, worker.status = worker.status, ""
            if not self._ending:
                self._one_more_serves(worker)
        self._done_reloading(worker)

    def _one_more_serves(self, worker: _Worker) -> None:
        if self._announced:
            self._sockets.deal(self._serving())
            return
        if worker.place is self._places[0]:
            self._sockets.publish()
            for place in self._places[1:]:
                self._start(place)
        if len(self._serving()) == len(self._places):
            self._announced = True
            self._notifier.ready()
            handed_in = [listener.address for listener in self._handed_in]
            self._announce([*handed_in, *self._sockets.addresses], self._runners)

    def _serving(self) -> set[int]:
        """Numbers of the places whose sockets are listened on."""
        return {
            worker.place.number
            for worker in self._workers
            if worker.ready_since_s is not None and not worker.leaving
        }

    def _on_leaving(self, worker: _Worker) -> None:
        """It got a signal of its own."""
        worker.leaving = True
        if self._announced and not self._ending:
            logger.info("%s drains by itself; another takes its place", worker)
            self._sockets.deal(self._serving())
            worker.place.start_at_s = time.monotonic()

    def _on_end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.line.close()
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        exit_status = code if code >= 0 else 128 - code  # as a shell has it
        why = _why(code, worker.status)
        self._done_reloading(worker)
        if self._ending:
            # One that did not serve yet has not failed: it did what it was told.
            if code and worker.ready_since_s is not None and self._ending is not Order.END:
                logger.error("%s %s", worker, why)
                self._end = self._end if self._end.exit_status else End(exit_status)
        elif not self._announced:
            self._end = End(
                exit_status or 1, worker.status or f"Before all served, {worker} {why}."
            )
            self._end_with(Order.END)
        elif not worker.leaving:
            self._start_another(worker, why)
        elif code:
            logger.error("%s %s", worker, why)

    def _start_another(self, worker: _Worker, why: str) -> None:
        now_s = time.monotonic()
        lived_s = 0.0 if worker.ready_since_s is None else now_s - worker.ready_since_s
        wait_s = worker.place.backoff.next_s(ConnectError(why), lived_s)
        worker.place.start_at_s = now_s + wait_s
        self._sockets.deal(self._serving())
        logger.error("%s %s; another is started in %.1f s", worker, why, wait_s)

    # --- What all are told ----------------------------------------------------------------------

    def _reload(self) -> None:
        self._are_reloading(self._workers)
        self._order(Order.RELOAD)

    def _are_reloading(self, workers: Sequence[_Worker]) -> None:
        if self._announced and not self._ending:
            if not self._reloading:
                self._notifier.reloading()
            self._reloading.update(workers)

    def _done_reloading(self, worker: _Worker) -> None:
        if worker in self._reloading:
            self._reloading.discard(worker)
            if not self._reloading and not self._ending:
                self._notifier.ready()

    def _drain(self) -> None:
        handed_over = self._sockets.leave()
        self._notifier.stopping()
        self._end_with(Order.HAND_OVER if handed_over else Order.DRAIN)

    def _end_with(self, order: Order) -> None:
        self._ending = order
        for place in self._places:
            place.start_at_s = None
        self._order(order)
        self._sockets.close()

    def _order(self, order: Order) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):  # it has ended, which we will hear
                worker.line.send(bytes([order]))


def _why(code: int, status: str) -> str:
    """How a worker ended, behind its name."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended: {status.rstrip('.')}" if status else f"ended with status {code}"
