"""Labels side by side in processes of this machine, each call with a time limit, each process expendable.

A process that dies, or is still busy when the limit has passed, costs the label it was at: it is ended, the label is
recorded as failed, and another process takes its place.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from equimd.data.frames import Frames
from equimd.errors import MachineError
from equimd.interrupts import leave_to_parent, unreached
from equimd.labels.label import Label, ask
from equimd.workers import one_thread

START_LIMIT = 120.0  # seconds in which a process must have begun, imports and all
END_LIMIT = 5.0  # seconds in which the exit code of a process that is gone is known
LONGEST_WAIT = 0.5  # seconds between two looks at the clock


class Executor(Protocol):
    """Where labels of one reference method are computed."""

    def labels(self, frames: Mapping[int, Frames]) -> Iterator[tuple[int, Label]]:
        """The label of every frame (blocks of one), as they are finished; failed ones are labels too."""
        ...

    def close(self) -> None:
        """Nothing more will be asked."""
        ...


def _serve(link: Connection, calculator: str) -> None:
    """What a process does: answer until the other end is gone, even if that was killed."""
    leave_to_parent()
    module, colon, _ = calculator.partition(":")
    with suppress(Exception):  # whatever is wrong with it is said of every label
        importlib.import_module(module if colon else "tblite.interface")  # before a call has a time limit
    try:
        link.send(None)
        while True:
            link.send(ask(calculator, link.recv()))
    except (EOFError, OSError):
        return


@dataclass
class _Worker:
    """A process, and the frame it is at."""

    process: SpawnProcess
    link: Connection
    key: int | None = None
    since: float = 0.0  # when it was started, or given its frame
    ready: bool = False
    lost: bool = False  # dead, or at a call that does not end

    def give(self, key: int, frame: Frames) -> None:
        """Ask for a label. A process that is gone is noticed when it should answer."""
        self.key, self.since = key, time.monotonic()
        with suppress(OSError):
            self.link.send(frame)

    def answer(self, frame: Frames | None, limit: float | None) -> Label | None:
        """The label, a failed one if the process died or took too long; None if there is nothing yet.

        Raises:
            MachineError: it died, or took too long, before it could be asked anything.
        """
        taken, reason = time.monotonic() - self.since, ""
        try:
            if self.link.poll():
                received = self.link.recv()
                if received is not None:
                    return received
                self.ready = True
            elif limit is not None and taken > limit:
                reason = f"no answer in {limit:g} s"
        except (EOFError, OSError):
            self.process.join(END_LIMIT)
            reason = f"the process died (exit code {self.process.exitcode})"
        if not reason:
            return None
        self.lost = True
        if frame is None:
            raise MachineError(f"a process that was to compute labels could not be started: {reason}")
        return Label.failure(frame, reason, taken)

    def end(self) -> None:
        """End it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.link.close()


def _start(calculator: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, calculator), daemon=True)
    with one_thread(), unreached():
        process.start()
    theirs.close()
    return _Worker(process, ours, since=time.monotonic())


@dataclass
class LocalPool:
    """Processes on this machine, which wait for more until :meth:`close`.

    Attributes:
        calculator: the method asked. jobs: how many at once. limit: seconds that a call may take; None for any time.
    """

    calculator: str
    jobs: int = 1
    limit: float | None = None
    _workers: list[_Worker] = field(default_factory=list, init=False)

    def labels(self, frames: Mapping[int, Frames]) -> Iterator[tuple[int, Label]]:
        """The label of every frame, as they are finished.

        Raises:
            MachineError: processes cannot be started.
        """
        waiting, workers = deque(frames), self._workers
        try:
            while waiting or any(w.key is not None for w in workers):
                busy = sum(w.key is not None for w in workers)
                while len(workers) < min(self.jobs, busy + len(waiting)):
                    workers.append(_start(self.calculator))
                for worker in workers:
                    if worker.ready and worker.key is None and waiting:
                        given = waiting.popleft()
                        worker.give(given, frames[given])
                wait([w.link for w in workers], LONGEST_WAIT)
                for worker in list(workers):
                    key, limit = worker.key, self.limit if worker.ready else START_LIMIT
                    if worker.ready and key is None:
                        continue
                    label = worker.answer(None if key is None else frames[key], limit)
                    if label is not None and key is not None:
                        worker.key = None
                        if worker.lost:
                            self._end(worker)
                        yield key, label
        finally:
            for worker in [w for w in workers if w.key is not None]:  # left in the middle
                self._end(worker)

    def _end(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

    def close(self) -> None:
        """End the processes."""
        for worker in list(self._workers):
            self._end(worker)
