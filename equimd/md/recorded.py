"""Recorded frames of one replica: in a file, all or some of them, or in memory; read a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equimd.data.hdf5 import reading
from equimd.data.paths import selected
from equimd.errors import DataError
from equimd.md.trajectory import Columns, Trajectory, read, read_columns

BLOCK = 2000  # frames read at once
UNREADABLE = "the trajectory cannot be read"


@dataclass(frozen=True)
class Recorded:
    """Frames of one replica, in the order of time.

    Attributes:
        columns: what is one number a frame. Times that are not known are NaN.
        source: a file, or what was read from one.
        rows: which of its frames these are.
    """

    columns: Columns
    source: Path | Trajectory
    rows: range

    @classmethod
    def of(cls, source: Path | Trajectory, chosen: slice | None = None) -> Recorded:
        """The frames of a file or of a trajectory in memory; ``chosen`` selects some.

        Raises:
            DataError: a file that is missing, damaged or no trajectory; none of its frames, or an order against time.
        """
        where = str(source) if isinstance(source, Path) else "trajectory"
        if isinstance(source, Path):
            with reading(source, UNREADABLE):
                every = read_columns(source)
        else:
            every = Columns(source.step, source.time, source.observables)
        rows = range(len(every.step)) if chosen is None else selected(chosen, len(every.step), where)
        if rows.step < 0:
            raise DataError("frames against the order of time", where=where, hint="such as @::10")
        part = slice(rows.start, rows.stop, rows.step)
        observables = {name: values[part] for name, values in every.observables.items()}
        return cls(Columns(every.step[part], every.time[part], observables), source, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, frames: slice = slice(None)) -> Trajectory:
        """Some of these frames.

        Raises:
            DataError: the file is damaged.
        """
        rows = self.rows[frames]
        part = slice(rows.start, rows.stop, rows.step) if rows else slice(0, 0)
        if isinstance(self.source, Trajectory):
            return self.source.take(part)
        with reading(self.source, UNREADABLE):
            return read(self.source, part)

    def blocks(self, most: int | None = None, size: int = BLOCK) -> Iterator[Trajectory]:
        """All frames, or at most ``most`` taken evenly, ``size`` at once."""
        stride = 1 if most is None else max(1, -(-len(self) // most))
        for start in range(0, len(self), size * stride):
            yield self.read(slice(start, start + size * stride, stride))


def gathered(
    runs: Sequence[Recorded], values: Callable[[Trajectory], np.ndarray], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a function gives for each frame of some replicas: (T, ...) values and (T,) which run each is of.

    Args:
        values: of a block of frames, (frames, ...).
        most: frames in all, at most; of more, some are taken evenly.
    """
    each = max(1, most // len(runs))
    found = [np.concatenate([values(part) for part in run.blocks(each)]) for run in runs]
    return np.concatenate(found), np.repeat(np.arange(len(runs)), [len(f) for f in found])
