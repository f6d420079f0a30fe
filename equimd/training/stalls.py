"""Which processes of a training keep the others waiting: said within minutes, where the calls themselves wait an hour.

Each process counts the collective calls that it has begun. A thread of its own writes that number now and then into the
key-value store through which the processes found each other, and how often it has written. Of those that wait too long,
the lowest one reads what the others wrote, and names those that are behind: busy or stuck if they still write, stopped
or out of reach if not.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import torch.distributed as dist

from equimd.progress import duration

log = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds of waiting until it is said for whom


@dataclass(frozen=True)
class _Sign:
    """What a process last wrote: collective calls begun, how often it wrote, and the name of its machine."""

    calls: int = 0
    beats: int = 0
    host: str = ""

    @classmethod
    def parse(cls, text: bytes) -> _Sign:
        calls, beats, host = text.decode().split(" ", 2)
        return cls(int(calls), int(beats), host)

    def text(self) -> str:
        return f"{self.calls} {self.beats} {self.host}"


class StallWatch:
    """Watches the collective calls of one process, for as long as the context lasts.

    Args:
        store: that the processes share. rank, size: of this process, and how many there are.
        patience: seconds of waiting until it is said for whom, and again whenever twice as many have passed.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, patience: float | None = None) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._patience = PATIENCE if patience is None else patience
        self._calls, self._since, self._end = 0, float("inf"), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stalls-{rank}", daemon=True)

    def __enter__(self) -> StallWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(timeout=10)

    @contextmanager
    def call(self) -> Iterator[None]:
        """A collective call takes place in this context."""
        self._calls += 1
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = float("inf")

    def _run(self) -> None:
        beats, said, period, first = 0, (0, 0.0), self._patience / 4, float("inf")
        seen = dict[int, tuple[_Sign, float]]()  # what each last wrote, and when that was first read
        try:
            self._write(0, beats)
            while not self._end.wait(period):
                beats += 1
                calls, waited = self._calls, time.monotonic() - self._since
                self._write(calls, beats)
                if waited < self._patience / 2:
                    seen, first = {}, float("inf")
                    continue
                now = {rank: self._read(rank) for rank in range(self._size) if rank != self._rank}
                at = time.monotonic()
                first = min(first, at)
                seen = {
                    r: seen[r] if r in seen and seen[r][0].beats == sign.beats else (sign, at)
                    for r, sign in now.items()
                }
                late = [rank for rank, sign in now.items() if sign.calls < calls]
                due = 2 * said[1] if said[0] == calls else self._patience
                # all that wait see the same; one is enough to say it
                enough = waited >= due and at - first > 1.5 * period  # others had time to write twice
                if enough and late and all(rank in late for rank in range(self._rank)):
                    said = calls, waited
                    silent = {rank for rank in late if at - seen[rank][1] > 1.5 * period}
                    log.warning("%s", _sentence(waited, {rank: now[rank].host for rank in late}, silent))
        except RuntimeError:  # the store's own process is gone: the collective call tells that
            return

    def _write(self, calls: int, beats: int) -> None:
        self._store.set(f"calls/{self._rank}", _Sign(calls, beats, platform.node()).text())

    def _read(self, rank: int) -> _Sign:
        key = f"calls/{rank}"
        return _Sign.parse(self._store.get(key)) if self._store.check([key]) else _Sign()


def _sentence(waited: float, late: dict[int, str], silent: set[int]) -> str:
    found = []
    for rank, host in sorted(late.items()):
        name = f"process {rank}" + (f" on {host}" if host else "")
        found.append(f"{name}, {'stopped or out of reach' if rank in silent else 'busy or stuck'}")
    return (
        f"this training has waited {duration(waited)} for {'; '.join(found)}. It goes on when all are there; else end "
        "it and go on from the last checkpoint with --resume, with any number of processes"
    )
