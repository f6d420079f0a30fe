"""How fast a training goes: atoms a second of its steps, and how long these wait for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from equimd.data.batch import Batch
from equimd.training.checkpoint import Progress


class Pace:
    """Counts in ``progress``, over all sessions. The first batch of a session, before which workers start and files are
    opened, and steps that compile count nowhere.

    Args:
        progress: whose ``atoms``, ``stepping`` and ``waiting`` are added to.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress, self._first, self._waited = progress, True, 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time until each is there is that of waiting for data."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self._waited = time.monotonic() - began
            if batch is None:
                return
            yield batch

    def stepped(self, atoms: int, seconds: float) -> None:
        """A step was taken on ``atoms`` atoms, of all processes."""
        if self._first:
            self._first = False
            return
        p = self.progress
        p.atoms, p.stepping, p.waiting = p.atoms + atoms, p.stepping + seconds, p.waiting + self._waited

    @property
    def atoms_per_second(self) -> float:
        """Of steps, and of what they waited for; 0 before there is one."""
        spent = self.progress.stepping + self.progress.waiting
        return self.progress.atoms / spent if spent else 0.0

    @property
    def waiting_share(self) -> float:
        """The part of that time that was spent waiting for data."""
        spent = self.progress.stepping + self.progress.waiting
        return self.progress.waiting / spent if spent else 0.0

    def __str__(self) -> str:
        return f"{self.atoms_per_second:,.0f} atoms/s, {100 * self.waiting_share:.1f} % of the time waiting for data"

    def summary(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "atoms_per_second": float(f"{self.atoms_per_second:.3g}"),
            "waiting_share": round(self.waiting_share, 4),
        }
